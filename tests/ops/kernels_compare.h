// A result beside what a plain loop in double says, and by how much they may differ.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>

#include "kernels.h"
#include "kernels_buffer.h"
#include "kernels_reference.h"

namespace bptt {

// Each step adds some K + 16 roundings of terms of order one, and hands its error on. In bfloat16 the
// factors are what is rounded: the errors of a sum's terms are of either sign, and its weights of order
// 1 / sqrt(K).
template <class T>
double tolerance(int64_t steps, [[maybe_unused]] int64_t K) {
    if constexpr (sizeof(T) == 2) return 0x1p-8 * 2 * double(steps + 1);
    else return double(std::numeric_limits<T>::epsilon()) * double(steps) * double(K + 16);
}

inline void same(const char* what, int64_t at, double got, double want, double tolerance) {
    if (std::fabs(got - want) <= tolerance * (1 + std::fabs(want))) return;  // false for NaN
    char text[160];
    std::snprintf(text, sizeof text, "%s[%lld] is %.17g, expected %.17g", what, static_cast<long long>(at),
                  got, want);
    fail(text);
}

template <class T>
void same_all(const char* what, const Buffer<T>& got, const Doubles& want, double tolerance) {
    if (!got) return;  // left out
    for (int64_t i = 0; i < int64_t(want.size()); ++i) same(what, i, wide(got[i]), want[i], tolerance);
}

inline const char* const cell_names[] = {"rnn_tanh", "rnn_relu", "gru", "lstm"};

}  // namespace bptt

// What a cell's file includes, and the table it fills in from the cell.
#pragma once

#include "backward.h"
#include "forward.h"
#include "kernels.h"
#include "step.h"

namespace bptt {
namespace BPTT_ISA {

template <class C>
bool takes_input(int64_t B, int64_t I, int64_t H) {
    constexpr int64_t most = 1 << 21;
    // Fewer lanes than this would fetch a weight for each few multiply-adds, step after step.
    return !is_bf16<typename C::T> && B >= 4 &&
           I > 0 && gates_of(C::kind) * H * (H + I) <= most / int64_t(sizeof(typename C::T));
}

template <class C>
size_t workspace(const Problem& p, bool is_backward, int64_t I) {
    Arena arena(nullptr);
    if (is_backward) BackwardPlan<C>(p, I, arena);
    else ForwardPlan<C>(p, I, arena);
    return arena.used();
}

template <class T>
int64_t columns_padded(int64_t N) {
    return panels_of<T>(N) * Tile<T>::NR;
}

template <class T>
void pack_columns(int64_t N, int64_t K, const T* w, T* out) {
    constexpr int64_t NR = Tile<T>::NR;
    for (int64_t j = 0; j < N; j += NR)
        pack_panel<T>(w + j * K, 1, K, K, N - j < NR ? N - j : NR, out + j * K);
}

template <class T>
void row_product(const T* a, int64_t K, const T* packed, int64_t N, T* c) {
    multiply<T>(a, K, 1, packed, panels_of<T>(N), K, c, Tile<T>::NR);
}

template <class C>
Kernels<typename C::T> kernels_of() {
    using T = typename C::T;
    if constexpr (is_bf16<T>)  // a sequence's alone: a step in bfloat16 goes the way of a sequence
        return {forward<C>, backward<C>, packed_size<C>, pack_forward<C>, takes_input<C>, workspace<C>,
                nullptr,    nullptr,     nullptr,        nullptr,         nullptr,        nullptr};
    else
        return {forward<C>,   backward<C>,       packed_size<C>,  pack_forward<C>, takes_input<C>,
                workspace<C>, columns_padded<T>, pack_columns<T>, row_product<T>,  step<C>,
                step_back<C>, step_workspace<C>};
}

// What a cell's file compiles: with the instructions for bfloat16 that alone, the rest lies beside it.
#if defined(__AVX512BF16__)
#define BPTT_COMPILE(make) template Kernels<bf16> make<bf16>();
#else
#define BPTT_COMPILE(make)                 \
    template Kernels<float> make<float>(); \
    template Kernels<double> make<double>(); \
    template Kernels<bf16> make<bf16>();
#endif

}  // namespace BPTT_ISA
}  // namespace bptt

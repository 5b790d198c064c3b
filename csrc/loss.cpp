// Softmax and cross-entropy of rows of logits, and the gradient beside it. A row is gone over while it lies
// in the first cache, so memory is read once and written once.
#include <cmath>

#include "lanes.h"

namespace bptt {
namespace BPTT_ISA {

namespace {

constexpr int L = Simd<float>::L;

// The lanes of a vector folded in halves.
template <class F>
BPTT_INLINE float fold(Vec<float> v, F&& both) {
    float part[L];
    __builtin_memcpy(part, &v, sizeof part);
    BPTT_UNROLL
    for (int half = L / 2; half > 0; half /= 2)
        BPTT_UNROLL
        for (int i = 0; i < half; ++i) part[i] = both(part[i], part[i + half]);
    return part[0];
}

// A logit that is NaN or +inf makes the sum NaN, and with it the loss and the row's gradient, as in torch.
double row(const float* x, int64_t V, int64_t target, float scale, float* dx) {
    float highest = x[0];
    Vec<float> high = splat(highest);
    int64_t j = 0;
    for (; j + L <= V; j += L) high = at_least(high, load(x + j));
    highest = fold(high, [](float a, float b) { return a < b ? b : a; });
    for (; j < V; ++j) highest = highest < x[j] ? x[j] : highest;

    const Vec<float> limit = splat(Simd<float>::largest), top = splat(highest);
    Vec<float> sums{};
    Bits lane;
    for (int i = 0; i < L; ++i) lane[i] = uint32_t(i);
    by_vector<float>(V, [&](int64_t at, auto part) {
        Vec<float> s, p;
        reduce_exp<float>(at_least(at_most(load(x + at, part) - top, limit), -limit), s, p);
        const Vec<float> e = s * p + s;
        const int64_t left = V - at;
        if (left >= L) sums += e;
        else sums += lane < uint32_t(left) ? e : Vec<float>{};
        if (dx) store(dx + at, e, part);
    });
    const float sum = fold(sums, [](float a, float b) { return a + b; });
    if (dx) {
        const float each = scale / sum;
        by_vector<float>(V, [&](int64_t at, auto part) { store(dx + at, load(dx + at, part) * each, part); });
        dx[target] -= scale;
    }
    return std::log(double(sum)) + (double(highest) - double(x[target]));
}

}  // namespace

void cross_entropy(const float* x, int64_t rows, int64_t V, const int64_t* target, int64_t ignored, float scale,
                   float* dx, double* nats, int threads) {
    if (rows * V < smallest_parallel / 4) threads = 1;
    if (rows < threads) threads = int(rows);
    parallel(threads, threads, [&](int i, int) {
        for (int64_t r = rows * i / threads; r < rows * (i + 1) / threads; ++r) {
            float* to = dx ? dx + r * V : nullptr;
            if (target[r] != ignored) {
                nats[r] = row(x + r * V, V, target[r], scale, to);
            } else {
                nats[r] = 0;
                if (to) copy_or_zero<float>(to, nullptr, V);
            }
        }
    });
}

}  // namespace BPTT_ISA
}  // namespace bptt

// Which lanes stand in which piece of the work, and in which order.
//
// A thread takes a piece's lanes through all time steps without waiting for another. With lengths, lanes
// are ordered longest first, so that the live ones are always the first few, and dealt out in turn,
// so that pieces are equal work.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace bptt {
namespace BPTT_ISA {

// Hands out aligned pieces of the caller's workspace. Run over address 0 it only counts.
class Arena {
public:
    explicit Arena(void* base) : next_(align(reinterpret_cast<uintptr_t>(base))) {}
    template <class T>
    T* take(int64_t n) {
        const uintptr_t at = next_;
        next_ = align(next_ + uintptr_t(n) * sizeof(T));
        return reinterpret_cast<T*>(at);
    }
    // Bytes to ask of a caller whose memory may start anywhere.
    size_t used() const { return next_ + 64; }

private:
    static uintptr_t align(uintptr_t p) { return (p + 63) & ~uintptr_t(63); }
    uintptr_t next_;
};

// body(piece, thread) for each of the pieces, whichever thread takes it.
template <class F>
BPTT_INLINE void parallel(int threads, int pieces, const F& body) {
    if (threads <= 1) {
        for (int i = 0; i < pieces; ++i) body(i, 0);
        return;
    }
    share_out(threads, pieces,
              [](const void* with, int piece, int thread) { (*static_cast<const F*>(with))(piece, thread); }, &body);
}

// Waking a second thread costs some microseconds; below this many multiply-adds it does not pay.
constexpr int64_t smallest_parallel = 200000;

inline int threads_for(const Problem& p, int64_t gates) {
    const int64_t work = p.T * p.B * p.H * gates * (p.H + 32);
    if (p.threads <= 1 || work < smallest_parallel) return 1;
    return int64_t(p.threads) < p.B ? p.threads : int(p.B);
}

// Into how many pieces lanes are dealt out: some for each thread, so that one that is held up leaves its own to
// the others. But so many lanes that a panel is worth its way from the second cache, and so many steps that
// the sums of weights' gradients, which each piece has for itself, take little of its time. It follows from
// the sizes and the number of threads alone, and with it every sum's order.
inline int pieces_for(const Problem& p, int threads) {
    constexpr int64_t most = 4, lanes = 16, rows = 512;
    if (threads <= 1) return 1;
    int64_t each = p.B / lanes < p.T * p.B / rows ? p.B / lanes : p.T * p.B / rows;
    each /= threads;
    return threads * int(each < 1 ? 1 : each > most ? most : each);
}

// The lanes of one piece.
struct Slice {
    const int64_t* lane;  // longest first
    int64_t count;
};

inline int64_t slice_size(int64_t B, int n, int i) { return (B - i + n - 1) / n; }

inline int64_t* order_buffer(Arena& arena, const Problem& p) {
    return arena.take<int64_t>(p.B + (p.lengths ? p.T + 2 + p.B : 0));
}

// Fills `order` so that slice i of n starts where the sizes of those before it end.
inline void order_lanes(const Problem& p, int n, int64_t* order) {
    if (!p.lengths) {
        for (int64_t b = 0; b < p.B; ++b) order[b] = b;
        return;
    }
    // Counting sort by length, longest first; equal lengths stay in order.
    int64_t* first = order + p.B;
    int64_t* sorted = first + p.T + 2;
    for (int64_t t = 0; t <= p.T + 1; ++t) first[t] = 0;
    for (int64_t b = 0; b < p.B; ++b) ++first[p.T - p.lengths[b] + 1];
    for (int64_t t = 1; t <= p.T + 1; ++t) first[t] += first[t - 1];
    for (int64_t b = 0; b < p.B; ++b) sorted[first[p.T - p.lengths[b]]++] = b;
    int64_t at = 0;
    for (int i = 0; i < n; ++i)
        for (int64_t k = i; k < p.B; k += n) order[at++] = sorted[k];
}

inline Slice slice_of(const Problem& p, int n, int i, const int64_t* order) {
    int64_t start = 0;
    for (int k = 0; k < i; ++k) start += slice_size(p.B, n, k);
    return {order + start, slice_size(p.B, n, i)};
}

// Lanes of the slice that still run at step t; `hint` is the answer for a neighbouring step.
inline int64_t live_at(const Problem& p, const Slice& s, int64_t t, int64_t hint) {
    if (!p.lengths) return s.count;
    while (hint > 0 && p.lengths[s.lane[hint - 1]] <= t) --hint;
    while (hint < s.count && p.lengths[s.lane[hint]] > t) ++hint;
    return hint;
}

// Elements between the rows of a private buffer of n columns: whole panels, and off the powers of
// two, where the rows of a tile would all fall into the same cache set.
template <class T>
BPTT_INLINE int64_t padded(int64_t n) {
    constexpr int64_t line = 64 / sizeof(T);
    const int64_t whole = (n + 2 * line - 1) / (2 * line) * (2 * line);
    return whole % (8 * line) == 0 ? whole + line : whole;
}

// Runs body(j, part) over [0, n) in vectors, the last one partial.
template <class T, class F>
BPTT_INLINE void by_vector(int64_t n, F&& body) {
    constexpr int64_t L = Simd<T>::L;
    int64_t j = 0;
    for (; j + L <= n; j += L) body(j, Whole{});
    if (j < n) body(j, Part{int(n - j)});
}

// n floats in bfloat16; zeros for null.
inline void round_or_zero(bf16* to, const float* from, int64_t n) {
    if (!from) __builtin_memset(to, 0, size_t(n) * sizeof(bf16));
    else by_vector<float>(n, [&](int64_t j, auto part) { store(to + j, load(from + j, part), part); });
}

template <class T>
BPTT_INLINE void copy(T* to, const T* from, int64_t n) {
    __builtin_memcpy(to, from, size_t(n) * sizeof(T));
}

template <class T>
BPTT_INLINE void copy_or_zero(T* to, const T* from, int64_t n) {
    if (from) copy(to, from, n);
    else __builtin_memset(to, 0, size_t(n) * sizeof(T));
}

}  // namespace BPTT_ISA
}  // namespace bptt

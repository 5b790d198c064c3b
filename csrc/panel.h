// The matrix product all cells share: C = A * W, with W packed once per call.
//
// W (K rows, N columns) is stored as panels of NR columns, each K * NR contiguous elements, so
// that one panel (or a block of KC of its rows) stays in L1 while every lane of the thread passes
// over it. A tile of R lanes by NR columns is accumulated in registers.
//
// In bfloat16, A and W hold two elements of k in a unit of 32 bits, and one instruction multiplies both
// and adds them to a sum in float.
//
// Every element of C is summed in the order of k, whatever R, P or the blocking: a result does
// not depend on how lanes are split over tiles and threads. The gradients of weights alone are sums
// of blocks.
#pragma once

#include "simd.h"

namespace bptt {
namespace BPTT_ISA {

// What the factors of the product are made of.
template <class T>
struct Factor {
    using Unit = T;
    using Wide = Vec<T>;
    static constexpr int each = 1;  // elements of k
    static BPTT_INLINE Wide read(const Unit* p) { return load(p); }
    static BPTT_INLINE Wide spread(Unit x) { return splat(x); }
    static BPTT_INLINE void multiply_add(Vec<T>& sum, Wide x, Wide w) { sum += x * w; }
};

template <>
struct Factor<bf16> {
    typedef uint32_t Unit __attribute__((may_alias));  // k below, k + 1 above
    using Wide = Bits;
    static constexpr int each = 2;
    static BPTT_INLINE Wide read(const Unit* p) {
        Wide w;
        __builtin_memcpy(&w, p, sizeof w);
        return w;
    }
    static BPTT_INLINE Wide spread(Unit x) { return Wide{} + uint32_t(x); }
    // A product of two bfloat16 is exact in float, so what is rounded are two sums.
    static BPTT_INLINE void multiply_add(Vec<float>& sum, Wide x, Wide w) {
#if defined(__AVX512BF16__)
        sum = (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
#else
        sum += (Vec<float>)(x & 0xffff0000u) * (Vec<float>)(w & 0xffff0000u);
        sum += (Vec<float>)(x << 16) * (Vec<float>)(w << 16);
#endif
    }
};

template <class T>
using Unit = typename Factor<T>::Unit;

// Units that hold K elements; the last may be half empty, and then a zero fills it.
template <class T>
BPTT_INLINE int64_t units_of(int64_t K) {
    return (K + Factor<T>::each - 1) / Factor<T>::each;
}

template <class T>
struct Tile {
    static constexpr int L = Simd<T>::L;
    static constexpr int NR = 2 * L;
#if defined(__AVX512F__) || defined(__aarch64__)
    static constexpr int MR = 12;  // 24 accumulators of 32 registers
#else
    static constexpr int MR = 6;  // 12 accumulators of 16 registers
#endif
    // Rows of a panel that stay in L1 beside the lanes that stream past: 16 KiB.
    static constexpr int64_t KC = 16384 / (NR * int64_t(sizeof(Unit<T>)));
};

template <class T>
BPTT_INLINE int64_t panels_of(int64_t n) {
    return (n + Tile<T>::NR - 1) / Tile<T>::NR;
}

// Whether at most half of the last of n columns' panels is taken.
template <class T>
BPTT_INLINE bool ends_narrow(int64_t n) {
    const int64_t rest = n % Tile<T>::NR;
    return rest > 0 && rest <= Tile<T>::L;
}

// A panel of columns that lie as rows of K elements each, at any place; null for one of zeros.
template <class T>
void pack_rows(const T* const* column, int64_t K, T* out) {
    constexpr int NR = Tile<T>::NR, L = Tile<T>::L;
    int64_t k = 0;
    for (; k + L <= K; k += L)
        for (int c = 0; c < NR; c += L) {
            Vec<T> v[L];
            BPTT_UNROLL
            for (int i = 0; i < L; ++i) v[i] = column[c + i] ? load(column[c + i] + k) : Vec<T>{};
            transpose<T>(v);
            BPTT_UNROLL
            for (int i = 0; i < L; ++i) store(out + (k + i) * NR + c, v[i]);
        }
    for (; k < K; ++k)
        for (int c = 0; c < NR; ++c) out[k * NR + c] = column[c] ? column[c][k] : T(0);
}

// Into units of bfloat16: k counts elements of a column and pairs of them in out.
inline void pack_rows(const float* const* column, int64_t K, Unit<bf16>* out) {
    constexpr int NR = Tile<bf16>::NR, L = Tile<bf16>::L;
    for (int c = 0; c < NR; ++c)
        for (int64_t k = 0; k < K; k += L) {
            const int64_t n = K - k < L ? K - k : L;
            const Halves halves = narrow(column[c] ? load(column[c] + k, Part{int(n)}) : Vec<float>{});
            Unit<bf16> pairs[L / 2];
            __builtin_memcpy(pairs, &halves, sizeof halves);
            for (int64_t i = 0; i < (n + 1) / 2; ++i) out[(k / 2 + i) * NR + c] = pairs[i];
        }
}

// Columns [0, n) of W, element (k, c) at w[k * sk + c * sn]; missing columns become zeros.
template <class T>
void pack_panel(const Real<T>* w, int64_t sk, int64_t sn, int64_t K, int64_t n, Unit<T>* out) {
    constexpr int NR = Tile<T>::NR, L = Tile<T>::L;
    if (sk == 1) {
        const Real<T>* column[NR];
        for (int c = 0; c < NR; ++c) column[c] = c < n ? w + c * sn : nullptr;
        return pack_rows(column, K, out);
    }
    int64_t k = 0;
    if constexpr (is_bf16<T>) {
        for (; n == NR && sn == 1 && k + 2 <= K; k += 2)
            for (int i = 0; i < 2; ++i) {
                const Bits low = __builtin_convertvector(narrow(load(w + k * sk + i * L)), Bits);
                const Bits high = __builtin_convertvector(narrow(load(w + (k + 1) * sk + i * L)), Bits);
                const Bits both = low | (high << 16);
                __builtin_memcpy(out + k / 2 * NR + i * L, &both, sizeof both);
            }
        for (; k < K; k += 2)
            for (int64_t c = 0; c < NR; ++c) {
                Vec<float> pair{};
                for (int i = 0; i < 2; ++i)
                    if (c < n && k + i < K) pair[i] = w[(k + i) * sk + c * sn];
                const Halves both = narrow(pair);
                out[k / 2 * NR + c] = uint32_t(both[0]) | uint32_t(both[1]) << 16;
            }
    } else {
        if (sn != 1) {
            for (; k < K; ++k)
                for (int64_t c = 0; c < NR; ++c) out[k * NR + c] = c < n ? w[k * sk + c * sn] : T(0);
        } else if (n == NR) {
            for (; k < K; ++k) __builtin_memcpy(out + k * NR, w + k * sk, NR * sizeof(T));
        } else {
            const Part first{int(n < L ? n : L)}, second{int(n < L ? 0 : n - L)};
            for (; k < K; ++k) {
                store(out + k * NR, load(w + k * sk, first));
                store(out + k * NR + L, second.n ? load(w + k * sk + L, second) : Vec<T>{});
            }
        }
    }
}

// c[p][r][:] (+)= sum_k a[r][k] * panel[p][k][:]; with Across the left factor lies the other way, a[k][r].
// W is how many vectors of a panel's two are wanted.
template <class T, int R, int P, bool Across = false, int W = 2>
BPTT_INLINE void tile(const Unit<T>* a, int64_t lda, const Unit<T>* panel, int64_t panel_stride, int64_t K,
                      Real<T>* c, int64_t c_stride, bool add, const Unit<T>* next) {
    using F = Factor<T>;
    constexpr int L = Tile<T>::L, NR = Tile<T>::NR;
    Vec<T> acc[P][R][W];
    BPTT_UNROLL
    for (int p = 0; p < P; ++p)
        BPTT_UNROLL
        for (int r = 0; r < R; ++r)
            BPTT_UNROLL
            for (int i = 0; i < W; ++i)
                acc[p][r][i] = add && !Across ? load(c + p * c_stride + r * NR + i * L) : Vec<T>{};
    for (int64_t k = 0; k < K; ++k) {
        typename F::Wide w[P][W];
        // As much of the panel that comes after this one, from the second cache or beyond.
        BPTT_UNROLL
        for (int64_t i = 0; i < NR; i += 64 / int64_t(sizeof(*next))) __builtin_prefetch(next + k * NR + i);
        BPTT_UNROLL
        for (int p = 0; p < P; ++p)
            BPTT_UNROLL
            for (int i = 0; i < W; ++i) w[p][i] = F::read(panel + p * panel_stride + k * NR + i * L);
        BPTT_UNROLL
        for (int r = 0; r < R; ++r) {
            const typename F::Wide x = F::spread(Across ? a[k * lda + r] : a[r * lda + k]);
            BPTT_UNROLL
            for (int p = 0; p < P; ++p)
                BPTT_UNROLL
                for (int i = 0; i < W; ++i) F::multiply_add(acc[p][r][i], x, w[p][i]);
        }
    }
    BPTT_UNROLL
    for (int p = 0; p < P; ++p)
        BPTT_UNROLL
        for (int r = 0; r < R; ++r)
            BPTT_UNROLL
            for (int i = 0; i < W; ++i) {
                // Sums over all steps are long. As sums of short ones their errors are those of both.
                Real<T>* const to = c + p * c_stride + r * NR + i * L;
                store(to, add && Across ? load(to) + acc[p][r][i] : acc[p][r][i]);
            }
}

// Chooses the instance for `rows` lanes (1 .. MR) at run time.
template <class T, int P, bool Across = false, int W = 2, int R = Tile<T>::MR>
BPTT_INLINE void tile_rows(int64_t rows, const Unit<T>* a, int64_t lda, const Unit<T>* panel,
                           int64_t panel_stride, int64_t K, Real<T>* c, int64_t c_stride, bool add,
                           const Unit<T>* next) {
    if constexpr (R > 1) {
        if (rows < R) {
            tile_rows<T, P, Across, W, R - 1>(rows, a, lda, panel, panel_stride, K, c, c_stride, add, next);
            return;
        }
    }
    tile<T, R, P, Across, W>(a, lda, panel, panel_stride, K, c, c_stride, add, next);
}

// c[p][r][:] = sum_k a[r][k] * panel[p][k][:] for `panels` panels one after the other; with `more`, added to
// what stands in c. c has c_stride elements between panels and NR between lanes; lda and K count units. Of a
// `narrow` last panel the first half of the columns is made, and no more.
template <class T>
__attribute__((noinline)) void multiply(const Unit<T>* a, int64_t lda, int64_t rows, const Unit<T>* packed,
                                        int64_t panels, int64_t K, Real<T>* c, int64_t c_stride,
                                        bool more = false, bool narrow = false) {
    constexpr int MR = Tile<T>::MR, NR = Tile<T>::NR;
    const int64_t panel_stride = K * NR, whole = panels - narrow;
    for (int64_t k = 0; k < K; k += Tile<T>::KC) {
        const int64_t depth = K - k < Tile<T>::KC ? K - k : Tile<T>::KC;
        const Unit<T>* w = packed + k * NR;
        int64_t p = 0;
        // One to three lanes fill too few registers to hide the latency of the multiply-add:
        // take several panels at a time.
        if (rows == 1)
            for (; p + 4 <= whole; p += 4)
                tile<T, 1, 4>(a + k, lda, w + p * panel_stride, panel_stride, depth,
                              c + p * c_stride, c_stride, more || k > 0, w + p * panel_stride);
        if (rows <= 3)
            for (; p + 2 <= whole; p += 2)
                tile_rows<T, 2, false, 2, 3>(rows, a + k, lda, w + p * panel_stride, panel_stride, depth,
                                   c + p * c_stride, c_stride, more || k > 0, w + p * panel_stride);
        for (; p < panels; ++p) {
            const int64_t tiles = (rows + MR - 1) / MR;
            const Unit<T>* const now = w + p * panel_stride;
            const Unit<T>* const next = p + 1 < panels ? now + panel_stride : packed + (k + depth) * NR;
            for (int64_t i = 0; i < tiles; ++i) {
                const int64_t r = rows * i / tiles, end = rows * (i + 1) / tiles;
                Real<T>* const to = c + p * c_stride + r * NR;
                if (p < whole)
                    tile_rows<T, 1>(end - r, a + r * lda + k, lda, now, 0, depth, to, 0, more || k > 0,
                                    i ? now : next);
                else
                    tile_rows<T, 1, false, 1>(end - r, a + r * lda + k, lda, now, 0, depth, to, 0, more || k > 0,
                                              i ? now : next);
            }
        }
    }
}

// c[m][:] += sum_k a[k][m] * panel[k][:] for M columns of a and K of its rows, lda apart: a share of the
// gradient of a weight. W as tile's.
template <class T, int W = 2>
__attribute__((noinline)) void add_outer(const T* a, int64_t lda, int64_t M, const T* panel, int64_t K, T* c) {
    constexpr int MR = Tile<T>::MR, NR = Tile<T>::NR;
    const int64_t tiles = (M + MR - 1) / MR;
    for (int64_t k = 0; k < K; k += Tile<T>::KC) {
        const int64_t depth = K - k < Tile<T>::KC ? K - k : Tile<T>::KC;
        for (int64_t i = 0; i < tiles; ++i) {
            const int64_t m = M * i / tiles, end = M * (i + 1) / tiles;
            tile_rows<T, 1, true, W>(end - m, a + k * lda + m, lda, panel + k * NR, 0, depth, c + m * NR, 0, true,
                                     panel + k * NR);
        }
    }
}

// How many blocks of hidden units to take at once, so that few lanes still fill four panels.
inline int64_t blocks_at_once(int64_t live) { return live < 4 ? 4 : 1; }

// Elements of the product of one gate, for at most `lanes` live lanes.
template <class T>
int64_t product_size(int64_t lanes) {
    return Tile<T>::NR * (lanes < 12 ? 12 : lanes);
}

}  // namespace BPTT_ISA
}  // namespace bptt

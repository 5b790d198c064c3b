// The matrix product all cells share: C = A * W, with W packed once per call.
//
// W (K rows, N columns) is stored as panels of NR columns, each K * NR contiguous elements, so
// that one panel (or a block of KC of its rows) stays in L1 while every lane of the thread passes
// over it. A tile of R lanes by NR columns is accumulated in registers.
//
// Every element of C is summed in the order of k, whatever R, P or the blocking: a result does
// not depend on how lanes are split over tiles and threads.
#pragma once

#include "simd.h"

namespace bptt {
namespace BPTT_ISA {

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
    static constexpr int64_t KC = 16384 / (NR * int64_t(sizeof(T)));
};

template <class T>
BPTT_INLINE int64_t panels_of(int64_t n) {
    return (n + Tile<T>::NR - 1) / Tile<T>::NR;
}

// Columns [0, n) of W, element (k, c) at w[k * sk + c * sn]; missing columns become zeros.
template <class T>
void pack_panel(const T* w, int64_t sk, int64_t sn, int64_t K, int64_t n, T* out) {
    constexpr int NR = Tile<T>::NR;
    constexpr int64_t line = 64 / sizeof(T);
    int64_t k = 0;
    if (n == NR && sn == 1) {
        for (; k < K; ++k) __builtin_memcpy(out + k * NR, w + k * sk, NR * sizeof(T));
    } else if (n == NR && sk == 1) {
        constexpr int L = Tile<T>::L;
        for (; k + L <= K; k += L)
            for (int c = 0; c < NR; c += L) {
                Vec<T> v[L];
                BPTT_UNROLL
                for (int i = 0; i < L; ++i) v[i] = load(w + k + (c + i) * sn);
                transpose<T>(v);
                BPTT_UNROLL
                for (int i = 0; i < L; ++i) store(out + (k + i) * NR + c, v[i]);
            }
    } else if (n == NR) {
        // A cache line of each column at a time, so that the lines read and written stay in L1.
        for (; k + line <= K; k += line)
            for (int c = 0; c < NR; ++c) {
                const T* column = w + k * sk + c * sn;
                BPTT_UNROLL
                for (int64_t i = 0; i < line; ++i) out[(k + i) * NR + c] = column[i * sk];
            }
    }
    for (; k < K; ++k)
        for (int64_t c = 0; c < NR; ++c) out[k * NR + c] = c < n ? w[k * sk + c * sn] : T(0);
}

// c[p][r][:] (+)= sum_k a[r][k] * panel[p][k][:]
template <class T, int R, int P>
BPTT_INLINE void tile(const T* a, int64_t lda, const T* panel, int64_t panel_stride, int64_t K,
                      T* c, int64_t c_stride, bool add) {
    constexpr int L = Tile<T>::L, NR = Tile<T>::NR;
    Vec<T> acc[P][R][2];
    BPTT_UNROLL
    for (int p = 0; p < P; ++p)
        BPTT_UNROLL
        for (int r = 0; r < R; ++r)
            BPTT_UNROLL
            for (int i = 0; i < 2; ++i)
                acc[p][r][i] = add ? load(c + p * c_stride + r * NR + i * L) : Vec<T>{};
    for (int64_t k = 0; k < K; ++k) {
        Vec<T> w[P][2];
        BPTT_UNROLL
        for (int p = 0; p < P; ++p) {
            w[p][0] = load(panel + p * panel_stride + k * NR);
            w[p][1] = load(panel + p * panel_stride + k * NR + L);
        }
        BPTT_UNROLL
        for (int r = 0; r < R; ++r) {
            const Vec<T> x = splat(a[r * lda + k]);
            BPTT_UNROLL
            for (int p = 0; p < P; ++p) {
                acc[p][r][0] += x * w[p][0];
                acc[p][r][1] += x * w[p][1];
            }
        }
    }
    BPTT_UNROLL
    for (int p = 0; p < P; ++p)
        BPTT_UNROLL
        for (int r = 0; r < R; ++r)
            BPTT_UNROLL
            for (int i = 0; i < 2; ++i) store(c + p * c_stride + r * NR + i * L, acc[p][r][i]);
}

// Chooses the instance for `rows` lanes (1 .. MR) at run time.
template <class T, int P, int R = Tile<T>::MR>
BPTT_INLINE void tile_rows(int64_t rows, const T* a, int64_t lda, const T* panel,
                           int64_t panel_stride, int64_t K, T* c, int64_t c_stride, bool add) {
    if constexpr (R > 1) {
        if (rows < R) {
            tile_rows<T, P, R - 1>(rows, a, lda, panel, panel_stride, K, c, c_stride, add);
            return;
        }
    }
    tile<T, R, P>(a, lda, panel, panel_stride, K, c, c_stride, add);
}

// c[p][r][:] = sum_k a[r][k] * panel[p][k][:] for `panels` panels one after the other.
// c has c_stride elements between panels and NR between lanes.
template <class T>
__attribute__((noinline)) void multiply(const T* a, int64_t lda, int64_t rows, const T* packed,
                                        int64_t panels, int64_t K, T* c, int64_t c_stride) {
    constexpr int MR = Tile<T>::MR, NR = Tile<T>::NR;
    const int64_t panel_stride = K * NR;
    for (int64_t k = 0; k < K; k += Tile<T>::KC) {
        const int64_t depth = K - k < Tile<T>::KC ? K - k : Tile<T>::KC;
        const T* w = packed + k * NR;
        int64_t p = 0;
        // One to three lanes fill too few registers to hide the latency of the multiply-add:
        // take several panels at a time.
        if (rows == 1)
            for (; p + 4 <= panels; p += 4)
                tile<T, 1, 4>(a + k, lda, w + p * panel_stride, panel_stride, depth,
                              c + p * c_stride, c_stride, k > 0);
        if (rows <= 3)
            for (; p + 2 <= panels; p += 2)
                tile_rows<T, 2, 3>(rows, a + k, lda, w + p * panel_stride, panel_stride, depth,
                                   c + p * c_stride, c_stride, k > 0);
        for (; p < panels; ++p) {
            const int64_t tiles = (rows + MR - 1) / MR;
            for (int64_t i = 0; i < tiles; ++i) {
                const int64_t r = rows * i / tiles, end = rows * (i + 1) / tiles;
                tile_rows<T, 1>(end - r, a + r * lda + k, lda, w + p * panel_stride, 0, depth,
                                c + p * c_stride + r * NR, 0, k > 0);
            }
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

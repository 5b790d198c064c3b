// One time step of a layer, straight on the weights as torch holds them.
//
// A sequence copies W_hh into panels once and reads them at every step. For a single step that copy
// would cost several times the product: here a product takes rows of the weight as they lie, and sums
// along them. Few lanes go row by row (`dots`); many lanes share a panel that is made, used and
// forgotten in L1.
//
// Every element is summed in an order that depends on the sizes alone: not on how many threads there
// are, nor on which lanes stand beside it but for the number of lanes.
//
// For float and double: a step in bfloat16 goes the way of a sequence.
#pragma once

#include "backward.h"
#include "forward.h"

namespace bptt {
namespace BPTT_ISA {

// Sums of products of rows r < n of w (K elements each) with a: element r of the result.
template <bool All, class T>
BPTT_INLINE Vec<T> dots(const T* w, int64_t K, int64_t n, const T* a) {
    constexpr int L = Simd<T>::L;
    Vec<T> sum[L];
    BPTT_UNROLL
    for (int r = 0; r < L; ++r) sum[r] = Vec<T>{};
    const auto add = [&](int64_t k, auto part) {
        const Vec<T> v = load(a + k, part);
        BPTT_UNROLL
        for (int r = 0; r < L; ++r) sum[r] += load(w + (All || r < n ? r : n - 1) * K + k, part) * v;
    };
    int64_t k = 0;
    for (; k + L <= K; k += L) add(k, Whole{});
    if (k < K) add(k, Part{int(K - k)});
    return sums<T>(sum);
}

// Lanes that share a row of w as it passes by: each loaded vector is multiplied by as many.
template <class T>
constexpr int together = Simd<T>::L < 4 ? Simd<T>::L : 4;

// Sums of products of L / together rows of w with that many rows of a, lda apart: out[lane][row], NR apart.
template <class T>
BPTT_INLINE void dots_together(const T* w, int64_t K, const T* a, int64_t lda, T* out) {
    constexpr int L = Simd<T>::L, Q = together<T>, R = L / Q;
    Vec<T> sum[L];
    BPTT_UNROLL
    for (int i = 0; i < L; ++i) sum[i] = Vec<T>{};
    const auto add = [&](int64_t k, auto part) {
        Vec<T> v[Q];
        BPTT_UNROLL
        for (int q = 0; q < Q; ++q) v[q] = load(a + q * lda + k, part);
        BPTT_UNROLL
        for (int r = 0; r < R; ++r) {
            const Vec<T> row = load(w + r * K + k, part);
            BPTT_UNROLL
            for (int q = 0; q < Q; ++q) sum[q * R + r] += row * v[q];
        }
    };
    int64_t k = 0;
    for (; k + L <= K; k += L) add(k, Whole{});
    if (k < K) add(k, Part{int(K - k)});
    T all[L];
    store(all, sums<T>(sum));
    for (int q = 0; q < Q; ++q) copy(out + q * Tile<T>::NR, all + q * R, R);
}

// Elements of the room for one panel of a matrix with K columns.
template <class T>
int64_t panel_size(int64_t K) {
    return Tile<T>::NR * K;
}

// out[lane][0 .. NR) = rows [0, n) of w (K elements each) times the lane's row of a; n <= NR.
template <class T>
void rows_product(const T* w, int64_t K, int64_t n, const T* a, int64_t lda, int64_t lanes, T* out, T* panel) {
    constexpr int L = Simd<T>::L, NR = Tile<T>::NR;
    // A panel costs what some lanes' sums over its rows cost; short rows are mostly such sums.
    if (lanes >= 24 || (lanes >= 4 && K <= 2 * L)) {
        pack_panel<T>(w, 1, K, K, n, panel);
        multiply<T>(a, lda, lanes, panel, 1, K, out, 0);
        return;
    }
    for (int i = 0; i < NR; i += L) {
        const int64_t rows = n - i < L ? n - i : L;
        int64_t r = 0;
        for (; rows == L && r + together<T> <= lanes; r += together<T>)
            for (int j = 0; j < L; j += L / together<T>)
                dots_together<T>(w + (i + j) * K, K, a + r * lda, lda, out + r * NR + i + j);
        for (; r < lanes; ++r) {
            Vec<T> v{};
            if (rows == L) v = dots<true>(w + i * K, K, rows, a + r * lda);
            else if (rows > 0) v = dots<false>(w + i * K, K, rows, a + r * lda);
            store(out + r * NR + i, v);
        }
    }
}

// out[m][j] (+)= sum over k < Q of c[m * cm + k * ck] w[k][j], for m < R and all of n columns.
template <class T, int R, int Q>
BPTT_INLINE void add_rows(const T* c, int64_t cm, int64_t ck, const T* w, int64_t ldw, int64_t n, T* out,
                          bool add) {
    Vec<T> by[R][Q];
    BPTT_UNROLL
    for (int m = 0; m < R; ++m)
        BPTT_UNROLL
        for (int k = 0; k < Q; ++k) by[m][k] = splat(c[m * cm + k * ck]);
    by_vector<T>(n, [&](int64_t j, auto part) {
        Vec<T> row[Q];
        BPTT_UNROLL
        for (int k = 0; k < Q; ++k) row[k] = load(w + k * ldw + j, part);
        BPTT_UNROLL
        for (int m = 0; m < R; ++m) {
            Vec<T> sum = add ? load(out + m * n + j, part) : Vec<T>{};
            BPTT_UNROLL
            for (int k = 0; k < Q; ++k) sum += by[m][k] * row[k];
            store(out + m * n + j, sum, part);
        }
    });
}

// out (M, n) (+)= c times w: c (M, K) has strides cm and ck, rows of w are ldw apart. The larger of out
// and w passes by once.
template <class T>
void thin_product(int64_t M, int64_t K, int64_t n, const T* c, int64_t cm, int64_t ck, const T* w, int64_t ldw,
                  T* out, bool add) {
    constexpr int R = Tile<T>::MR == 12 ? 4 : 2, Q = 4;
    const auto block = [&](int64_t m, int64_t k) {
        const int64_t rows = M - m < R ? M - m : R, depth = K - k < Q ? K - k : Q;
        for (int64_t i = 0; i < rows; i += rows == R ? R : 1)
            for (int64_t q = 0; q < depth; q += depth == Q ? Q : 1) {
                const T *c0 = c + (m + i) * cm + (k + q) * ck, *w0 = w + (k + q) * ldw;
                T* to = out + (m + i) * n;
                const bool more = add || k + q > 0;
                if (rows == R && depth == Q) add_rows<T, R, Q>(c0, cm, ck, w0, ldw, n, to, more);
                else if (rows == R) add_rows<T, R, 1>(c0, cm, ck, w0, ldw, n, to, more);
                else if (depth == Q) add_rows<T, 1, Q>(c0, cm, ck, w0, ldw, n, to, more);
                else add_rows<T, 1, 1>(c0, cm, ck, w0, ldw, n, to, more);
            }
    };
    if (M < K)
        for (int64_t k = 0; k < K; k += Q)
            for (int64_t m = 0; m < M; m += R) block(m, k);
    else
        for (int64_t m = 0; m < M; m += R)
            for (int64_t k = 0; k < K; k += Q) block(m, k);
}

template <class T>
void lane_sum(const T* a, int64_t lda, int64_t n, int64_t lanes, T* out) {
    by_vector<T>(n, [&](int64_t j, auto part) {
        Vec<T> sum{};
        for (int64_t r = 0; r < lanes; ++r) sum += load(a + r * lda + j, part);
        store(out + j, sum, part);
    });
}

inline Problem one_step(int64_t B, int64_t H) {
    return {1, B, H, B, 1, nullptr, nullptr, nullptr, false, 1};
}

template <class C>
struct StepPlan {
    using T = typename C::T;
    int64_t ld, ldx, product, panel;
    int threads;
    int64_t* order;
    T *state, *next, *cell, *xp, *bias, *buffers;

    StepPlan(int64_t B, int64_t I, int64_t H, int most, Arena& arena) : ld(padded<T>(H)) {
        constexpr int64_t G = gates_of(C::kind), NR = Tile<T>::NR;
        const int64_t blocks = panels_of<T>(H), work = B * G * H * (H + I);
        threads = work < 8 * smallest_parallel ? 1 : int(int64_t(most) < blocks ? most : blocks);
        ldx = G * H;
        product = padded<T>((G + 1) * product_size<T>(B));
        panel = padded<T>(panel_size<T>(H > I ? H : I) + NR);
        order = arena.take<int64_t>(B);
        state = arena.take<T>(B * ld);
        next = arena.take<T>(B * ld);
        cell = arena.take<T>(C::kind == Cell::lstm ? B * ld : 0);
        xp = arena.take<T>(B * ldx + NR);
        bias = arena.take<T>(4 * ld);
        buffers = arena.take<T>((product + panel) * threads);
    }
};

template <class C>
void step(int64_t B, int64_t H, int threads, const Step<typename C::T>& f) {
    using T = typename C::T;
    constexpr int64_t G = gates_of(C::kind), NR = Tile<T>::NR;
    Arena arena(f.work);
    const StepPlan<C> plan(B, f.I, H, threads, arena);
    const Problem p = one_step(B, H);
    Forward<T> row{};
    row.xp = plan.xp;
    row.ldx = plan.ldx;
    row.y = f.h;
    row.saved = f.saved;
    row.lds = saved_of(C::kind) * H;
    for (int64_t b = 0; b < B; ++b) {
        plan.order[b] = b;
        copy_or_zero(plan.state + b * plan.ld, f.h0 ? f.h0 + b * H : nullptr, H);
        if (C::kind == Cell::lstm) copy_or_zero(plan.cell + b * plan.ld, f.c0 ? f.c0 + b * H : nullptr, H);
    }
    pack_bias<C>(H, f.b_ih, f.b_hh, plan.bias);
    const int64_t blocks = panels_of<T>(H);
    parallel(plan.threads, plan.threads, [&](int i, int) {
        T* const product = plan.buffers + i * (plan.product + plan.panel);
        T* const panel = product + plan.product;
        T* const x = product + G * product_size<T>(B);
        ForwardLanes<T> s{p, row, {plan.order, B}, plan.ld, plan.state, plan.next,
                          C::kind == Cell::lstm ? plan.cell : nullptr, product, plan.bias, 0, nullptr, nullptr};
        for (int64_t u = blocks * i / plan.threads; u < blocks * (i + 1) / plan.threads; ++u) {
            const int64_t j = u * NR, n = H - j < NR ? H - j : NR;
            for (int64_t g = 0; g < G; ++g) {
                rows_product<T>(f.w_ih + (g * H + j) * f.I, f.I, n, f.x, f.I, B, x, panel);
                for (int64_t b = 0; b < B; ++b) copy(plan.xp + b * plan.ldx + g * H + j, x + b * NR, n);
                rows_product<T>(f.w_hh + (g * H + j) * H, H, n, plan.state, plan.ld, B,
                                product + g * B * NR, panel);
            }
            const Units<T> units{j, n, product, {0, B * NR, 2 * B * NR, 3 * B * NR}};
            if (n == NR) C::template epilogue<true, false>(s, 0, B, units);
            else C::template epilogue<false, false>(s, 0, B, units);
        }
    });
    if (C::kind == Cell::lstm)
        for (int64_t b = 0; b < B; ++b) copy(f.c + b * H, plan.cell + b * plan.ld, H);
}

template <class C>
struct StepBackPlan {
    using T = typename C::T;
    int64_t ld, lda;
    int64_t* order;
    T *carry, *cell, *a, *dz, *zeros;

    StepBackPlan(int64_t B, int64_t H, Arena& arena)
        : ld(padded<T>(H)), lda(padded<T>(gates_of(C::kind) * H)) {
        order = arena.take<int64_t>(B);
        carry = arena.take<T>(B * ld);
        cell = arena.take<T>(C::kind == Cell::lstm ? B * ld : 0);
        a = arena.take<T>(B * lda);
        dz = arena.take<T>(B * dz_of(C::kind) * H);
        zeros = arena.take<T>(B * ld);
    }
};

template <class C>
void step_back(int64_t B, int64_t H, const StepBack<typename C::T>& f) {
    using T = typename C::T;
    constexpr int64_t G = gates_of(C::kind), D = dz_of(C::kind);
    Arena arena(f.work);
    const StepBackPlan<C> plan(B, H, arena);
    const SmallAsZero small;
    const Problem p = one_step(B, H);
    Backward<T> row{};
    row.dy = f.dy;
    row.dy_step = B * H;
    row.dy_lane = H;
    row.saved = f.saved;
    row.lds = saved_of(C::kind) * H;
    row.h0 = f.h0;
    row.c0 = f.c0;
    row.dz = plan.dz;
    __builtin_memset(plan.zeros, 0, size_t(B * plan.ld) * sizeof(T));
    for (int64_t b = 0; b < B; ++b) {
        plan.order[b] = b;
        copy_or_zero(plan.carry + b * plan.ld, f.dhn ? f.dhn + b * H : nullptr, H);
        if (C::kind == Cell::lstm) copy_or_zero(plan.cell + b * plan.ld, f.dcn ? f.dcn + b * H : nullptr, H);
    }
    BackwardLanes<T> s{p, row, {plan.order, B}, plan.ld, plan.lda, plan.carry,
                       C::kind == Cell::lstm ? plan.cell : nullptr, plan.a, nullptr, nullptr, plan.zeros,
                       C::kind == Cell::lstm ? f.c0 : f.h0};
    dz_step<C>(s, 0, B);
    const T *dz = plan.dz, *a = plan.a;  // of the input's and of the state's side
    const int64_t ldz = D * H;
    if (f.dx) thin_product<T>(B, G * H, f.I, dz, ldz, 1, f.w_ih, f.I, f.dx, false);
    if (f.dh0) {
        // A GRU passes a part of the gradient on past its product.
        if (C::kind == Cell::gru)
            for (int64_t b = 0; b < B; ++b) copy(f.dh0 + b * H, plan.carry + b * plan.ld, H);
        thin_product<T>(B, G * H, H, a, plan.lda, 1, f.w_hh, H, f.dh0, C::kind == Cell::gru);
    }
    if (f.dc0 && C::kind == Cell::lstm)
        for (int64_t b = 0; b < B; ++b) copy(f.dc0 + b * H, plan.cell + b * plan.ld, H);
    if (f.dw_ih) thin_product<T>(G * H, B, f.I, dz, 1, ldz, f.x, f.ldx, f.dw_ih, false);
    // A state of zeros takes part: what is not finite must show, as it does in torch.
    if (f.dw_hh)
        thin_product<T>(G * H, B, H, a, 1, plan.lda, f.h0 ? f.h0 : plan.zeros, f.h0 ? H : 0, f.dw_hh, false);
    if (f.db_ih) lane_sum<T>(dz, ldz, G * H, B, f.db_ih);
    if (f.db_hh) lane_sum<T>(a, plan.lda, G * H, B, f.db_hh);
}

// Bytes of work that a step of these sizes takes, forward or backward.
template <class C>
size_t step_workspace(int64_t B, int64_t I, int64_t H, int threads, bool is_backward) {
    Arena arena(nullptr);
    if (is_backward) StepBackPlan<C>(B, H, arena);
    else StepPlan<C>(B, I, H, threads, arena);
    return arena.used();
}

}  // namespace BPTT_ISA
}  // namespace bptt

// The forward pass of every cell: the loop over time for one thread's lanes.
//
// Per step and per block of NR hidden units: the products of all gates into a small buffer in L1,
// then the cell's own arithmetic on it. The state of the lanes lives in two private buffers, one
// read and one written, so that rows are dense however the caller's arrays are laid out.
//
// A cell has
//   T                    its element type
//   kind                 its Cell
//   epilogue(...)        NR units of all live lanes: pre-activations in, new state out
#pragma once

#include "lanes.h"
#include "panel.h"

namespace bptt {
namespace BPTT_ISA {

template <class T>
struct Units {
    int64_t j;        // first hidden unit
    int64_t n;        // how many, at most NR
    const Real<T>* product; // [gate][lane][NR]
    int64_t gate;     // elements between gates
};

template <class T>
struct ForwardLanes {
    const Problem& p;
    const Forward<T>& f;
    Slice slice;
    int64_t ld;          // elements between lanes of the private buffers
    Real<T>* state;      // read
    Real<T>* next;       // written
    Real<T>* cell;       // LSTM: c, updated in place
    Real<T>* product;
    const Real<T>* bias; // [4][padded(H)]: input and hidden side combined; GRU's fourth is b_hn
    // In bfloat16, the same states rounded: the left factor of the product.
    int64_t ld_rounded;
    T *rounded, *next_rounded;
    const int64_t ld_bias = padded<Real<T>>(p.H);

    // Row of the projected input, or of x where the kernel projects it.
    const T* input(int64_t t, int64_t b) const {
        return f.xp + (f.tokens ? f.tokens[t * p.B + b] : p.row(t, b)) * f.ldx;
    }

    // Row r of the state as it stands before the lane's first step, or zeros for null.
    void begin(int64_t r, const Real<T>* from) {
        copy_or_zero(state + r * ld, from, p.H);
        if constexpr (is_bf16<T>) round_or_zero(rounded + r * ld_rounded, from, p.H);
    }

    // The new state of lane r from unit j on. Beyond H `next` may hold anything; `next_rounded` holds
    // zeros, for they are multiplied.
    template <class P>
    BPTT_INLINE void keep(int64_t r, int64_t j, Vec<T> h, P part) {
        store(next + r * ld + j, h);
        if constexpr (is_bf16<T>) store(next_rounded + r * ld_rounded + j, h, part);
    }

    void turn() {
        auto* written = next;
        next = state;
        state = written;
        auto* beside = next_rounded;
        next_rounded = rounded;
        rounded = beside;
    }
};

// The step where the kernel projects the input: its rows stand behind those of the state, and one product
// takes both. A GRU's candidate alone needs them apart: the state's share, then, as a fourth gate, the input's.
template <class C>
void joint_step(ForwardLanes<typename C::T>& s, int64_t t, int64_t live, const typename C::T* packed) {
    using T = typename C::T;
    constexpr int64_t NR = Tile<T>::NR, G = gates_of(C::kind);
    constexpr bool gru = C::kind == Cell::gru;
    const int64_t H = s.p.H, I = s.f.I, K = H + I, blocks = panels_of<T>(H);
    for (int64_t r = 0; r < live; ++r) copy(s.state + r * s.ld + H, s.input(t, s.slice.lane[r]), I);
    const int64_t at_once = gru ? 1 : blocks_at_once(live), gates = gru ? 4 : G;
    for (int64_t u = 0; u < blocks; u += at_once) {
        const int64_t n = blocks - u < at_once ? blocks - u : at_once;
        const T* const panels = packed + u * G * K * NR;
        multiply<T>(s.state, s.ld, live, panels, gru ? 2 : n * G, K, s.product, live * NR);
        if (gru) {
            multiply<T>(s.state, s.ld, live, panels + 2 * K * NR, 1, H, s.product + 2 * live * NR, 0);
            multiply<T>(s.state + H, s.ld, live, panels + (2 * K + H) * NR, 1, I, s.product + 3 * live * NR, 0);
        }
        for (int64_t v = 0; v < n; ++v) {
            const int64_t j = (u + v) * NR;
            const Units<T> units{j, H - j < NR ? H - j : NR, s.product + v * gates * live * NR, live * NR};
            if (units.n == NR) C::template epilogue<true, true>(s, t, live, units);
            else C::template epilogue<false, true>(s, t, live, units);
        }
    }
}

template <class C>
void forward_step(ForwardLanes<typename C::T>& s, int64_t t, int64_t live, const Unit<typename C::T>* packed) {
    using T = typename C::T;
    constexpr int64_t NR = Tile<T>::NR, G = gates_of(C::kind);
    const Unit<T>* left;
    int64_t lda = s.ld;
    if constexpr (!is_bf16<T>)
        if (s.f.w_ih) return joint_step<C>(s, t, live, packed);
    if constexpr (is_bf16<T>) {
        left = reinterpret_cast<const Unit<T>*>(s.rounded);
        lda = s.ld_rounded / Factor<T>::each;
    } else {
        left = s.state;
    }
    const int64_t H = s.p.H, K = units_of<T>(H), blocks = panels_of<T>(H);
    const int64_t at_once = blocks_at_once(live);
    for (int64_t u = 0; u < blocks; u += at_once) {
        const int64_t n = blocks - u < at_once ? blocks - u : at_once;
        multiply<T>(left, lda, live, packed + u * G * K * NR, n * G, K, s.product, live * NR);
        for (int64_t v = 0; v < n; ++v) {
            const int64_t j = (u + v) * NR;
            const Units<T> units{j, H - j < NR ? H - j : NR, s.product + v * G * live * NR, live * NR};
            if (units.n == NR) C::template epilogue<true, false>(s, t, live, units);
            else C::template epilogue<false, false>(s, t, live, units);
        }
    }
}

// The part of vector i that lies inside the units.
template <bool All, class T>
BPTT_INLINE auto inside(const Units<T>& u, int i) {
    if constexpr (All) {
        return Whole{};
    } else {
        const int64_t left = u.n - i * Simd<T>::L;
        return Part{int(left < 0 ? 0 : left > Simd<T>::L ? Simd<T>::L : left)};
    }
}

// A pre-activation with its share of the input, if that is not in it already.
template <bool Joint, class T, class P>
BPTT_INLINE Vec<T> with_input(Vec<T> product, const T* x, P part) {
    if constexpr (Joint) return product;
    else return product + load(x, part);
}

template <class C>
void forward_lanes(ForwardLanes<typename C::T>& s, const Unit<typename C::T>* packed) {
    using Y = typename OutputOf<typename C::T, C::kind>::type;
    const Problem& p = s.p;
    const auto& f = s.f;
    const int64_t H = p.H;
    int64_t live = 0, ahead = live_at(p, s.slice, p.reverse ? p.T - 1 : 0, s.slice.count);
    for (int64_t i = 0; i < p.T; ++i) {
        const int64_t t = p.reverse ? p.T - 1 - i : i;
        for (int64_t r = live; r < ahead; ++r) {  // lanes whose first step this is
            const int64_t b = s.slice.lane[r];
            s.begin(r, f.h0 ? f.h0 + b * H : nullptr);
            if (s.cell) copy_or_zero(s.cell + r * s.ld, f.c0 ? f.c0 + b * H : nullptr, H);
        }
        live = ahead;
        if (p.reset)
            for (int64_t r = 0; r < live; ++r)
                if (p.reset[t * p.B + s.slice.lane[r]]) {
                    s.begin(r, nullptr);
                    if (s.cell) __builtin_memset(s.cell + r * s.ld, 0, size_t(H) * sizeof(*s.cell));
                }
        if (live > 0) forward_step<C>(s, t, live, packed);
        for (int64_t r = live; r < s.slice.count && !p.starts; ++r) {  // padding
            const int64_t b = s.slice.lane[r];
            __builtin_memset(static_cast<Y*>(f.y) + p.output_row(t, b) * H, 0, size_t(H) * sizeof(Y));
            if (f.saved)
                __builtin_memset(f.saved + p.row(t, b) * f.lds, 0,
                                 size_t(saved_of(C::kind) * H) * sizeof(*f.saved));
        }
        s.turn();
        ahead = i + 1 < p.T ? live_at(p, s.slice, p.reverse ? t - 1 : t + 1, live) : 0;
        for (int64_t r = ahead; r < live; ++r) {  // lanes whose last step this was
            const int64_t b = s.slice.lane[r];
            copy(f.hn + b * H, s.state + r * s.ld, H);
            if (s.cell) copy(f.cn + b * H, s.cell + r * s.ld, H);
        }
        if (ahead < live) live = ahead;
    }
}

// Elements of the panels of W_hh, and of W_ih below it where the kernel projects I columns of input.
template <class C>
int64_t panels_size(int64_t H, int64_t I = 0) {
    using T = typename C::T;
    return panels_of<T>(H) * gates_of(C::kind) * units_of<T>(H + I) * Tile<T>::NR;
}

template <class C>
size_t packed_size(int64_t H) {
    return size_t(panels_size<C>(H) + 4 * padded<Real<typename C::T>>(H));
}

// Biases as ForwardLanes takes them, (4, padded(H)).
template <class C>
void pack_bias(int64_t H, const Real<typename C::T>* b_ih, const Real<typename C::T>* b_hh,
               Real<typename C::T>* bias) {
    using R = Real<typename C::T>;
    constexpr int64_t G = gates_of(C::kind);
    const int64_t ld = padded<R>(H);
    for (int64_t g = 0; g < 4; ++g) {
        const bool gru_n = C::kind == Cell::gru && g == 2, gru_hn = C::kind == Cell::gru && g == 3;
        const R* x = b_ih && g < G ? b_ih + g * H : nullptr;
        const R* h = b_hh && gru_hn ? b_hh + 2 * H : b_hh && g < G && !gru_n ? b_hh + g * H : nullptr;
        for (int64_t j = 0; j < ld; ++j)
            bias[g * ld + j] = j < H ? (x ? x[j] : R(0)) + (h ? h[j] : R(0)) : R(0);
    }
}

// W_hh (G*H, H) as panels: for each block of NR units, one panel a gate; in each, below the rows of the
// state, I rows of the input. Behind them the biases as ForwardLanes takes them.
template <class C>
void pack_joint(int64_t H, int64_t I, const Real<typename C::T>* w, const Real<typename C::T>* w_ih,
                const Real<typename C::T>* b_ih, const Real<typename C::T>* b_hh, Real<typename C::T>* out,
                int threads) {
    using T = typename C::T;
    constexpr int64_t NR = Tile<T>::NR, G = gates_of(C::kind);
    const int64_t panels = panels_of<T>(H) * G, depth = units_of<T>(H + I);
    Unit<T>* const units = reinterpret_cast<Unit<T>*>(out);
    if (panels * H * NR < smallest_parallel) threads = 1;
    parallel(threads, [&](int i) {
        for (int64_t q = panels * i / threads; q < panels * (i + 1) / threads; ++q) {
            const int64_t j = q / G * NR, n = H - j < NR ? H - j : NR, first = q % G * H + j;
            pack_panel<T>(w + first * H, 1, H, H, n, units + q * depth * NR);
            if (I) pack_panel<T>(w_ih + first * I, 1, I, I, n, units + (q * depth + H) * NR);
        }
    });
    pack_bias<C>(H, b_ih, b_hh, out + panels_size<C>(H, I));
}

template <class C>
void pack_forward(int64_t H, const Real<typename C::T>* w, const Real<typename C::T>* b_ih,
                  const Real<typename C::T>* b_hh, Real<typename C::T>* out, int threads) {
    pack_joint<C>(H, 0, w, nullptr, b_ih, b_hh, out, threads);
}

// The workspace, in one place: what is counted is what is used.
template <class C>
struct ForwardPlan {
    using T = typename C::T;
    using R = Real<T>;
    int threads;
    int64_t ld, ld_rounded, lanes, rounded, per_thread;
    int64_t* order;
    R *packed, *buffers;

    ForwardPlan(const Problem& p, int64_t I, Arena& arena)
        : threads(threads_for(p, gates_of(C::kind))), ld(padded<R>(p.H + I)),
          ld_rounded(is_bf16<T> ? 2 * padded<R>(units_of<T>(p.H)) : 0), lanes(slice_size(p.B, threads, 0)) {
        constexpr int64_t G = gates_of(C::kind);
        rounded = padded<R>(lanes * ld_rounded);  // two of half the size each
        per_thread = (C::kind == Cell::lstm ? 3 : 2) * padded<R>(lanes * ld) +
                     padded<R>((G == 3 && I ? 4 : G) * product_size<T>(lanes)) + rounded;
        order = order_buffer(arena, p);
        packed = arena.take<R>(panels_size<C>(p.H, I) + 4 * padded<R>(p.H));
        buffers = arena.take<R>(per_thread * threads);
    }
};

template <class C>
void forward(const Problem& p, const Forward<typename C::T>& f) {
    using T = typename C::T;
    using R = Real<T>;
    Arena arena(f.work);
    ForwardPlan<C> plan(p, f.I, arena);
    const R* packed = f.packed ? f.packed : plan.packed;
    if (!f.packed) pack_joint<C>(p.H, f.I, f.w_hh, f.w_ih, f.b_ih, f.b_hh, plan.packed, plan.threads);
    order_lanes(p, plan.threads, plan.order);
    parallel(plan.threads, [&](int i) {
        const int64_t area = padded<R>(plan.lanes * plan.ld);
        R* const mine = plan.buffers + i * plan.per_thread;
        R* const product = mine + (C::kind == Cell::lstm ? 3 : 2) * area;
        T* rounded = nullptr;
        if constexpr (is_bf16<T>) {
            rounded = reinterpret_cast<T*>(mine + plan.per_thread - plan.rounded);
            __builtin_memset(rounded, 0, size_t(plan.rounded) * sizeof(R));
        }
        ForwardLanes<T> s{p, f, slice_of(p, plan.threads, i, plan.order), plan.ld,
                          mine, mine + area, C::kind == Cell::lstm ? mine + 2 * area : nullptr,
                          product, packed + panels_size<C>(p.H, f.I),
                          plan.ld_rounded, rounded, rounded + plan.lanes * plan.ld_rounded};
        forward_lanes<C>(s, reinterpret_cast<const Unit<T>*>(packed));
    });
}

}  // namespace BPTT_ISA
}  // namespace bptt

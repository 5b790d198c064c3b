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
    const T* product; // [gate][lane][NR]
    int64_t gate;     // elements between gates
};

template <class T>
struct ForwardLanes {
    const Problem& p;
    const Forward<T>& f;
    Slice slice;
    int64_t ld;       // elements between lanes of the private buffers
    T* state;         // read
    T* next;          // written
    T* cell;          // LSTM: c, updated in place
    T* product;
    const T* bias;    // [4][ld]: input and hidden side combined; GRU's fourth is b_hn

    const T* input(int64_t t, int64_t b) const {
        return f.xp + (f.tokens ? f.tokens[t * p.B + b] : p.row(t, b)) * f.ldx;
    }
};

template <class C>
void forward_step(ForwardLanes<typename C::T>& s, int64_t t, int64_t live, const typename C::T* packed) {
    using T = typename C::T;
    constexpr int64_t NR = Tile<T>::NR, G = gates_of(C::kind);
    const int64_t H = s.p.H, blocks = panels_of<T>(H);
    const int64_t at_once = blocks_at_once(live);
    for (int64_t u = 0; u < blocks; u += at_once) {
        const int64_t n = blocks - u < at_once ? blocks - u : at_once;
        multiply<T>(s.state, s.ld, live, packed + u * G * H * NR, n * G, H, s.product, live * NR);
        for (int64_t v = 0; v < n; ++v) {
            const int64_t j = (u + v) * NR;
            const Units<T> units{j, H - j < NR ? H - j : NR, s.product + v * G * live * NR, live * NR};
            if (units.n == NR) C::template epilogue<true>(s, t, live, units);
            else C::template epilogue<false>(s, t, live, units);
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

template <class C>
void forward_lanes(ForwardLanes<typename C::T>& s, const typename C::T* packed) {
    const Problem& p = s.p;
    const auto& f = s.f;
    const int64_t H = p.H;
    int64_t live = 0, ahead = live_at(p, s.slice, p.reverse ? p.T - 1 : 0, s.slice.count);
    for (int64_t i = 0; i < p.T; ++i) {
        const int64_t t = p.reverse ? p.T - 1 - i : i;
        for (int64_t r = live; r < ahead; ++r) {  // lanes whose first step this is
            const int64_t b = s.slice.lane[r];
            copy_or_zero(s.state + r * s.ld, f.h0 ? f.h0 + b * H : nullptr, H);
            if (s.cell) copy_or_zero(s.cell + r * s.ld, f.c0 ? f.c0 + b * H : nullptr, H);
        }
        live = ahead;
        if (p.reset)
            for (int64_t r = 0; r < live; ++r)
                if (p.reset[t * p.B + s.slice.lane[r]]) {
                    __builtin_memset(s.state + r * s.ld, 0, size_t(H) * sizeof(*s.state));
                    if (s.cell) __builtin_memset(s.cell + r * s.ld, 0, size_t(H) * sizeof(*s.cell));
                }
        if (live > 0) forward_step<C>(s, t, live, packed);
        for (int64_t r = live; r < s.slice.count && !p.starts; ++r) {  // padding
            const int64_t b = s.slice.lane[r];
            __builtin_memset(f.y + p.output_row(t, b) * H, 0, size_t(H) * sizeof(*f.y));
            if (f.saved)
                __builtin_memset(f.saved + p.row(t, b) * f.lds, 0,
                                 size_t(saved_of(C::kind) * H) * sizeof(*f.saved));
        }
        auto* written = s.next;
        s.next = s.state;
        s.state = written;
        ahead = i + 1 < p.T ? live_at(p, s.slice, p.reverse ? t - 1 : t + 1, live) : 0;
        for (int64_t r = ahead; r < live; ++r) {  // lanes whose last step this was
            const int64_t b = s.slice.lane[r];
            copy(f.hn + b * H, s.state + r * s.ld, H);
            if (s.cell) copy(f.cn + b * H, s.cell + r * s.ld, H);
        }
        if (ahead < live) live = ahead;
    }
}

template <class C>
int64_t panels_size(int64_t H) {
    using T = typename C::T;
    return panels_of<T>(H) * gates_of(C::kind) * H * Tile<T>::NR;
}

template <class C>
size_t packed_size(int64_t H) {
    return size_t(panels_size<C>(H) + 4 * padded<typename C::T>(H));
}

// Biases as ForwardLanes takes them, (4, padded(H)).
template <class C>
void pack_bias(int64_t H, const typename C::T* b_ih, const typename C::T* b_hh, typename C::T* bias) {
    using T = typename C::T;
    constexpr int64_t G = gates_of(C::kind);
    const int64_t ld = padded<T>(H);
    for (int64_t g = 0; g < 4; ++g) {
        const bool gru_n = C::kind == Cell::gru && g == 2, gru_hn = C::kind == Cell::gru && g == 3;
        const T* x = b_ih && g < G ? b_ih + g * H : nullptr;
        const T* h = b_hh && gru_hn ? b_hh + 2 * H : b_hh && g < G && !gru_n ? b_hh + g * H : nullptr;
        for (int64_t j = 0; j < ld; ++j)
            bias[g * ld + j] = j < H ? (x ? x[j] : T(0)) + (h ? h[j] : T(0)) : T(0);
    }
}

// W_hh (G*H, H) as panels: for each block of NR units, one panel a gate. Behind them the biases as
// ForwardLanes takes them.
template <class C>
void pack_forward(int64_t H, const typename C::T* w, const typename C::T* b_ih,
                  const typename C::T* b_hh, typename C::T* out, int threads) {
    using T = typename C::T;
    constexpr int64_t NR = Tile<T>::NR, G = gates_of(C::kind);
    const int64_t panels = panels_of<T>(H) * G;
    if (panels * H * NR < smallest_parallel) threads = 1;
    parallel(threads, [&](int i) {
        for (int64_t q = panels * i / threads; q < panels * (i + 1) / threads; ++q) {
            const int64_t j = q / G * NR, left = H - j;
            pack_panel<T>(w + (q % G * H + j) * H, 1, H, H, left < NR ? left : NR, out + q * H * NR);
        }
    });
    pack_bias<C>(H, b_ih, b_hh, out + panels_size<C>(H));
}

// The workspace, in one place: what is counted is what is used.
template <class C>
struct ForwardPlan {
    using T = typename C::T;
    int threads;
    int64_t ld, lanes, per_thread;
    int64_t* order;
    T *packed, *buffers;

    ForwardPlan(const Problem& p, Arena& arena)
        : threads(threads_for(p, gates_of(C::kind))), ld(padded<T>(p.H)),
          lanes(slice_size(p.B, threads, 0)) {
        constexpr int64_t G = gates_of(C::kind);
        per_thread = (C::kind == Cell::lstm ? 3 : 2) * padded<T>(lanes * ld) +
                     padded<T>(G * product_size<T>(lanes));
        order = order_buffer(arena, p);
        packed = arena.take<T>(int64_t(packed_size<C>(p.H)));
        buffers = arena.take<T>(per_thread * threads);
    }
};

template <class C>
void forward(const Problem& p, const Forward<typename C::T>& f) {
    using T = typename C::T;
    Arena arena(f.work);
    ForwardPlan<C> plan(p, arena);
    const T* packed = f.packed ? f.packed : plan.packed;
    if (!f.packed) pack_forward<C>(p.H, f.w_hh, f.b_ih, f.b_hh, plan.packed, plan.threads);
    order_lanes(p, plan.threads, plan.order);
    parallel(plan.threads, [&](int i) {
        const int64_t area = padded<T>(plan.lanes * plan.ld);
        T* mine = plan.buffers + i * plan.per_thread;
        ForwardLanes<T> s{p, f, slice_of(p, plan.threads, i, plan.order), plan.ld,
                          mine, mine + area, C::kind == Cell::lstm ? mine + 2 * area : nullptr,
                          mine + (C::kind == Cell::lstm ? 3 : 2) * area, packed + panels_size<C>(p.H)};
        forward_lanes<C>(s, packed);
    });
}

}  // namespace BPTT_ISA
}  // namespace bptt

// The forward pass of every cell: the loop over time for one piece's lanes.
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
    int64_t j;              // first hidden unit
    int64_t n;              // how many, at most NR
    const Real<T>* product; // rows of NR, one a lane
    int64_t gate[4];        // where in it each gate's begin

    // Vectors that hold a gate's units.
    template <bool All>
    BPTT_INLINE int vectors() const {
        return All || n > Simd<T>::L ? 2 : 1;
    }
};

// How the gates of one block of hidden units share panels. A gate has panels of its own; but where it would
// leave half of one empty, or more, two gates or four stand in one panel, L or L / 2 columns each.
template <class T>
struct Layout {
    static constexpr int64_t NR = Tile<T>::NR, L = Tile<T>::L;
    int64_t width;  // columns of a gate
    int64_t n;      // hidden units

    explicit Layout(int64_t left)
        : width(left > L ? NR : left > L / 2 || L < 4 ? L : L / 2), n(left < NR ? left : NR) {}
    int64_t panels(int64_t gates) const { return (gates * width + NR - 1) / NR; }
    // Whether the last of them is half empty.
    bool narrow(int64_t gates) const { return (gates * width - 1) % NR < L; }
    int64_t panel_of(int64_t gate) const { return gate * width / NR; }
    Units<T> units(int64_t j, const Real<T>* product, int64_t live) const {
        Units<T> u{j, n, product, {}};
        for (int64_t g = 0; g < 4; ++g) u.gate[g] = panel_of(g) * live * NR + g * width % NR;
        return u;
    }
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
    const int64_t ldy = f.ldy ? f.ldy : p.H;

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

// All blocks of hidden units: the product of `left` with each one's panels, and the cell's arithmetic on it.
template <class C, bool Joint>
void blocks_step(ForwardLanes<typename C::T>& s, int64_t t, int64_t live, const Unit<typename C::T>* left,
                 int64_t lda, int64_t K, const Unit<typename C::T>* packed) {
    using T = typename C::T;
    constexpr int64_t NR = Tile<T>::NR, G = gates_of(C::kind);
    const int64_t H = s.p.H, blocks = panels_of<T>(H), at_once = blocks_at_once(live);
    for (int64_t u = 0; u < blocks; u += at_once) {
        const int64_t n = blocks - u < at_once ? blocks - u : at_once;
        const Layout<T> last(H - (u + n - 1) * NR);
        multiply<T>(left, lda, live, packed + u * G * K * NR, (n - 1) * G + last.panels(G), K, s.product, live * NR,
                    false, last.narrow(G));
        for (int64_t v = 0; v < n; ++v) {
            const int64_t j = (u + v) * NR;
            const Units<T> units = Layout<T>(H - j).units(j, s.product + v * G * live * NR, live);
            if (units.n == NR) C::template epilogue<true, Joint>(s, t, live, units);
            else C::template epilogue<false, Joint>(s, t, live, units);
        }
    }
}

// The step where the kernel projects the input: its rows stand behind those of the state, and one product
// takes both. A GRU's candidate alone needs them apart: the state's share, then, as a fourth gate, the input's.
template <class C>
void joint_step(ForwardLanes<typename C::T>& s, int64_t t, int64_t live, const typename C::T* packed) {
    using T = typename C::T;
    constexpr int64_t NR = Tile<T>::NR, G = gates_of(C::kind);
    const int64_t H = s.p.H, I = s.f.I, K = H + I;
    for (int64_t r = 0; r < live; ++r) copy(s.state + r * s.ld + H, s.input(t, s.slice.lane[r]), I);
    if constexpr (C::kind == Cell::gru) {
        for (int64_t j = 0; j < H; j += NR, packed += G * K * NR) {
            const Layout<T> layout(H - j);
            const int64_t both = layout.panels(2), area = live * NR;
            const bool narrow = layout.narrow(1);
            Real<T>* const c = s.product;
            multiply<T>(s.state, s.ld, live, packed, both, K, c, area, false, layout.narrow(2));
            const T* const candidate = packed + both * K * NR;
            multiply<T>(s.state, s.ld, live, candidate, 1, H, c + both * area, 0, false, narrow);
            multiply<T>(s.state + H, s.ld, live, candidate + H * NR, 1, I, c + (both + 1) * area, 0, false, narrow);
            Units<T> units = layout.units(j, c, live);
            units.gate[2] = both * area;
            units.gate[3] = (both + 1) * area;
            if (units.n == NR) C::template epilogue<true, true>(s, t, live, units);
            else C::template epilogue<false, true>(s, t, live, units);
        }
    } else {
        blocks_step<C, true>(s, t, live, s.state, s.ld, K, packed);
    }
}

template <class C>
void forward_step(ForwardLanes<typename C::T>& s, int64_t t, int64_t live, const Unit<typename C::T>* packed) {
    using T = typename C::T;
    if constexpr (is_bf16<T>) {
        const auto* const left = reinterpret_cast<const Unit<T>*>(s.rounded);
        blocks_step<C, false>(s, t, live, left, s.ld_rounded / Factor<T>::each, units_of<T>(s.p.H), packed);
    } else {
        if (s.f.w_ih) return joint_step<C>(s, t, live, packed);
        blocks_step<C, false>(s, t, live, s.state, s.ld, s.p.H, packed);
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
            __builtin_memset(static_cast<Y*>(f.y) + p.output_row(t, b) * s.ldy, 0, size_t(H) * sizeof(Y));
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

// Room for the panels of W_hh, and of W_ih below it where the kernel projects I columns of input.
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
    for (int64_t g = 0; g < (C::kind == Cell::gru ? 4 : G); ++g) {
        const bool gru_n = C::kind == Cell::gru && g == 2, gru_hn = C::kind == Cell::gru && g == 3;
        const R* x = b_ih && g < G ? b_ih + g * H : nullptr;
        const R* h = b_hh && gru_hn ? b_hh + 2 * H : b_hh && g < G && !gru_n ? b_hh + g * H : nullptr;
        __builtin_memset(bias + g * ld + H, 0, size_t(ld - H) * sizeof(R));
        by_vector<R>(H, [&](int64_t j, auto part) {
            const Vec<R> none{};
            store(bias + g * ld + j, (x ? load(x + j, part) : none) + (h ? load(h + j, part) : none), part);
        });
    }
}

// Panel q of the block of hidden units that starts at j: rows of w (G*H, K), as the layout has them.
template <class C>
void pack_shared(const Layout<typename C::T>& layout, int64_t j, int64_t q, int64_t H, int64_t K,
                 const Real<typename C::T>* w, Unit<typename C::T>* out) {
    using T = typename C::T;
    constexpr int64_t NR = Tile<T>::NR, G = gates_of(C::kind);
    const Real<T>* column[NR];
    for (int64_t c = 0; c < NR; ++c) {
        const int64_t g = (q * NR + c) / layout.width, unit = (q * NR + c) % layout.width;
        column[c] = g < G && unit < layout.n ? w + (g * H + j + unit) * K : nullptr;
    }
    pack_rows(column, K, out);
}

// W_hh (G*H, H) as panels, block after block of hidden units; in each, below the rows of the state, I rows of
// the input. Behind them the biases as ForwardLanes takes them.
template <class C>
void pack_joint(int64_t H, int64_t I, const Real<typename C::T>* w, const Real<typename C::T>* w_ih,
                const Real<typename C::T>* b_ih, const Real<typename C::T>* b_hh, Real<typename C::T>* out,
                int threads) {
    using T = typename C::T;
    constexpr int64_t NR = Tile<T>::NR, G = gates_of(C::kind);
    const int64_t panels = panels_of<T>(H) * G, depth = units_of<T>(H + I);
    Unit<T>* const units = reinterpret_cast<Unit<T>*>(out);
    if (panels * H * NR < smallest_parallel) threads = 1;
    parallel(threads, threads, [&](int i, int) {
        for (int64_t q = panels * i / threads; q < panels * (i + 1) / threads; ++q) {
            const int64_t j = q / G * NR;
            Layout<T> layout(H - j);
            int64_t own = q % G;
            // A GRU's candidate has panels of its own where the input is in them.
            const bool apart = C::kind == Cell::gru && I > 0 && layout.width < NR;
            if (own >= (apart ? layout.panels(2) + 1 : layout.panels(G))) continue;
            if (apart && own == layout.panels(2)) own = 2, layout.width = NR;
            pack_shared<C>(layout, j, own, H, H, w, units + q * depth * NR);
            if (I) pack_shared<C>(layout, j, own, H, I, w_ih, units + (q * depth + H) * NR);
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
    int threads, pieces;
    int64_t ld, ld_rounded, lanes, rounded, product, per_thread;
    int64_t* order;
    R *packed, *buffers;

    ForwardPlan(const Problem& p, int64_t I, Arena& arena)
        : threads(threads_for(p, gates_of(C::kind))), pieces(pieces_for(p, threads)), ld(padded<R>(p.H + I)),
          ld_rounded(is_bf16<T> ? 2 * padded<R>(units_of<T>(p.H)) : 0), lanes(slice_size(p.B, pieces, 0)) {
        constexpr int64_t G = gates_of(C::kind);
        rounded = padded<R>(lanes * ld_rounded);  // two of half the size each
        // Beyond the last gate of the last lane a vector is read.
        product = padded<R>((G == 3 && I ? 4 : G) * product_size<T>(lanes) + Tile<T>::NR);
        per_thread = (C::kind == Cell::lstm ? 3 : 2) * padded<R>(lanes * ld) + product + rounded;
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
    order_lanes(p, plan.pieces, plan.order);
    parallel(plan.threads, plan.pieces, [&](int i, int thread) {
        const int64_t area = padded<R>(plan.lanes * plan.ld);
        R* const mine = plan.buffers + thread * plan.per_thread;
        R* const product = mine + (C::kind == Cell::lstm ? 3 : 2) * area;
        // What stands beside a gate in a panel is computed with it and stored nowhere; but numbers next to zero,
        // as memory may hold, would take their time.
        if (p.H % Tile<T>::NR) __builtin_memset(product, 0, size_t(plan.product) * sizeof(R));
        T* rounded = nullptr;
        if constexpr (is_bf16<T>) {
            rounded = reinterpret_cast<T*>(mine + plan.per_thread - plan.rounded);
            __builtin_memset(rounded, 0, size_t(plan.rounded) * sizeof(R));
        }
        ForwardLanes<T> s{p, f, slice_of(p, plan.pieces, i, plan.order), plan.ld,
                          mine, mine + area, C::kind == Cell::lstm ? mine + 2 * area : nullptr,
                          product, packed + panels_size<C>(p.H, f.I),
                          plan.ld_rounded, rounded, rounded + plan.lanes * plan.ld_rounded};
        forward_lanes<C>(s, reinterpret_cast<const Unit<T>*>(packed));
    });
}

}  // namespace BPTT_ISA
}  // namespace bptt

// The backward pass of every cell: the loop over time, against the forward order, for one
// piece's lanes.
//
// Per step: the cell turns the gradient that arrives at h_t (dy_t plus what came back from later
// steps) into dz_t; then dh_{t-1} = dz_t W_hh, plus what the cell passes on directly. Weight and
// input gradients are products over all steps, which the caller takes from dz; or, where he gives x and
// W_ih, blocks of steps make them here.
//
// A cell has
//   T, kind
//   dz_lane<B>(...) one lane's H units: from `carry` and dy to dz, and to `carry`'s direct part
#pragma once

#include "block.h"

namespace bptt {
namespace BPTT_ISA {

template <class T>
struct BackwardLanes {
    const Problem& p;
    const Backward<T>& f;
    Slice slice;
    int64_t ld, lda;
    Real<T>* carry;     // [lane][ld] gradient arriving from the later step; then its direct part
    Real<T>* cell;      // LSTM: the same for c
    T* a;               // [lane][lda] dz of the hidden side, the left factor of the product
    Real<T>* db;        // [lane][dz_of * H] or null
    Real<T>* product;
    const void* zeros;  // H of them, of any type
    const T* initial;   // (B, H) or null: the state that came before the first step, h0 or an LSTM's c0

    // Row of `base` (rows of ld elements) at the step that forward took before t; the initial
    // state, or zeros, where there is none.
    const T* before(int64_t t, int64_t b, const T* base, int64_t ld_base) const {
        return before(t, b, base, ld_base, initial);
    }
    const T* before(int64_t t, int64_t b, const T* base, int64_t ld_base, const T* initial) const {
        const T* zeros = static_cast<const T*>(this->zeros);
        if (p.reset && p.reset[t * p.B + b]) return zeros;
        const bool is_first = p.reverse ? t == p.length(b) - 1 : t == 0;
        if (is_first) return initial ? initial + b * p.H : zeros;
        return base + p.row(p.reverse ? t + 1 : t - 1, b) * ld_base;
    }
};

// What a cell reads and writes for one lane at one step; Y is its OutputOf.
template <class T, class Y>
struct LaneStep {
    int64_t t, b, r, row;
    const Y* dy;
    Real<T>* carry;
    T *dz, *a;
    Real<T>* db;
};

// A block, if there is one, is handed the step's factors.
template <class C>
void dz_step(BackwardLanes<typename C::T>& s, int64_t t, int64_t live,
             [[maybe_unused]] Block<typename C::T, C::kind>* block = nullptr) {
    using T = typename C::T;
    const Problem& p = s.p;
    const auto& f = s.f;
    constexpr int64_t D = dz_of(C::kind);
    using R = Real<T>;
    using Y = typename OutputOf<T, C::kind>::type;
    const Y* const dy = static_cast<const Y*>(f.dy);
    for (int64_t r = 0; r < live; ++r) {
        const int64_t b = s.slice.lane[r], row = p.row(t, b);
        LaneStep<T, Y> lane{t, b, r, row,
                         !dy ? static_cast<const Y*>(s.zeros) : p.starts ? dy + row * f.dy_step
                                         : dy + t * f.dy_step + b * f.dy_lane,
                         s.carry + r * s.ld, f.dz ? f.dz + row * D * p.H : nullptr, s.a + r * s.lda,
                         s.db ? s.db + r * D * p.H : nullptr};
        if (f.norms) {
            const auto squares = [&](R scale) {
                Vec<T> sum{};
                by_vector<T>(p.H, [&](int64_t j, auto part) {
                    const Vec<T> d = (load(lane.dy + j, part) + load(lane.carry + j, part)) * scale;
                    sum += d * d;
                });
                R total = 0;
                for (int i = 0; i < Simd<T>::L; ++i) total += sum[i];
                return total;
            };
            // A small number has no square: then all are made larger first.
            R total = squares(R(1));
            const bool small = total < Simd<T>::square;
            if (small) total = squares(Simd<T>::large);
            const R norm = sizeof(R) == 4 ? R(__builtin_sqrtf(float(total))) : R(__builtin_sqrt(double(total)));
            f.norms[t * p.B + b] = small ? norm / Simd<T>::large : norm;
        }
        if (s.db) C::template dz_lane<true>(s, lane);
        else C::template dz_lane<false>(s, lane);
        if constexpr (!is_bf16<T>)
            if (block) block->keep(r, row, s.before(t, b, f.saved + (saved_of(C::kind) - 1) * p.H, f.lds, f.h0));
    }
}

// Nothing flows back across a reset or a cut: clears what step t passed on. After the product and not
// before it, because zero times an infinite weight is not zero.
template <class T>
void stop_at_marks(BackwardLanes<T>& s, int64_t t, int64_t live) {
    const Problem& p = s.p;
    if (!p.reset && !p.cut) return;
    for (int64_t r = 0; r < live; ++r) {
        const int64_t mask = t * p.B + s.slice.lane[r];
        if (!((p.reset && p.reset[mask]) || (p.cut && p.cut[mask]))) continue;
        __builtin_memset(s.carry + r * s.ld, 0, size_t(p.H) * sizeof(*s.carry));
        if (s.cell) __builtin_memset(s.cell + r * s.ld, 0, size_t(p.H) * sizeof(*s.carry));
    }
}

// carry (+)= a W_hh
template <class C>
void carry_step(BackwardLanes<typename C::T>& s, int64_t live, const Unit<typename C::T>* packed) {
    using T = typename C::T;
    constexpr int64_t NR = Tile<T>::NR, L = Simd<T>::L;
    const int64_t K = units_of<T>(gates_of(C::kind) * s.p.H), blocks = panels_of<T>(s.p.H);
    const int64_t at_once = blocks_at_once(live);
    for (int64_t u = 0; u < blocks; u += at_once) {
        const int64_t n = blocks - u < at_once ? blocks - u : at_once;
        const bool narrow = u + n == blocks && ends_narrow<T>(s.p.H);
        multiply<T>(reinterpret_cast<const Unit<T>*>(s.a), s.lda / Factor<T>::each, live, packed + u * K * NR, n, K,
                    s.product, live * NR, false, narrow);
        for (int64_t v = 0; v < n; ++v)
            for (int64_t r = 0; r < live; ++r) {
                Real<T>* carry = s.carry + r * s.ld + (u + v) * NR;
                const Real<T>* c = s.product + (v * live + r) * NR;
                for (int i = 0; i < (narrow && v + 1 == n ? 1 : 2); ++i) {
                    Vec<T> d = load(c + i * L);
                    if (C::kind == Cell::gru) d += load(carry + i * L);
                    store(carry + i * L, d);
                }
            }
    }
}

template <class C>
void backward_lanes(BackwardLanes<typename C::T>& s, const Unit<typename C::T>* packed,
                    [[maybe_unused]] Block<typename C::T, C::kind>* block) {
    using T = typename C::T;
    const Problem& p = s.p;
    const auto& f = s.f;
    const int64_t H = p.H, D = dz_of(C::kind);
    int64_t live = 0, ahead = live_at(p, s.slice, p.reverse ? 0 : p.T - 1, s.slice.count);
    for (int64_t i = 0; i < p.T; ++i) {
        const int64_t t = p.reverse ? i : p.T - 1 - i;
        for (int64_t r = live; r < ahead; ++r) {  // lanes whose last step this is
            const int64_t b = s.slice.lane[r];
            copy_or_zero(s.carry + r * s.ld, f.dhn ? f.dhn + b * H : nullptr, H);
            if (s.cell) copy_or_zero(s.cell + r * s.ld, f.dcn ? f.dcn + b * H : nullptr, H);
        }
        live = ahead;
        for (int64_t r = live; r < s.slice.count; ++r) {  // padding
            const int64_t b = s.slice.lane[r];
            if (!p.starts && f.dz)
                __builtin_memset(f.dz + p.row(t, b) * D * H, 0, size_t(D * H) * sizeof(*f.dz));
            if (!p.starts && f.dx) __builtin_memset(f.dx + p.row(t, b) * f.I, 0, size_t(f.I) * sizeof(*f.dx));
            if (f.norms) f.norms[t * p.B + b] = 0;
        }
        if constexpr (!is_bf16<T>)
            if (block) s.a = block->begin(live);
        dz_step<C>(s, t, live, block);
        if constexpr (!is_bf16<T>)
            if (block) block->end(live);
        if (live > 0 && (i + 1 < p.T || f.dh0)) carry_step<C>(s, live, packed);
        stop_at_marks(s, t, live);
        ahead = i + 1 < p.T ? live_at(p, s.slice, p.reverse ? t + 1 : t - 1, live) : 0;
        for (int64_t r = ahead; r < live; ++r) {  // lanes whose first step this was
            const int64_t b = s.slice.lane[r];
            if (f.dh0) copy(f.dh0 + b * H, s.carry + r * s.ld, H);
            if (s.cell && f.dc0) copy(f.dc0 + b * H, s.cell + r * s.ld, H);
        }
        if (ahead < live) live = ahead;
    }
    if constexpr (!is_bf16<T>)
        if (block) block->flush();
}

template <class C>
struct BackwardPlan {
    using T = typename C::T;
    int threads, pieces;
    int64_t ld, lda, lanes, left, product, per_thread, sums;
    int64_t* order;
    Real<T>*zeros, *db, *summed, *buffers;
    Unit<T>*packed, *input;  // W_hh, and W_ih where the kernel is given it, as panels of their columns
    T* initial;  // in bfloat16: the initial state as it would have been saved
    Block<T, C::kind>* blocks;
    int64_t* rows;

    BackwardPlan(const Problem& p, int64_t I, Arena& arena)
        : threads(threads_for(p, gates_of(C::kind))), ld(padded<Real<T>>(p.H)),
          lda(padded<Unit<T>>(units_of<T>((I ? dz_of(C::kind) : gates_of(C::kind)) * p.H)) * Factor<T>::each),
          lanes(0), sums(0) {
        using R = Real<T>;
        constexpr int64_t G = gates_of(C::kind), NR = Tile<T>::NR;
        pieces = pieces_for(p, threads);
        lanes = slice_size(p.B, pieces, 0);
        product = padded<R>(product_size<T>(lanes));
        left = padded<R>(lanes * lda / Factor<T>::each);
        if constexpr (!is_bf16<T>)
            if (I) {
                left = padded<T>(Block<T, C::kind>::size(lanes, I, p.H, lda));
                sums = padded<T>(Block<T, C::kind>::sums_size(I, p.H));
            }
        per_thread = padded<R>(lanes * ld) * (C::kind == Cell::lstm ? 2 : 1) + left + product;
        order = order_buffer(arena, p);
        zeros = arena.take<R>(ld);
        packed = arena.take<Unit<T>>(panels_of<T>(p.H) * units_of<T>(G * p.H) * NR);
        input = arena.take<Unit<T>>(I ? panels_of<T>(I) * G * p.H * NR : 0);
        blocks = arena.take<Block<T, C::kind>>(I ? pieces : 0);
        rows = arena.take<int64_t>(I ? threads * block_rows<T>(lanes) : 0);
        db = arena.take<R>(I ? 0 : p.B * dz_of(C::kind) * p.H);
        initial = is_bf16<T> ? arena.take<T>(p.B * p.H) : nullptr;
        summed = arena.take<R>(sums * pieces);
        buffers = arena.take<R>(per_thread * threads);
    }
};

template <class C>
void backward(const Problem& p, const Backward<typename C::T>& f) {
    using T = typename C::T;
    using R = Real<T>;
    constexpr int64_t NR = Tile<T>::NR, G = gates_of(C::kind), D = dz_of(C::kind);
    Arena arena(f.work);
    BackwardPlan<C> plan(p, f.I, arena);
    const int64_t blocks = panels_of<T>(p.H), K = G * p.H, depth = units_of<T>(K);
    __builtin_memset(plan.zeros, 0, size_t(plan.ld) * sizeof(R));
    const T* initial = nullptr;
    const R* given = C::kind == Cell::lstm ? f.c0 : f.h0;
    if constexpr (is_bf16<T>) {
        if (given) round_or_zero(plan.initial, given, p.B * p.H), initial = plan.initial;
    } else {
        initial = given;
    }
    const int packers = blocks * K * NR < smallest_parallel ? 1 : plan.threads;
    parallel(packers, packers, [&](int i, int) {
        for (int64_t u = blocks * i / packers; u < blocks * (i + 1) / packers; ++u) {
            const int64_t left = p.H - u * NR;
            pack_panel<T>(f.w_hh + u * NR, p.H, 1, K, left < NR ? left : NR,
                          plan.packed + u * depth * NR);
        }
    });
    if constexpr (!is_bf16<T>)
        for (int64_t j = 0; j < f.I; j += NR)
            pack_panel<T>(f.w_ih + j, f.I, 1, K, f.I - j < NR ? f.I - j : NR, plan.input + j * K);
    order_lanes(p, plan.pieces, plan.order);
    parallel(plan.threads, plan.pieces, [&](int i, int thread) {
        const SmallAsZero small;
        R* mine = plan.buffers + thread * plan.per_thread;
        const int64_t area = padded<R>(plan.lanes * plan.ld);
        const Slice slice = slice_of(p, plan.pieces, i, plan.order);
        R* const cell = C::kind == Cell::lstm ? mine + area : nullptr;
        R* const a = mine + area * (C::kind == Cell::lstm ? 2 : 1);
        R* const db = f.db && !f.w_ih ? plan.db + (slice.lane - plan.order) * D * p.H : nullptr;
        if (db) __builtin_memset(db, 0, size_t(slice.count * D * p.H) * sizeof(R));
        // Where the last unit is half empty, nothing writes to its other half.
        if (is_bf16<T>) __builtin_memset(a, 0, size_t(plan.left) * sizeof(R));
        BackwardLanes<T> s{p, f, slice, plan.ld, plan.lda, mine, cell, reinterpret_cast<T*>(a), db,
                           a + plan.left, plan.zeros, initial};
        Block<T, C::kind>* block = nullptr;
        if constexpr (!is_bf16<T>)
            if (f.w_ih) {
                block = plan.blocks + i;
                int64_t* const rows = plan.rows + thread * block_rows<T>(plan.lanes);
                *block = {f, plan.lanes, p.H, plan.lda, plan.input, rows, a, plan.summed + i * plan.sums};
            }
        backward_lanes<C>(s, plan.packed, block);
    });
    if constexpr (!is_bf16<T>)
        if (f.w_ih) {
            const int n = plan.threads;
            parallel(n, n, [&](int i, int) {
                const SmallAsZero small;
                Block<T, C::kind>::add_up(plan.blocks, plan.pieces, K * i / n, K * (i + 1) / n);
            });
            if (f.db) Block<T, C::kind>::add_up_bias(plan.blocks, plan.pieces);
            return;
        }
    if (!f.db) return;
    // Each lane summed its own steps; adding the lanes up here, in their own order, keeps the
    // result independent of how they were dealt out.
    int64_t* const at = plan.order;
    R* const db = f.db;
    __builtin_memset(db, 0, size_t(D * p.H) * sizeof(R));
    auto add = [&](int64_t place) {
        const R* from = plan.db + place * D * p.H;
        by_vector<T>(D * p.H, [&](int64_t j, auto part) {
            store(db + j, load(db + j, part) + load(from + j, part), part);
        });
    };
    if (!p.lengths) {
        for (int64_t b = 0; b < p.B; ++b) add(b);
        return;
    }
    int64_t* const place = at + p.B;  // the sort's buffer is free again
    for (int64_t k = 0; k < p.B; ++k) place[at[k]] = k;
    for (int64_t b = 0; b < p.B; ++b) add(place[b]);
}

}  // namespace BPTT_ISA
}  // namespace bptt

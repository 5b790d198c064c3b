// Long short-term memory:
//   i, f, o = σ(xp + W_hh h + b)      g = tanh(xp_g + W_hg h + b_g)
//   c' = f c + i g                    h' = o tanh(c')
#include "cell.h"

namespace bptt {
namespace BPTT_ISA {

template <class Element>
struct Lstm {
    using T = Element;
    using R = Real<T>;
    static constexpr Cell kind = Cell::lstm;
    using Y = typename OutputOf<T, kind>::type;

    template <bool All, bool Joint>
    static void epilogue(ForwardLanes<T>& s, int64_t t, int64_t live, const Units<T>& u) {
        constexpr int L = Simd<T>::L, NR = Tile<T>::NR;
        const int vectors = u.template vectors<All>();
        const int64_t H = s.p.H;
        const R* bias = s.bias + u.j;
        for (int64_t k = 0; k < live; ++k) {
            const int64_t b = s.slice.lane[k], row = s.p.row(t, b);
            const T* x = Joint ? nullptr : s.input(t, b) + u.j;
            const R* product = u.product + k * NR;
            Y* y = static_cast<Y*>(s.f.y) + s.p.output_row(t, b) * s.ldy + u.j;
            T* saved = s.f.saved ? s.f.saved + row * s.f.lds + u.j : nullptr;
            R* cell = s.cell + k * s.ld + u.j;
            BPTT_UNROLL
            for (int v2 = 0; v2 < vectors; ++v2) {
                const auto part = inside<All>(u, v2);
                const int v = v2 * L;
                const auto gate = [&](int64_t q) {
                    return with_input<Joint>(load(product + u.gate[q] + v), x + q * H + v, part) +
                           load(bias + q * s.ld_bias + v);
                };
                const Vec<T> i = sigmoid<R>(gate(0)), f = sigmoid<R>(gate(1));
                const Vec<T> g = tanh<R>(gate(2)), o = sigmoid<R>(gate(3));
                const Vec<T> c = f * load(cell + v) + i * g;
                const Vec<T> h = o * tanh<R>(c);
                if (saved) {
                    store(saved + v, i, part);
                    store(saved + H + v, f, part);
                    store(saved + 2 * H + v, g, part);
                    store(saved + 3 * H + v, o, part);
                    store(saved + 4 * H + v, c, part);
                    store(saved + 5 * H + v, h, part);
                }
                store(cell + v, c);
                store(y + v, h, part);
                s.keep(k, u.j + v, h, part);
            }
        }
    }

    template <bool Bias>
    static void dz_lane(BackwardLanes<T>& s, const LaneStep<T, Y>& lane) {
        const int64_t H = s.p.H;
        const T* saved = s.f.saved + lane.row * s.f.lds;
        const T* before = s.before(lane.t, lane.b, s.f.saved + 4 * H, s.f.lds);
        R* carry_c = s.cell + lane.r * s.ld;
        by_vector<T>(H, [&](int64_t j, auto part) {
            const Vec<T> i = load(saved + j, part), f = load(saved + H + j, part);
            const Vec<T> g = load(saved + 2 * H + j, part), o = load(saved + 3 * H + j, part);
            const Vec<T> tc = tanh<R>(load(saved + 4 * H + j, part));
            const Vec<T> dh = load(lane.dy + j, part) + load(lane.carry + j, part);
            const Vec<T> dc = load(carry_c + j, part) + dh * o * (R(1) - tc * tc);
            const Vec<T> d[4] = {dc * g * i * (R(1) - i), dc * load(before + j, part) * f * (R(1) - f),
                                 dc * i * (R(1) - g * g), dh * tc * o * (R(1) - o)};
            store(carry_c + j, dc * f, part);
            BPTT_UNROLL
            for (int q = 0; q < 4; ++q) {
                if (lane.dz) store(lane.dz + q * H + j, d[q], part);
                store(lane.a + q * H + j, d[q], part);
                if (Bias) store(lane.db + q * H + j, load(lane.db + q * H + j, part) + d[q], part);
            }
        });
    }
};

template <class T>
Kernels<T> lstm_kernels() {
    return kernels_of<Lstm<T>>();
}
BPTT_COMPILE(lstm_kernels)

}  // namespace BPTT_ISA
}  // namespace bptt

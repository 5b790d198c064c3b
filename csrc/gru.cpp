// Gated recurrent unit, torch's form (the reset gate acts after the product):
//   r = σ(xp_r + W_hr h + b_r)      z = σ(xp_z + W_hz h + b_z)
//   n = tanh(xp_n + b_in + r (W_hn h + b_hn))
//   h' = (1 - z) n + z h
#include "cell.h"

namespace bptt {
namespace BPTT_ISA {

template <class Element>
struct Gru {
    using T = Element;
    using R = Real<T>;
    static constexpr Cell kind = Cell::gru;
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
            BPTT_UNROLL
            for (int i = 0; i < vectors; ++i) {
                const auto part = inside<All>(u, i);
                const int v = i * L;
                const Vec<T> r = sigmoid<R>(with_input<Joint>(load(product + u.gate[0] + v), x + v, part) + load(bias + v));
                const Vec<T> z = sigmoid<R>(with_input<Joint>(load(product + u.gate[1] + v), x + H + v, part) +
                                            load(bias + s.ld_bias + v));
                const Vec<T> hn = load(product + u.gate[2] + v) + load(bias + 3 * s.ld_bias + v);
                Vec<T> xn;
                if constexpr (Joint) xn = load(product + u.gate[3] + v);
                else xn = load(x + 2 * H + v, part);
                const Vec<T> n = tanh<R>(xn + load(bias + 2 * s.ld_bias + v) + r * hn);
                const Vec<T> h = (R(1) - z) * n + z * load(s.state + k * s.ld + u.j + v);
                if (saved) {
                    store(saved + v, r, part);
                    store(saved + H + v, z, part);
                    store(saved + 2 * H + v, n, part);
                    store(saved + 3 * H + v, hn, part);
                    store(saved + 4 * H + v, h, part);
                }
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
        by_vector<T>(H, [&](int64_t j, auto part) {
            const Vec<T> r = load(saved + j, part), z = load(saved + H + j, part);
            const Vec<T> n = load(saved + 2 * H + j, part), hn = load(saved + 3 * H + j, part);
            const Vec<T> h = load(before + j, part);
            const Vec<T> dh = load(lane.dy + j, part) + load(lane.carry + j, part);
            const Vec<T> dn = dh * (R(1) - z) * (R(1) - n * n);
            const Vec<T> dz = dh * (h - n) * z * (R(1) - z);
            const Vec<T> dr = dn * hn * r * (R(1) - r);
            const Vec<T> dhn = dn * r;
            store(lane.carry + j, dh * z, part);
            if (lane.dz) {
                store(lane.dz + j, dr, part);
                store(lane.dz + H + j, dz, part);
                store(lane.dz + 2 * H + j, dn, part);
                store(lane.dz + 3 * H + j, dhn, part);
            }
            store(lane.a + j, dr, part);
            store(lane.a + H + j, dz, part);
            store(lane.a + 2 * H + j, dhn, part);
            if (s.f.w_ih) store(lane.a + 3 * H + j, dn, part);
            if (Bias) {
                store(lane.db + j, load(lane.db + j, part) + dr, part);
                store(lane.db + H + j, load(lane.db + H + j, part) + dz, part);
                store(lane.db + 2 * H + j, load(lane.db + 2 * H + j, part) + dn, part);
                store(lane.db + 3 * H + j, load(lane.db + 3 * H + j, part) + dhn, part);
            }
        });
    }
};

template <class T>
Kernels<T> gru_kernels() {
    return kernels_of<Gru<T>>();
}
BPTT_COMPILE(gru_kernels)

}  // namespace BPTT_ISA
}  // namespace bptt

// Elman network:  h_t = act(xp_t + W_hh h_{t-1} + b)
#include "cell.h"

namespace bptt {
namespace BPTT_ISA {

template <class Element, bool Relu>
struct Rnn {
    using T = Element;
    using R = Real<T>;
    static constexpr Cell kind = Relu ? Cell::rnn_relu : Cell::rnn_tanh;
    using Y = typename OutputOf<T, kind>::type;

    template <bool All, bool Joint>
    static void epilogue(ForwardLanes<T>& s, int64_t t, int64_t live, const Units<T>& u) {
        constexpr int L = Simd<T>::L, NR = Tile<T>::NR;
        const int vectors = u.template vectors<All>();
        for (int64_t r = 0; r < live; ++r) {
            const int64_t b = s.slice.lane[r];
            const T* x = Joint ? nullptr : s.input(t, b) + u.j;
            const int64_t row = s.p.row(t, b);
            Y* y = static_cast<Y*>(s.f.y) + s.p.output_row(t, b) * s.ldy + u.j;
            T* saved = s.f.saved ? s.f.saved + row * s.f.lds + u.j : nullptr;
            BPTT_UNROLL
            for (int i = 0; i < vectors; ++i) {
                const auto part = inside<All>(u, i);
                const Vec<T> z = with_input<Joint>(load(u.product + r * NR + i * L), x + i * L, part) +
                                 load(s.bias + u.j + i * L);
                const Vec<T> h = Relu ? relu<R>(z) : tanh<R>(z);
                if (saved) store(saved + i * L, h, part);
                store(y + i * L, h, part);
                s.keep(r, u.j + i * L, h, part);
            }
        }
    }

    // dz = dh act'(z), written in terms of h = act(z)
    template <bool Bias>
    static void dz_lane(BackwardLanes<T>& s, const LaneStep<T, Y>& lane) {
        const T* saved = s.f.saved + lane.row * s.f.lds;
        by_vector<T>(s.p.H, [&](int64_t j, auto part) {
            const Vec<T> h = load(saved + j, part);
            const Vec<T> dh = load(lane.dy + j, part) + load(lane.carry + j, part);
            const Vec<T> dz = Relu ? (h <= R(0) ? Vec<T>{} : dh) : dh * (R(1) - h * h);
            if (lane.dz) store(lane.dz + j, dz, part);
            store(lane.a + j, dz, part);
            if (Bias) store(lane.db + j, load(lane.db + j, part) + dz, part);
        });
    }
};

template <class T>
Kernels<T> rnn_tanh_kernels() {
    return kernels_of<Rnn<T, false>>();
}
template <class T>
Kernels<T> rnn_relu_kernels() {
    return kernels_of<Rnn<T, true>>();
}
BPTT_COMPILE(rnn_tanh_kernels)
BPTT_COMPILE(rnn_relu_kernels)

}  // namespace BPTT_ISA
}  // namespace bptt

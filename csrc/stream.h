// One time step of a stack of layers in one call, the state kept in place.
//
// All memory is the caller's: packed weights, states and buffers. A step reads its input, runs layer
// after layer, and leaves the output in the last one's buffer; it never allocates and never throws.
#pragma once

#include <vector>

#include "kernels.h"

namespace bptt {

template <class T>
struct StreamLayer {
    Cell cell;
    int64_t I, H;
    const T* w_ih;  // packed by pack_columns, (G*H, I); null where the input is projected already
    const T* packed;  // W_hh and the biases, as Kernels::pack leaves them
    T *h, *c;       // (B, H), read and written; c of an LSTM only
    T* xp;          // (B, columns_padded(G*H))
    T* y;           // (B, H)
    void* work;     // workspace of forward for T = 1
};

// A product after the last layer: y = W x + b.
template <class T>
struct StreamOutput {
    int64_t N, K;
    const T* w;  // packed by pack_columns, (N, K)
    const T* b;  // (N) or null
    T* y;        // (B, columns_padded(N))
};

template <class T>
class Stream {
public:
    explicit Stream(int64_t lanes) : B_(lanes) {}

    void add(const StreamLayer<T>& layer) { layers_.push_back(layer); }
    void finish(const StreamOutput<T>& output) { outputs_.assign(1, output); }

    // x is (B, I).
    void step(const T* x) const { layers_from(0, x); }

    // The first layer reads row tokens[b] of a table (V, G*H), its input product made beforehand.
    // False, and nothing done, if a token is not in 0..V-1.
    bool step_tokens(const int64_t* tokens, const T* table, int64_t V) const {
        for (int64_t b = 0; b < B_; ++b)
            if (tokens[b] < 0 || tokens[b] >= V) return false;
        const StreamLayer<T>& first = layers_[0];
        layers_from(1, run(first, table, gates_of(first.cell) * first.H, tokens));
        return true;
    }

private:
    void layers_from(size_t i, const T* x) const {
        for (; i < layers_.size(); ++i) {
            const StreamLayer<T>& s = layers_[i];
            const Kernels<T>& k = kernels<T>(s.cell);
            const int64_t width = gates_of(s.cell) * s.H, ldx = k.columns_padded(width);
            for (int64_t b = 0; b < B_; ++b)
                k.row_product(x + b * s.I, s.I, s.w_ih, width, s.xp + b * ldx);
            x = run(s, s.xp, ldx, nullptr);
        }
        project(x);
    }

    const T* run(const StreamLayer<T>& s, const T* xp, int64_t ldx, const int64_t* tokens) const {
        // The kernel takes its copy of h and c before it writes either, so both may be updated in
        // place. One thread: a step is over before a second one would wake.
        const Problem p{1, B_, s.H, B_, 1, nullptr, nullptr, nullptr, false, 1};
        kernels<T>(s.cell).forward(p, {xp, ldx, tokens, nullptr, nullptr, nullptr, s.packed, s.h, s.c,
                                       s.y, nullptr, 0, s.h, s.c, s.work});
        return s.y;
    }

    void project(const T* x) const {
        for (const StreamOutput<T>& o : outputs_) {
            const Kernels<T>& k = kernels<T>(Cell::rnn_tanh);  // the product knows no cell
            const int64_t ld = k.columns_padded(o.N);
            for (int64_t b = 0; b < B_; ++b) {
                T* y = o.y + b * ld;
                k.row_product(x + b * o.K, o.K, o.w, o.N, y);
                if (o.b)
                    for (int64_t j = 0; j < o.N; ++j) y[j] += o.b[j];
            }
        }
    }

    int64_t B_;
    std::vector<StreamLayer<T>> layers_;
    std::vector<StreamOutput<T>> outputs_;
};

}  // namespace bptt

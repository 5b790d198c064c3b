// The recurrences and their gradients as plain loops in double: what the kernels must agree with.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace bptt {

using Doubles = std::vector<double>;

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// A layer's recurrence and its gradient, one lane, one step, one unit at a time. All arrays are
// dense and time-major.
struct Reference {
    Cell cell;
    int64_t T, B, H;
    bool reverse = false;
    std::vector<int64_t> lengths;
    std::vector<uint8_t> reset, cut;  // (T, B)
    Doubles xp, w, b_ih, b_hh, h0, c0, dy, dhn, dcn;
    Doubles y, saved, hn, cn;           // forward
    Doubles before, c_before;           // the state each step started from
    Doubles dz, dh0, dc0, db, norms;    // backward

    Reference(Cell cell_, int64_t T_, int64_t B_, int64_t H_)
        : cell(cell_), T(T_), B(B_), H(H_), lengths(size_t(B), T), reset(size_t(T * B)),
          cut(size_t(T * B)), b_ih(size_t(gates_of(cell) * H)), b_hh(b_ih), h0(size_t(B * H)), c0(h0),
          dy(size_t(T * B * H)), dhn(h0), dcn(h0) {}

    template <class F>
    void each_lane(F&& body) {  // body(b, steps in forward order)
        for (int64_t b = 0; b < B; ++b) {
            const int64_t n = lengths[b];
            std::vector<int64_t> steps;
            for (int64_t i = 0; i < n; ++i) steps.push_back(reverse ? n - 1 - i : i);
            body(b, steps);
        }
    }

    void forward() {
        const int64_t G = gates_of(cell), S = saved_of(cell);
        y.assign(size_t(T * B * H), 0);
        saved.assign(size_t(T * B * S * H), 0);
        before = c_before = y;
        hn.assign(size_t(B * H), 0);
        cn = hn;
        each_lane([&](int64_t b, const std::vector<int64_t>& steps) {
            Doubles h(&h0[b * H], &h0[b * H] + H), c(&c0[b * H], &c0[b * H] + H);
            for (int64_t t : steps) {
                const int64_t row = t * B + b;
                if (reset[row]) h.assign(size_t(H), 0), c.assign(size_t(H), 0);
                const Doubles old = h;
                for (int64_t j = 0; j < H; ++j) {
                    double z[4], product[4];  // z without the hidden side's bias
                    for (int64_t g = 0; g < G; ++g) {
                        product[g] = 0;
                        const double* weights = &w[(g * H + j) * H];
                        for (int64_t k = 0; k < H; ++k) product[g] += weights[k] * old[k];
                        product[g] += b_hh[g * H + j];
                        z[g] = xp[row * G * H + g * H + j] + b_ih[g * H + j];
                    }
                    before[row * H + j] = old[j];
                    c_before[row * H + j] = c[j];
                    double kept[6] = {};
                    if (cell == Cell::gru) {
                        const double r = sigmoid(z[0] + product[0]), u = sigmoid(z[1] + product[1]);
                        const double n = std::tanh(z[2] + r * product[2]);
                        h[j] = (1 - u) * n + u * old[j];
                        kept[0] = r, kept[1] = u, kept[2] = n, kept[3] = product[2], kept[4] = h[j];
                    } else if (cell == Cell::lstm) {
                        const double i = sigmoid(z[0] + product[0]), f = sigmoid(z[1] + product[1]);
                        const double g = std::tanh(z[2] + product[2]), o = sigmoid(z[3] + product[3]);
                        c[j] = f * c[j] + i * g;
                        h[j] = o * std::tanh(c[j]);
                        kept[0] = i, kept[1] = f, kept[2] = g, kept[3] = o, kept[4] = c[j];
                        kept[5] = h[j];
                    } else {
                        const double sum = z[0] + product[0];
                        h[j] = cell == Cell::rnn_tanh ? std::tanh(sum) : sum > 0 ? sum : 0;
                        kept[0] = h[j];
                    }
                    y[row * H + j] = h[j];
                    for (int64_t s = 0; s < S; ++s) saved[(row * S + s) * H + j] = kept[s];
                }
            }
            for (int64_t j = 0; j < H; ++j) hn[b * H + j] = h[j], cn[b * H + j] = c[j];
        });
    }

    void backward() {
        const int64_t G = gates_of(cell), S = saved_of(cell), D = dz_of(cell);
        dz.assign(size_t(T * B * D * H), 0);
        db.assign(size_t(D * H), 0);
        norms.assign(size_t(T * B), 0);
        dh0.assign(size_t(B * H), 0);
        dc0 = dh0;
        each_lane([&](int64_t b, const std::vector<int64_t>& steps) {
            Doubles dh(&dhn[b * H], &dhn[b * H] + H), dc(&dcn[b * H], &dcn[b * H] + H);
            for (size_t i = steps.size(); i-- > 0;) {
                const int64_t row = steps[i] * B + b;
                Doubles direct(size_t(H), 0.0);
                for (int64_t j = 0; j < H; ++j) {
                    const double* s = saved.data() + row * S * H + j;
                    double* d = &dz[row * D * H + j];
                    const double g = dh[j] + dy[row * H + j], h = y[row * H + j];
                    norms[row] += g * g;
                    if (cell == Cell::gru) {
                        const double r = s[0], u = s[H], n = s[2 * H], product = s[3 * H];
                        direct[j] = g * u;
                        d[2 * H] = g * (1 - u) * (1 - n * n);
                        d[H] = g * (before[row * H + j] - n) * u * (1 - u);
                        d[0] = d[2 * H] * product * r * (1 - r);
                        d[3 * H] = d[2 * H] * r;
                    } else if (cell == Cell::lstm) {
                        const double in = s[0], f = s[H], c = s[2 * H], o = s[3 * H];
                        const double tc = std::tanh(s[4 * H]), e = dc[j] + g * o * (1 - tc * tc);
                        d[0] = e * c * in * (1 - in);
                        d[H] = e * c_before[row * H + j] * f * (1 - f);
                        d[2 * H] = e * in * (1 - c * c);
                        d[3 * H] = g * tc * o * (1 - o);
                        dc[j] = e * f;
                    } else {
                        d[0] = cell == Cell::rnn_tanh ? g * (1 - h * h) : h > 0 ? g : 0;
                    }
                    for (int64_t q = 0; q < D; ++q) db[q * H + j] += d[q * H];
                }
                norms[row] = std::sqrt(norms[row]);
                dh = direct;
                for (int64_t g = 0; g < G; ++g)
                    for (int64_t j = 0; j < H; ++j) {
                        const int64_t side = cell == Cell::gru && g == 2 ? 3 : g;
                        const double from = dz[(row * D + side) * H + j];
                        for (int64_t k = 0; k < H; ++k) dh[k] += from * w[(g * H + j) * H + k];
                    }
                if (reset[row] || cut[row]) dh.assign(size_t(H), 0), dc.assign(size_t(H), 0);
            }
            for (int64_t j = 0; j < H; ++j) dh0[b * H + j] = dh[j], dc0[b * H + j] = dc[j];
        });
    }
};

}  // namespace bptt

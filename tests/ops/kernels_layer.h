// One layer's kernels beside plain loops: a single step, and a sequence forward and backward with every option.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "kernels_compare.h"

namespace bptt {

// A single step on weights as they are, beside the same step of the sequence kernel.
template <class E>
void check_step(Cell cell, int64_t B, int64_t I, int64_t H) {
    const int64_t G = gates_of(cell), S = saved_of(cell);
    const bool lstm = cell == Cell::lstm;
    char text[120];
    std::snprintf(text, sizeof text, "one step of %s, B=%ld I=%ld H=%ld", cell_names[int(cell)], long(B), long(I),
                  long(H));
    running = text;
    const Kernels<E>& k = kernels<E>(cell);
    const int threads = 1 + int(below(3));
    const Buffer<E> x(B * I, 1), w_ih(G * H * I, 0.5), w_hh(G * H * H, 0.5), b_ih(coin() ? G * H : 0, 1),
        b_hh(coin() ? G * H : 0, 1), h0(coin() ? B * H : 0, 1), c0(lstm && coin() ? B * H : 0, 1);
    const Buffer<E> h(B * H), c(lstm ? B * H : 0), saved(B * S * H);
    const Buffer<uint8_t> work(int64_t(k.step_workspace(B, I, H, threads, false)));
    k.step(B, H, threads, {x, I, w_ih, w_hh, b_ih, b_hh, h0, c0, h, c, saved, work});

    Buffer<E> xp(B * G * H);
    for (int64_t b = 0; b < B; ++b)
        for (int64_t n = 0; n < G * H; ++n) {
            double sum = 0;
            for (int64_t i = 0; i < I; ++i) sum += double(x[b * I + i]) * double(w_ih[n * I + i]);
            xp[b * G * H + n] = E(sum);
        }
    const Problem p{1, B, H, B, 1, nullptr, nullptr, nullptr, false, 1};
    const Buffer<E> y(B * H), kept(B * S * H), hn(B * H), cn(lstm ? B * H : 0);
    const Buffer<uint8_t> room(int64_t(k.workspace(p, false, 0)));
    k.forward(p, {xp, G * H, nullptr, b_ih, b_hh, w_hh, nullptr, h0, c0, y, kept, S * H, hn, cn, room});
    const double near = tolerance<E>(2, H + I);
    same_all("h", h, hn.doubles(B * H), near);
    same_all("c", c, cn.doubles(B * H), near);
    same_all("saved", saved, kept.doubles(B * S * H), near);

    const Buffer<E> dy(coin() ? B * H : 0, 1), dhn(coin() ? B * H : 0, 1), dcn(lstm && coin() ? B * H : 0, 1);
    const Buffer<E> dx(coin() ? B * I : 0), dh0(coin() ? B * H : 0), dc0(lstm && coin() ? B * H : 0),
        dw_ih(coin() ? G * H * I : 0), dw_hh(coin() ? G * H * H : 0), db_ih(coin() ? G * H : 0),
        db_hh(coin() ? G * H : 0);
    const Buffer<uint8_t> back(int64_t(k.step_workspace(B, I, H, threads, true)));
    k.step_back(B, H, {dy, dhn, dcn, x, I, I, w_ih, w_hh, h0, c0, kept, dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh,
                       back});
    const int64_t D = dz_of(cell), hidden = cell == Cell::gru ? 3 * H : 2 * H;  // GRU: dn * r, not dn
    const Buffer<E> dz(B * D * H), want_h0(B * H), want_c0(lstm ? B * H : 0), db(D * H);
    const Buffer<uint8_t> more(int64_t(k.workspace(p, true, 0)));
    k.backward(p, {dy, B * H, H, dhn, dcn, kept, S * H, h0, c0, w_hh, dz, want_h0, want_c0, db, nullptr, more});
    same_all("dh0", dh0, want_h0.doubles(B * H), tolerance<E>(4, G * H));
    same_all("dc0", dc0, want_c0.doubles(B * H), near);
    Doubles want_x(size_t(B * I)), want_ih(size_t(G * H * I)), want_hh(size_t(G * H * H)), bias_i(size_t(G * H)),
        bias_h(size_t(G * H));
    for (int64_t b = 0; b < B; ++b)
        for (int64_t n = 0; n < G * H; ++n) {
            const double d = dz[b * D * H + n], a = dz[b * D * H + (n < 2 * H ? n : n - 2 * H + hidden)];
            bias_i[size_t(n)] += d;
            bias_h[size_t(n)] += a;
            for (int64_t i = 0; i < I; ++i) {
                want_x[size_t(b * I + i)] += d * double(w_ih[n * I + i]);
                want_ih[size_t(n * I + i)] += d * double(x[b * I + i]);
            }
            for (int64_t j = 0; h0 && j < H; ++j) want_hh[size_t(n * H + j)] += a * double(h0[b * H + j]);
        }
    same_all("dx", dx, want_x, tolerance<E>(4, G * H));
    same_all("dw_ih", dw_ih, want_ih, tolerance<E>(4, B));
    same_all("dw_hh", dw_hh, want_hh, tolerance<E>(4, B));
    same_all("db_ih", db_ih, bias_i, tolerance<E>(4, B));
    same_all("db_hh", db_hh, bias_h, tolerance<E>(4, B));
    ++passed;
}

// One layer, forward and backward, under options drawn at random. E is stored, Y comes out.
template <class E, class Y>
void check_layer(Cell cell, int64_t T, int64_t B, int64_t H) {
    using R = Real<E>;
    const int64_t G = gates_of(cell), S = saved_of(cell), D = dz_of(cell), V = 3;
    const bool lstm = cell == Cell::lstm, batch_major = coin();
    const bool with_lengths = coin(), with_reset = coin(), with_cut = coin(), with_tokens = coin();
    const bool keep = coin(), packed = coin();
    // The kernel multiplies x by W_ih, I columns of it, and makes all gradients.
    const bool with_input = sizeof(E) > 2 && !with_tokens && !packed && coin();
    const int64_t I = with_input ? 1 + below(40) : 0;
    const int64_t apart = below(2) * 5;  // rows of y lie apart, as where another direction's stand between them
    // saved, or y, is xp itself
    const bool in_place = !with_tokens && !with_input && (keep || (G == 1 && !batch_major)) && coin();
    const int threads = 1 + int(below(3));
    const bool with_starts = with_lengths && !batch_major && coin();  // rows without padding
    Problem p{T, B, H, batch_major ? 1 : B, batch_major ? T : 1, nullptr, nullptr, nullptr, coin(), threads};
    char text[240];
    std::snprintf(text, sizeof text,
                  "%s %s T=%d B=%d H=%d threads=%d place=%d lengths=%d reset=%d cut=%d reverse=%d tokens=%d "
                  "saved=%d packed=%d in_place=%d batch_major=%d starts=%d I=%d",
                  sizeof(E) == 2 ? "bf16" : sizeof(E) == 4 ? "float" : "double", cell_names[int(cell)], int(T), int(B), int(H), threads,
                  place, with_lengths, with_reset, with_cut, p.reverse, with_tokens, keep, packed, in_place,
                  batch_major, with_starts, int(I));
    running = text;

    Reference ref(cell, T, B, H);
    ref.reverse = p.reverse;
    Buffer<int64_t> lengths(with_lengths ? B : 0), tokens(with_tokens ? T * B : 0);
    Buffer<uint8_t> reset(with_reset ? T * B : 0), cut(with_cut ? T * B : 0);
    Buffer<int64_t> starts(with_starts ? T : 0);
    for (int64_t b = 0; b < lengths.size(); ++b) lengths[b] = 1 + below(T);
    if (with_starts) {
        std::sort(lengths + 0, lengths + B, std::greater<int64_t>());
        lengths[0] = T;  // packed rows have no step without a lane
    }
    for (int64_t b = 0; b < lengths.size(); ++b) ref.lengths[b] = lengths[b];
    int64_t N = with_starts ? 0 : T * B;  // rows in memory
    for (int64_t t = 0; t < starts.size(); ++t) {
        starts[t] = N;
        for (int64_t b = 0; b < B; ++b) N += lengths[b] > t;
    }
    for (int64_t i = 0; i < reset.size(); ++i) ref.reset[i] = reset[i] = below(3) == 0;
    for (int64_t i = 0; i < cut.size(); ++i) ref.cut[i] = cut[i] = below(3) == 0;
    p.lengths = lengths;
    p.starts = starts;
    p.reset = reset;
    p.cut = cut;
    const auto live = [&](int64_t i) { return i / B < ref.lengths[i % B]; };  // i = t * B + b
    const auto row = [&](int64_t i) { return p.row(i / B, i % B); };
    const auto y_row = [&](int64_t i) { return p.output_row(i / B, i % B); };

    // Rows may lie apart; the last one ends where its columns do. Padding is NaN, and so are the
    // columns between rows; tokens in padding stay -1.
    const int64_t gap = below(2) * 3;
    const int64_t lds = S * H + gap, ldx = with_input ? I + gap : !in_place ? G * H + gap : keep ? lds : H;
    const int64_t rows = with_tokens ? V : N;
    Buffer<E> x((rows - 1) * ldx + (with_input ? I : (in_place && keep ? S : G) * H));
    const Buffer<R> w_ih(with_input ? G * H * I : 0, 1 / std::sqrt(double(I + 1)));
    ref.xp.assign(size_t(T * B * G * H), 0);
    for (int64_t r = 0; with_tokens && r < V; ++r)
        for (int64_t j = 0; j < G * H; ++j) x[r * ldx + j] = Stored<E>::from(uniform());
    for (int64_t i = 0; i < T * B; ++i) {
        if (!live(i)) continue;
        const int64_t r = with_tokens ? tokens[i] = below(V) : row(i);
        for (int64_t j = 0; !with_tokens && j < (with_input ? I : G * H); ++j)
            x[r * ldx + j] = Stored<E>::from(uniform());
        for (int64_t j = 0; j < G * H; ++j) {
            double& sum = ref.xp[i * G * H + j];
            if (!with_input) sum = wide(x[r * ldx + j]);
            for (int64_t c = 0; c < I; ++c) sum += double(w_ih[j * I + c]) * wide(x[r * ldx + c]);
        }
    }

    const Kernels<E>& k = kernels<E>(cell);
    const Buffer<R> w(G * H * H, 1.2 / std::sqrt(double(H)));
    const Buffer<R> b_ih(coin() ? G * H : 0, 0.5), b_hh(coin() ? G * H : 0, 0.5);
    const Buffer<R> h0(coin() ? B * H : 0, 1), c0(lstm && coin() ? B * H : 0, 1);
    const Buffer<R> panels(packed ? int64_t(k.packed_size(H)) : 0);
    if (packed) k.pack(H, w, b_ih, b_hh, panels, threads);
    ref.w = w.doubles(0);
    ref.b_ih = b_ih.doubles(G * H);
    ref.b_hh = b_hh.doubles(G * H);
    ref.h0 = h0.doubles(B * H);
    ref.c0 = c0.doubles(B * H);
    ref.forward();

    const bool y_in_place = in_place && !keep;
    const int64_t ldy = y_in_place ? H : H + apart;
    const Buffer<Y> y_own(y_in_place ? 0 : (N - 1) * ldy + H);
    const Buffer<E> saved_own(keep && !in_place ? (N - 1) * lds + S * H : 0);
    Y* const y = y_in_place ? reinterpret_cast<Y*>(x + 0) : y_own;
    E* const saved = in_place && keep ? x : saved_own;
    const Buffer<R> hn(B * H), cn(lstm ? B * H : 0);
    {
        const Buffer<uint8_t> work(int64_t(k.workspace(p, false, I)));
        Forward<E> f{x, ldx, tokens, b_ih, b_hh, w, nullptr, h0, c0, y, saved, lds, hn, cn, work, w_ih, I};
        if (packed) f.b_ih = f.b_hh = f.w_hh = nullptr, f.packed = panels;
        f.ldy = ldy;
        k.forward(p, f);
    }
    const double near = tolerance<E>(T, G * H + I);
    same_all("hn", hn, ref.hn, near);
    same_all("cn", cn, ref.cn, near);
    for (int64_t i = 0; i < T * B; ++i) {
        if (with_starts && !live(i)) continue;
        for (int64_t j = 0; j < H; ++j)
            same("y", i * H + j, wide(y[y_row(i) * ldy + j]), ref.y[i * H + j], near);
        for (int64_t j = 0; saved && live(i) && j < S * H; ++j)
            same("saved", i * S * H + j, wide(saved[row(i) * lds + j]), ref.saved[i * S * H + j], near);
    }
    for (int64_t r = 0; saved && r + 1 < N; ++r)
        for (int64_t j = S * H; j < lds; ++j)
            if (!std::isnan(wide(saved[r * lds + j]))) fail("forward wrote between the rows of saved");
    for (int64_t r = 0; r + 1 < N; ++r)
        for (int64_t j = H; j < ldy; ++j)
            if (!std::isnan(wide(y[r * ldy + j]))) fail("forward wrote between the rows of y");
    ++passed;
    if (!keep) return;

    // dy may have its steps and lanes in either order, whatever the order of y.
    const bool swapped = coin();
    const Buffer<Y> dy(below(4) ? N * H : 0);
    const int64_t dy_step = (swapped || with_starts ? 1 : B) * H, dy_lane = (swapped ? T : 1) * H;
    const auto dy_row = [&](int64_t i) {
        return with_starts ? row(i) * H : i / B * dy_step + i % B * dy_lane;
    };
    for (int64_t i = 0; i < T * B; ++i)
        for (int64_t j = 0; dy && live(i) && j < H; ++j)
            ref.dy[i * H + j] = wide(dy[dy_row(i) + j] = Stored<Y>::from(uniform()));
    const Buffer<R> dhn(coin() ? B * H : 0, 1), dcn(lstm && coin() ? B * H : 0, 1);
    ref.dhn = dhn.doubles(B * H);
    ref.dcn = dcn.doubles(B * H);
    // relu has a kink: beside it, rounding decides the side, and forward's word counts.
    for (int64_t i = 0; cell == Cell::rnn_relu && i < T * B * H; ++i)
        if (live(i / H)) ref.y[i] = wide(y[y_row(i / H) * ldy + i % H]);
    ref.backward();
    // The output is the caller's by now: backward must not look at it.
    std::memset(y, 0xff, size_t((N - 1) * ldy + H) * sizeof(Y));

    const bool initial = coin();
    const Buffer<E> dz(with_input && coin() ? 0 : N * D * H), dx(with_input && coin() ? N * I : 0);
    const bool adds = dx && !with_lengths && coin();
    Doubles dx_before(size_t(N * I), 0.0);
    for (int64_t i = 0; adds && i < N * I; ++i) dx_before[size_t(i)] = wide(dx[i] = Stored<E>::from(uniform()));
    const Buffer<R> dw_ih(with_input && coin() ? G * H * I : 0), dw_hh(with_input && coin() ? G * H * H : 0);
    const Buffer<R> dh0(initial ? B * H : 0), dc0(initial && lstm ? B * H : 0);
    const Buffer<R> db(coin() ? D * H : 0), norms(coin() ? T * B : 0);
    {
        const Buffer<uint8_t> work(int64_t(k.workspace(p, true, I)));
        Backward<E> f{dy, dy_step, dy_lane, dhn, dcn, saved, lds, h0, c0, w, dz, dh0, dc0, db, norms, work};
        if (with_input) f.w_ih = w_ih, f.I = I, f.x = x, f.ldx = ldx, f.dx = dx, f.dw_ih = dw_ih, f.dw_hh = dw_hh;
        f.adds_dx = adds;
        k.backward(p, f);
    }
    same_all("dh0", dh0, ref.dh0, near);
    same_all("dc0", dc0, ref.dc0, near);
    same_all("norms", norms, ref.norms, near);
    same_all("db", db, ref.db, near * double(B));
    for (int64_t i = 0; i < T * B; ++i)
        for (int64_t j = 0; dz && (live(i) || !with_starts) && j < D * H; ++j)
            same("dz", i * D * H + j, wide(dz[row(i) * D * H + j]), ref.dz[i * D * H + j], near);
    Doubles want_ih(size_t(G * H * I)), want_hh(size_t(G * H * H));
    for (int64_t i = 0; with_input && i < T * B; ++i) {
        if (!live(i) && with_starts) continue;
        Doubles want(size_t(I), 0.0);
        for (int64_t n = 0; live(i) && n < G * H; ++n) {
            const double *d = &ref.dz[size_t(i * D * H)], own = d[n];
            const double hidden = d[cell == Cell::gru && n >= 2 * H ? n + H : n];
            for (int64_t c = 0; c < I; ++c) {
                want[size_t(c)] += own * double(w_ih[n * I + c]);
                want_ih[size_t(n * I + c)] += own * wide(x[row(i) * ldx + c]);
            }
            for (int64_t j = 0; j < H; ++j) want_hh[size_t(n * H + j)] += hidden * ref.before[size_t(i * H + j)];
        }
        for (int64_t c = 0; dx && c < I; ++c) {
            const int64_t at = row(i) * I + c;
            same("dx", i * I + c, wide(dx[at]), dx_before[size_t(at)] + want[size_t(c)], near);
        }
    }
    same_all("dw_ih", dw_ih, want_ih, near * double(B));
    same_all("dw_hh", dw_hh, want_hh, near * double(B));
    ++passed;
}

}  // namespace bptt

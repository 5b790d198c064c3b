// Runs the compiled kernels without torch, for a build with sanitizers: csrc/sanitize.sh.
//
// Every buffer has exactly the size the interface asks for, and what a kernel must write, or must
// not read, starts as NaN. Results are compared with a plain loop in double. The cells, sizes and
// element types are all crossed; the options are drawn anew for each of them from a fixed seed.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "crowd.h"
#include "kernels.h"
#include "kernels_buffer.h"
#include "kernels_compare.h"
#include "kernels_layer.h"
#include "kernels_reference.h"
#include "stream.h"

using namespace bptt;

namespace {

template <class E>
Buffer<E> columns(int64_t N, int64_t K, const Buffer<E>& w) {
    const Kernels<E>& k = kernels<E>(Cell::rnn_tanh);
    Buffer<E> out(k.columns_padded(N) * K);
    k.pack_columns(N, K, w, out);
    return out;
}

// out = W x + b
template <class E>
Doubles affine(const Buffer<E>& w, const double* x, int64_t N, int64_t K, const Doubles& b) {
    Doubles out = b;
    for (int64_t j = 0; j < N; ++j)
        for (int64_t i = 0; i < K; ++i) out[j] += double(w[j * K + i]) * x[i];
    return out;
}

template <class E>
void check_product(int64_t N, int64_t K) {
    running = "row_product N=" + std::to_string(N) + " K=" + std::to_string(K);
    const Buffer<E> w(N * K, 1), a(K, 1), packed = columns(N, K, w);
    const Doubles want = affine(w, a.doubles(0).data(), N, K, Doubles(size_t(N), 0.0));
    for (Cell cell : {Cell::rnn_tanh, Cell::rnn_relu, Cell::gru, Cell::lstm}) {
        const Kernels<E>& k = kernels<E>(cell);
        const Buffer<E> c(k.columns_padded(N));
        k.row_product(a, K, packed, N, c);
        same_all("product", c, want, tolerance<E>(1, K));
    }
    ++passed;
}

template <class E>
void check_scatter(int64_t T, int64_t B, int64_t width, int threads, bool with_lengths) {
    running = "scatter_add width=" + std::to_string(width) + " threads=" + std::to_string(threads);
    const int64_t V = 5, ld = width + 2;
    const Buffer<int64_t> lengths(with_lengths ? B : 0), tokens(T * B);
    using R = Real<E>;
    const Buffer<E> rows((T * B - 1) * ld + width, 1);
    const Buffer<R> table(V * width, 1);
    for (int64_t b = 0; b < lengths.size(); ++b) lengths[b] = 1 + below(T);
    const Problem p{T, B, 1, 1, T, lengths, nullptr, nullptr, false, threads};
    std::vector<R> want(table + 0, table + V * width);
    for (int64_t i = 0; i < T * B; ++i) {
        if (i / B >= p.length(i % B)) continue;  // the token of padding stays -1
        tokens[i] = below(V);
        for (int64_t j = 0; j < width; ++j)
            want[tokens[i] * width + j] += R(wide(rows[p.row(i / B, i % B) * ld + j]));
    }
    scatter_add<E>(p, tokens, rows, ld, width, table);
    // The order of the sums is promised, so every bit is.
    same_all("table", table, Doubles(want.begin(), want.end()), 0);
    ++passed;
}

// Two layers and an output, step by step, against whole sequences.
template <class E>
void check_stream(Cell lower, Cell upper, int64_t B, bool with_tokens) {
    running = std::string("stream ") + cell_names[int(lower)] + ", " + cell_names[int(upper)] +
              " B=" + std::to_string(B) + (with_tokens ? " tokens" : "");
    const int64_t T = 6, V = 4, N = 11, H[2] = {9, 17}, I[2] = {5, H[0]};
    const Cell cells[2] = {lower, upper};
    const Buffer<E> x(T * B * I[0], 1), table(V * gates_of(lower) * H[0], 1);
    const Buffer<int64_t> tokens(T * B);
    for (int64_t i = 0; i < T * B; ++i) tokens[i] = below(V);
    std::vector<Buffer<E>> kept;
    std::vector<Buffer<uint8_t>> work;
    const auto keep = [&](const Buffer<E>& b) -> E* { return kept.emplace_back(b); };

    Stream<E> stream(B);
    std::vector<Reference> whole;
    std::vector<StreamLayer<E>> layers;
    Doubles input = x.doubles(0);
    for (int l = 0; l < 2; ++l) {
        const Kernels<E>& k = kernels<E>(cells[l]);
        const int64_t width = gates_of(cells[l]) * H[l];
        const Buffer<E> w_ih(width * I[l], 0.5), w_hh(width * H[l], 0.3);
        const Buffer<E> b_ih(coin() ? width : 0, 0.5), b_hh(coin() ? width : 0, 0.5);
        const bool projected = l == 0 && with_tokens, lstm = cells[l] == Cell::lstm;
        const Buffer<E> panels(int64_t(k.packed_size(H[l]))), h(B * H[l], 1), c(lstm ? B * H[l] : 0, 1);
        k.pack(H[l], w_hh, b_ih, b_hh, panels, 1);

        Reference& ref = whole.emplace_back(cells[l], T, B, H[l]);
        for (int64_t i = 0; i < T * B; ++i) {
            Doubles xp(size_t(width), 0.0);
            if (projected) xp.assign(table + tokens[i] * width, table + (tokens[i] + 1) * width);
            else xp = affine(w_ih, &input[i * I[l]], width, I[l], xp);
            ref.xp.insert(ref.xp.end(), xp.begin(), xp.end());
        }
        ref.w = w_hh.doubles(0);
        ref.b_ih = b_ih.doubles(width);
        ref.b_hh = b_hh.doubles(width);
        ref.h0 = h.doubles(0);
        ref.c0 = c.doubles(B * H[l]);
        ref.forward();
        input = ref.y;

        const Problem p{1, B, H[l], B, 1, nullptr, nullptr, nullptr, false, 1};
        work.emplace_back(int64_t(k.workspace(p, false, 0)));
        layers.push_back({cells[l], I[l], H[l], projected ? nullptr : keep(columns(width, I[l], w_ih)),
                          keep(panels), keep(h), keep(c),
                          keep(Buffer<E>(projected ? 0 : B * k.columns_padded(width))),
                          keep(Buffer<E>(B * H[l])), work.back()});
        stream.add(layers.back());
    }
    const int64_t ld = kernels<E>(lower).columns_padded(N);
    const Buffer<E> w(N * H[1], 0.5), b(coin() ? N : 0, 0.5), out(B * ld);
    stream.finish({N, H[1], keep(columns(N, H[1], w)), b, out});

    const double near = tolerance<E>(2 * T, 4 * H[1]);
    for (int64_t t = 0; t < T; ++t) {
        if (with_tokens) stream.step_tokens(tokens + t * B, table, V);
        else stream.step(x + t * B * I[0]);
        for (int64_t lane = 0; lane < B; ++lane) {
            const Doubles want = affine(w, &input[(t * B + lane) * H[1]], N, H[1], b.doubles(N));
            for (int64_t j = 0; j < N; ++j) same("output", j, double(out[lane * ld + j]), want[j], near);
            for (int l = 0; l < 2; ++l)
                for (int64_t j = 0; j < H[l]; ++j) {
                    const double state = whole[l].y[(t * B + lane) * H[l] + j];
                    same("y", j, double(layers[l].y[lane * H[l] + j]), state, near);
                    same("h", j, double(layers[l].h[lane * H[l] + j]), state, near);
                }
        }
    }
    for (int l = 0; l < 2; ++l)
        for (int64_t i = 0; layers[l].c && i < B * H[l]; ++i)
            same("c", i, double(layers[l].c[i]), whole[l].cn[i], near);
    ++passed;
}

constexpr Cell all_cells[] = {Cell::rnn_tanh, Cell::rnn_relu, Cell::gru, Cell::lstm};

template <class E>
void check_layer(Cell cell, int64_t T, int64_t B, int64_t H) {
    if (cell == Cell::gru) check_layer<E, typename OutputOf<E, Cell::gru>::type>(cell, T, B, H);
    else check_layer<E, E>(cell, T, B, H);
}

template <class E>
void check_steps() {
    for (place = 0; place < places; ++place)
        for (Cell cell : all_cells)
            for (int64_t H : {1, 5, 16, 33, 64, 70})
                for (int64_t B : {1, 3, 5, 8, 25}) check_step<E>(cell, B, 1 + below(40), H);
    place = heap;
}

template <class E>
void check_layers() {
    for (place = 0; place < places; ++place)
        for (Cell cell : all_cells) {
            for (int64_t T : {1, 2, 5})
                for (int64_t B : {1, 5, 6, 7, 13})
                    for (int64_t H : {1, 2, 7, 8, 9, 15, 16, 17, 33, 48})
                        for (int draw = 0; draw < 3; ++draw) check_layer<E>(cell, T, B, H);
            // Smaller problems run on one thread whatever is asked for; these do not. The last is
            // packed by several threads, and its products go over a panel in more than one part.
            for (int i = 0; i < 8; ++i) check_layer<E>(cell, 9, 13, 64 + i);
            // More lanes than make a block of steps, and blocks that lanes of several lengths fill.
            for (int64_t B : {50, 150, 300}) check_layer<E>(cell, 5, B, 20);
            // Lanes in more pieces than threads, which hidden units of two panels do not fill evenly.
            for (int draw = 0; draw < 4; ++draw) check_layer<E>(cell, 30, 100, 20);
            check_layer<E>(cell, 2, 5, cell == Cell::gru ? 272 : cell == Cell::lstm ? 232 : 456);
        }
}

template <class E>
void check_streams() {
    for (place = 0; place < places; ++place) {
        for (Cell cell : all_cells)
            for (Cell upper : all_cells)
                for (bool with_tokens : {false, true})
                    check_stream<E>(cell, upper, 1 + below(3), with_tokens);
        for (int64_t N : {1, 7, 8, 16, 17, 33, 130})
            for (int64_t K : {1, 2, 9, 48, 600}) check_product<E>(N, K);
    }
}

template <class E>
void check_scatters() {
    for (place = 0; place < places; ++place)
        for (int threads : {1, 2, 3})
            for (bool with_lengths : {false, true})
                for (int64_t width : {1, 7, 16, 33, 1100})
                    check_scatter<E>(19, 13, width, threads, with_lengths);
}

// What is kept is scaled, what is dropped is zero, and threads change neither. That the mask is the key's is
// compared in Python, with the generator as its paper writes it.
void check_dropouts() {
    for (place = 0; place < places; ++place)
        for (int64_t n : {1, 7, 16, 63, 64, 65, 200, 70001}) {
            running = "dropout n=" + std::to_string(n);
            const Buffer<float> x(n, 1), once(n);
            dropout(x, once, n, 16384, 12345, 1);
            for (int threads : {2, 3}) {
                const Buffer<float> y(n);
                dropout(x, y, n, 16384, 12345, threads);
                for (int64_t i = 0; i < n; ++i) {
                    same("y", i, double(y[i]), double(once[i]), 0);
                    if (y[i] != 0) same("kept", i, double(y[i]), double(x[i]) * 4 / 3, 1e-6);
                }
            }
            ++passed;
        }
}

// Against double arithmetic; what is written stays within the rows.
void check_cross_entropies() {
    for (place = 0; place < places; ++place)
        for (int64_t V : {1, 2, 15, 16, 17, 104, 300})
            for (int threads : {1, 3}) {
                running = "cross_entropy V=" + std::to_string(V);
                const int64_t rows = 97;
                const Buffer<float> x(rows * V, 3), dx(rows * V);
                const Buffer<int64_t> target(rows);
                for (int64_t r = 0; r < rows; ++r) target[r] = r % 5 ? (r * 7) % V : -100;
                const Buffer<double> nats(rows);
                cross_entropy(x, rows, V, target, -100, 0.5f, dx, nats, threads);
                for (int64_t r = 0; r < rows; ++r) {
                    double sum = 0;
                    for (int64_t j = 0; j < V; ++j) sum += std::exp(double(x[r * V + j]));
                    const bool scored = target[r] >= 0;
                    same("nats", r, nats[r], scored ? std::log(sum) - double(x[r * V + target[r]]) : 0, 1e-5);
                    for (int64_t j = 0; j < V; ++j) {
                        const double soft = std::exp(double(x[r * V + j])) / sum - (j == target[r]);
                        same("gradient", j, double(dx[r * V + j]), scored ? 0.5 * soft : 0, 1e-6);
                    }
                }
                ++passed;
            }
}

template <class E>
void check_all() {
    check_steps<E>();
    check_layers<E>();
    check_streams<E>();
    check_scatters<E>();
}

}  // namespace

#if defined(__linux__)
// Beside others OpenMP has more threads, which are gone when it has been quiet for a while.
void check_crowd() {
    unsetenv("OMP_WAIT_POLICY");
    unsetenv("GOMP_SPINCOUNT");
    if (!watches_crowd()) return;
    const auto threads = [] {
        const auto all = std::filesystem::directory_iterator("/proc/self/task");
        return std::distance(begin(all), end(all));
    };
    const auto before = threads();
    constexpr int64_t ms = 1'000'000;
    const auto tell = [](int times, int64_t lost) {
        for (int i = 0; i < times; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(21));
            note_crowd(2, clock_now() - 20 * ms, lost);
        }
    };
    const auto comes_to = [&](auto wanted) {
        for (int i = 0; i < 500 && !wanted(threads()); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
        if (!wanted(threads())) {
            std::printf("%ld threads, %ld before the crowd\n", long(threads()), long(before));
            std::exit(1);
        }
    };
    const auto same = [&](auto n) { return n == before; };
    tell(20, 2 * ms);  // a tenth of a processor: a quiet machine has that now and then
    comes_to(same);
    for (int turn = 0; turn < 2; ++turn) {
        tell(5, 16 * ms);
        comes_to([&](auto n) { return n >= before + 2; });
        tell(60, 0);
        comes_to(same);
    }
    ++passed;
}
#else
void check_crowd() {}
#endif

int main(int argc, char** argv) {
    if (argc == 2 && !std::strcmp(argv[1], "--isas")) return std::puts(isas()) < 0;
    if (!isa()) {
        std::printf("BPTT_ISA names none of the instruction sets this machine runs: %s\n", isas());
        return 2;
    }
    check_crowd();
    check_all<float>();
    check_all<double>();
    check_layers<bf16>();
    check_scatters<bf16>();
    check_dropouts();
    check_cross_entropies();
    std::printf("%ld passed, 0 failed\n", passed);
}

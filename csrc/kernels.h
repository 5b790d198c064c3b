// The interface of every kernel: one layer, one direction, all time steps in one call.
//
// A kernel reads through const pointers and writes into the caller's buffers. It never throws,
// never allocates and knows nothing of torch. The caller has checked every size and holds
// `workspace()` bytes for it.
//
// Letters: T time steps, B lanes, H hidden size, G gates (1 RNN, 3 GRU r,z,n, 4 LSTM i,f,g,o).
#pragma once

#include <cstddef>
#include <cstdint>

namespace bptt {

// The upper half of a float: what is stored, and multiplied, where a call runs in bfloat16. Sums, states
// and the arithmetic of the gates stay in float.
struct bf16 {
    uint16_t bits;
};

template <class T>
struct RealOf {
    using type = T;
};
template <>
struct RealOf<bf16> {
    using type = float;
};
// The type that elements stored as T are computed in.
template <class T>
using Real = typename RealOf<T>::type;

enum class Cell : int { rnn_tanh = 0, rnn_relu = 1, gru = 2, lstm = 3 };

// Backward, numbers too small for the exponent of T (below 1.2e-38 in float) are zeros.
//
// What a call runs over. Arrays by time have one row per (step, lane); row(t, b) lies at
// t * step + b * lane, so that time-major (step=B, lane=1) and batch-major (step=1, lane=T)
// buffers are both read in place; the output alone is time-major always, as torch's is, so that
// what draws random numbers over it draws the same ones. With `starts` the rows are packed: those of step t begin at
// starts[t], one for each lane that still runs, lanes ordered longest first; there is no padding.
// Masks and tokens are always (T, B), time-major.
struct Problem {
    int64_t T, B, H;
    int64_t step, lane;
    const int64_t* lengths;  // (B) or null: lane b runs steps 0 .. lengths[b]-1; hn, cn, dh0 and dc0
                             // of a lane without steps are left as they are
    const uint8_t* reset;    // (T, B) or null: the state is zero before step t; nothing flows through
    const uint8_t* cut;      // (T, B) or null: the state passes, the gradient does not
    bool reverse;            // from the last valid step down to 0
    int threads;
    const int64_t* starts = nullptr;  // (T) or null

    int64_t row(int64_t t, int64_t b) const { return starts ? starts[t] + b : t * step + b * lane; }
    int64_t output_row(int64_t t, int64_t b) const { return starts ? starts[t] + b : t * B + b; }
    int64_t length(int64_t b) const { return lengths ? lengths[b] : T; }
};

// Widths, in multiples of H, of the rows that forward saves and backward returns.
//   saved: RNN h; GRU r, z, n, W_hn h + b_hn, h; LSTM i, f, g, o, c, h. The state h stands here a
//          second time because y is the caller's, who may write over it before backward.
//   dz:    RNN dz; GRU dr, dz, dn, dn * r (input side = first three, hidden side = 1, 2, 4); LSTM 4.
constexpr int64_t gates_of(Cell c) { return c == Cell::gru ? 3 : c == Cell::lstm ? 4 : 1; }
constexpr int64_t saved_of(Cell c) { return c == Cell::gru ? 5 : c == Cell::lstm ? 6 : 1; }
constexpr int64_t dz_of(Cell c) { return c == Cell::gru || c == Cell::lstm ? 4 : 1; }

// The elements of y and dy: T, but a GRU in bfloat16 has them in float, as torch's has under autocast.
template <class T, Cell c>
struct OutputOf {
    using type = T;
};
template <>
struct OutputOf<bf16, Cell::gru> {
    using type = float;
};

template <class T>
struct Forward {
    const T* xp;            // projected input, G*H used of every ldx; or, with tokens, the table's rows
    int64_t ldx;            // elements between rows of xp
    const int64_t* tokens;  // (T, B) or null: row of the table that step (t, b) reads
    const Real<T>* b_ih;    // (G*H) or null
    const Real<T>* b_hh;    // (G*H) or null
    const Real<T>* w_hh;    // (G*H, H)
    const Real<T>* packed;  // or these three as `pack` leaves them, made beforehand; else null
    const Real<T>* h0;      // (B, H) or null = zeros
    const Real<T>* c0;      // LSTM only
    void* y;                // rows of H of OutputOf; zero beyond a lane's length. May be xp itself (RNN,
                            // time-major, not saved)
    T* saved;               // rows of lds, or null: nothing is kept. May be xp itself
    int64_t lds;
    Real<T>* hn;            // (B, H) state at each lane's last step
    Real<T>* cn;
    void* work;
    // (G*H, I) or null. With it xp is not projected yet but x itself, rows of I, ldx apart: the kernel
    // multiplies each step's input together with its state. Where `takes_input` says so.
    const Real<T>* w_ih = nullptr;
    int64_t I = 0;
    int64_t ldy = 0;  // elements between rows of y; 0 for H
};

template <class T>
struct Backward {
    // Of OutputOf; element (t, b, j) at t*dy_step + b*dy_lane + j, packed row*dy_step + j; null = zeros
    const void* dy;
    int64_t dy_step, dy_lane;
    const Real<T>* dhn;   // (B, H) or null = zeros
    const Real<T>* dcn;
    const T* saved;       // as forward wrote it
    int64_t lds;
    const Real<T>* h0;
    const Real<T>* c0;
    const Real<T>* w_hh;  // (G*H, H)
    T* dz;                // rows of dz_of(cell)*H, zero beyond a lane's length; or, with w_ih, null
    Real<T>* dh0;         // (B, H) or null
    Real<T>* dc0;
    Real<T>* db;          // (dz_of(cell)*H) sum of dz over steps and lanes, before any rounding; or null
    Real<T>* norms;       // (T, B) ‖dL/dh_t‖ of each lane, or null
    void* work;
    // As Forward's: then the kernel makes these gradients too, each of them if it is not null.
    const Real<T>* w_ih = nullptr;  // (G*H, I)
    int64_t I = 0;
    const T* x = nullptr;   // rows of I, ldx apart
    int64_t ldx = 0;
    T* dx = nullptr;        // rows of I, zero beyond a lane's length
    Real<T>* dw_ih = nullptr;
    Real<T>* dw_hh = nullptr;
    bool adds_dx = false;   // to what stands in dx; then there are no lengths
};

// One time step of one layer, on weights as torch holds them; all arrays are contiguous.
template <class T>
struct Step {
    const T* x;  // (B, I)
    int64_t I;
    const T *w_ih, *w_hh;  // (G*H, I), (G*H, H)
    const T *b_ih, *b_hh;  // (G*H) or null
    const T *h0, *c0;      // (B, H) or null = zeros
    T *h, *c;              // (B, H), and none of the arrays above
    T* saved;              // (B, saved_of(cell)*H) or null, as Forward's
    void* work;
};

// What is null is not wanted, but for dy, dhn, dcn and the states, which are zeros.
template <class T>
struct StepBack {
    const T *dy, *dhn, *dcn;  // (B, H)
    const T* x;               // (B, I), rows ldx elements apart
    int64_t I, ldx;
    const T *w_ih, *w_hh, *h0, *c0, *saved;
    T *dx, *dh0, *dc0, *dw_ih, *dw_hh, *db_ih, *db_hh;
    void* work;
};

// One cell in one element type, compiled for one instruction set.
template <class T>
struct Kernels {
    void (*forward)(const Problem&, const Forward<T>&);
    void (*backward)(const Problem&, const Backward<T>&);
    // Elements of, and packing into, the form that Forward::packed takes.
    size_t (*packed_size)(int64_t H);
    void (*pack)(int64_t H, const Real<T>* w_hh, const Real<T>* b_ih, const Real<T>* b_hh, Real<T>* out,
                 int threads);
    // Whether forward and backward may be given w_ih, and x of I columns: where all weights fit beside
    // what a block of steps needs, in the second cache. Elsewhere products over all steps are faster.
    bool (*takes_input)(int64_t B, int64_t I, int64_t H);
    // Bytes of work that forward (or backward) needs for this problem; I as there.
    size_t (*workspace)(const Problem&, bool backward, int64_t I);
    // One row times a matrix (N, K) that was packed before: c = W a, c with room for
    // columns_padded(N) elements. What a streaming step needs and a whole sequence leaves to BLAS.
    // Null for bf16.
    int64_t (*columns_padded)(int64_t N);
    void (*pack_columns)(int64_t N, int64_t K, const T* w, T* out);
    void (*row_product)(const T* a, int64_t K, const T* packed, int64_t N, T* c);
    // A single time step, and the bytes of work that it needs forward or backward.
    void (*step)(int64_t B, int64_t H, int threads, const Step<T>&);
    void (*step_back)(int64_t B, int64_t H, const StepBack<T>&);
    size_t (*step_workspace)(int64_t B, int64_t I, int64_t H, int threads, bool backward);
};

// The kernels of the instruction set in use; `isa()` names it, `isas()` lists those this machine
// runs, best first, separated by spaces.
template <class T>
const Kernels<T>& kernels(Cell);
const char* isa();
const char* isas();

// Calls run(with, piece, thread) for each of the pieces, on so many threads at most; thread numbers begin with
// 0, and no two threads at one time have the same.
void share_out(int threads, int pieces, void (*run)(const void*, int, int), const void* with);

// Whether the instruction set in use multiplies bfloat16. The kernels of the others do the same by
// other instructions, to the bit and slowly: for tests.
bool multiplies_bf16();

// y[i] = x[i] * 65536 / (65536 - threshold) where the key's i-th number, 0 .. 65535, reaches the
// threshold, and 0 elsewhere. The same for every instruction set and number of threads; y may be x.
void dropout(const float* x, float* y, int64_t n, uint32_t threshold, uint64_t key, int threads);

// nats[r] = -log softmax(x[r])[target[r]] of rows of V logits, 0 where the target is `ignored`; dx, unless
// null, is its gradient (softmax - one-hot) * scale. Targets are 0 .. V - 1, or `ignored`.
void cross_entropy(const float* x, int64_t rows, int64_t V, const int64_t* target, int64_t ignored, float scale,
                   float* dx, double* nats, int threads);

// table[token[i], :] += rows[i, :width], in the order of i whatever the number of threads.
// token is (T, B); rows are ordered as the problem says, ld elements apart.
template <class T>
void scatter_add(const Problem&, const int64_t* tokens, const T* rows, int64_t ld, int64_t width,
                 Real<T>* table);

}  // namespace bptt

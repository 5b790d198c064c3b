// The gradients of the input and of the weights, where the kernel makes them itself.
//
// They are products over all steps. Taken after the last one they would read from memory what the steps wrote
// there. So a thread keeps the rows of a few steps, which lie in its caches, until they make a block: dz as
// rows, which is the left factor; x and the state before the step as panels, which are the right one.
// From a block follow its rows of dx, and what it adds to the sums for the weights.
#pragma once

#include "lanes.h"
#include "panel.h"

namespace bptt {
namespace BPTT_ISA {

// Rows of a block: whole steps, and about as many as a panel has in L1.
template <class T>
int64_t block_rows(int64_t lanes) {
    return lanes >= Tile<T>::KC ? lanes : Tile<T>::KC / lanes * lanes;
}

// Left factors stand as the hidden side has them, G*H. A GRU's fourth part is the input side's third.
template <class T, Cell kind>
class Block {
public:
    static constexpr int64_t G = gates_of(kind), D = dz_of(kind), NR = Tile<T>::NR, L = Simd<T>::L;

    // Elements of the memory that a thread needs to work in, and of each piece's sums.
    static int64_t size(int64_t lanes, int64_t I, int64_t H, int64_t lda) {
        const int64_t rows = block_rows<T>(lanes), panels = panels_of<T>(I) + panels_of<T>(H);
        return padded<T>(rows * lda) + padded<T>(rows * NR) + panels * NR * rows;
    }
    static int64_t sums_size(int64_t I, int64_t H) {
        return (panels_of<T>(I) + panels_of<T>(H)) * NR * G * H + padded<T>(D * H);
    }

    Block(const Backward<T>& f, int64_t lanes, int64_t H, int64_t lda, const T* packed, int64_t* rows, T* memory,
          T* sums)
        : f_(&f), H_(H), lda_(lda), most_(block_rows<T>(lanes)), packed_(packed), rows_(rows), left_(memory),
          product_(left_ + padded<T>(most_ * lda)), right_(product_ + padded<T>(most_ * NR)),
          sums_(sums), db_(sums_ + panels() * NR * G * H) {
        __builtin_memset(sums_, 0, size_t(panels() * NR * G * H) * sizeof(T));
        __builtin_memset(db_, 0, size_t(D * H) * sizeof(T));
    }

    // Room for the left factors of a step of so many lanes.
    T* begin(int64_t live) {
        if (filled_ + live > most_) flush();
        return left_ + filled_ * lda_;
    }
    // The right factors of lane r of that step, whose x and dx are the given row.
    void keep(int64_t r, int64_t row, const T* before) {
        rows_[filled_ + r] = row;
        T* const to = right_ + (filled_ + r) * NR;
        if (f_->dw_ih) spread(f_->x + row * f_->ldx, f_->I, to);
        if (f_->dw_hh) spread(before, H_, to + panels_of<T>(f_->I) * most_ * NR);
    }
    void end(int64_t live) { filled_ += live; }

    void flush() {
        if (filled_ == 0) return;
        constexpr bool gru = kind == Cell::gru;
        const int64_t shared = gru ? 2 * H_ : G * H_;  // columns of the left factor that both sides have
        for (int64_t u = 0; f_->dx && u < panels_of<T>(f_->I); ++u) {
            const T* const w = packed_ + u * G * H_ * NR;
            const bool narrow = is_narrow(u);
            multiply<T>(left_, lda_, filled_, w, 1, shared, product_, 0, false, narrow);
            if (gru) multiply<T>(left_ + 3 * H_, lda_, filled_, w + 2 * H_ * NR, 1, H_, product_, 0, true, narrow);
            const int64_t n = f_->I - u * NR < NR ? f_->I - u * NR : NR;
            for (int64_t r = 0; r < filled_; ++r) {
                T* const to = f_->dx + rows_[r] * f_->I + u * NR;
                by_vector<T>(n, [&](int64_t j, auto part) {
                    const Vec<T> d = load(product_ + r * NR + j);
                    store(to + j, f_->adds_dx ? load(to + j, part) + d : d, part);
                });
            }
        }
        for (int64_t q = 0; q < panels(); ++q) {
            const bool input = q < panels_of<T>(f_->I);
            if (!(input ? f_->dw_ih : f_->dw_hh)) continue;
            const T* const panel = right_ + q * most_ * NR;
            T* const c = sums_ + q * G * H_ * NR;
            const auto add = is_narrow(q) ? &add_outer<T, 1> : &add_outer<T, 2>;
            add(left_, lda_, input ? shared : G * H_, panel, filled_, c);
            if (gru && input) add(left_ + 3 * H_, lda_, H_, panel, filled_, c + 2 * H_ * NR);
        }
        if (f_->db)
            by_vector<T>(D * H_, [&](int64_t j, auto part) {
                Vec<T> sum{};
                for (int64_t r = 0; r < filled_; ++r) sum += load(left_ + r * lda_ + j, part);
                store(db_ + j, load(db_ + j, part) + sum, part);
            });
        filled_ = 0;
    }

    // What all pieces' blocks have summed, in their order, for rows [begin, end) of the weights.
    static void add_up(const Block* blocks, int pieces, int64_t begin, int64_t end) {
        const Block& one = blocks[0];
        const int64_t input = panels_of<T>(one.f_->I);
        for (int64_t q = 0; q < one.panels(); ++q) {
            T* const to = q < input ? one.f_->dw_ih : one.f_->dw_hh;
            const int64_t N = q < input ? one.f_->I : one.H_, at = (q < input ? q : q - input) * NR;
            if (!to) continue;
            for (int64_t m = begin; m < end; ++m)
                by_vector<T>(N - at < NR ? N - at : NR, [&](int64_t j, auto part) {
                    Vec<T> sum{};
                    for (int i = 0; i < pieces; ++i) sum += load(blocks[i].sums_ + (q * G * one.H_ + m) * NR + j);
                    store(to + m * N + at + j, sum, part);
                });
        }
    }
    static void add_up_bias(const Block* blocks, int pieces) {
        const int64_t H = blocks[0].H_;
        for (int64_t g = 0; g < D; ++g) {
            const int64_t from = (kind == Cell::gru && g >= 2 ? 5 - g : g) * H;
            by_vector<T>(H, [&](int64_t j, auto part) {
                Vec<T> sum{};
                for (int i = 0; i < pieces; ++i) sum += load(blocks[i].db_ + from + j, part);
                store(blocks[0].f_->db + g * H + j, sum, part);
            });
        }
    }

private:
    int64_t panels() const { return panels_of<T>(f_->I) + panels_of<T>(H_); }

    // Whether panel q, of x's and then of the state's, is its last and ends narrow.
    bool is_narrow(int64_t q) const {
        const int64_t input = panels_of<T>(f_->I);
        return (q + 1 == input && ends_narrow<T>(f_->I)) || (q + 1 == panels() && ends_narrow<T>(H_));
    }

    // A row as a row of panels, zeros behind it as far as they are multiplied.
    void spread(const T* from, int64_t n, T* to) const {
        by_vector<T>(n, [&](int64_t j, auto part) { store(to + j / NR * most_ * NR + j % NR, load(from + j, part)); });
    }

    const Backward<T>* f_;
    int64_t H_, lda_, most_, filled_ = 0;
    const T* packed_;  // W_ih as panels of its columns
    int64_t* rows_;
    T *left_, *product_, *right_, *sums_, *db_;
};

}  // namespace BPTT_ISA
}  // namespace bptt

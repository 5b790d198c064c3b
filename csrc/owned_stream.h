// A stream that owns every buffer its kernels touch.
//
// Weights are packed into memory of the stream's own when they are given, and all sizes follow from
// theirs, which are compared here. So nothing that happens to a tensor later, be it resized, freed,
// moved or converted, reaches a kernel. What a step still takes from outside is the address of its
// input, (B, I) elements or B tokens.
#pragma once

#include <cstddef>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "stream.h"

namespace bptt {

// Gives out memory that begins on a cache line.
template <class T>
struct OnCacheLine {
    using value_type = T;
    static constexpr std::align_val_t line{64};

    OnCacheLine() = default;
    template <class U>
    OnCacheLine(const OnCacheLine<U>&) {}
    T* allocate(size_t n) {
        if (n > std::numeric_limits<size_t>::max() / 2 / sizeof(T)) throw std::bad_alloc();
        return static_cast<T*>(::operator new(n * sizeof(T), line));
    }
    void deallocate(T* p, size_t) { ::operator delete(p, line); }
    bool operator==(const OnCacheLine&) const { return true; }
    bool operator!=(const OnCacheLine&) const { return false; }
};

// Elements in memory as a caller gives them, row after row; a vector has one column. Null: left out.
template <class T>
struct Given {
    const T* at = nullptr;
    int64_t rows = 0, columns = 0;
    explicit operator bool() const { return at != nullptr; }
};

template <class T>
class OwnedStream {
public:
    OwnedStream(Cell cell, int64_t lanes, int64_t layers, int64_t hidden)
        : cell_(cell), B_(lanes), L_(layers), H_(hidden), stream_(lanes) {
        // Each below 2^31, so that no product of two of them, and 5 gates, overflows.
        for (int64_t size : {lanes, layers, hidden})
            if (size < 1 || size > std::numeric_limits<int32_t>::max())
                throw std::invalid_argument("expected sizes from 1 to 2^31 - 1, received " +
                                            std::to_string(size) + ": pass the sizes of a layer");
        const size_t rows = elements(elements(size_t(lanes), size_t(layers)), size_t(hidden));
        h_.resize(rows);
        if (cell == Cell::lstm) c_.resize(rows);
    }
    OwnedStream(const OwnedStream&) = delete;
    OwnedStream& operator=(const OwnedStream&) = delete;

    // The first layer's product with each of V tokens' vectors, (V, G*H), made beforehand.
    void read_tokens(const Given<T>& table) {
        if (added_ || table_.size()) throw std::logic_error("the table comes first, and once");
        compare("table", table, table.rows, gates_of(cell_) * H_);
        table_.assign(table.at, table.at + table.rows * table.columns);
        V_ = table.rows;
    }

    // The next layer, from the bottom up. w_ih (G*H, I) is left out where tokens are read.
    void add(const Given<T>& w_ih, const Given<T>& w_hh, const Given<T>& b_ih, const Given<T>& b_hh) {
        if (added_ == L_ || N_) throw std::logic_error("there are as many layers as were named");
        const Kernels<T>& k = kernels<T>(cell_);
        const int64_t width = gates_of(cell_) * H_;
        const bool projected = added_ == 0 && V_ > 0;
        if (!projected) compare("w_ih", w_ih, width, added_ ? H_ : w_ih.columns);
        compare("w_hh", w_hh, width, H_);
        if (b_ih) compare("b_ih", b_ih, width, 1);
        if (b_hh) compare("b_hh", b_hh, width, 1);

        StreamLayer<T> layer{};
        layer.cell = cell_;
        layer.I = projected ? 0 : w_ih.columns;
        layer.H = H_;
        if (!projected) {
            layer.w_ih = columns(w_ih);
            layer.xp = room(B_, k.columns_padded(width));
            if (!added_) I_ = w_ih.columns;
        }
        T* packed = room(int64_t(k.packed_size(H_)), 1);
        k.pack(H_, w_hh.at, b_ih.at, b_hh.at, packed, 1);
        layer.packed = packed;
        layer.h = h_.data() + added_ * B_ * H_;
        layer.c = c_.empty() ? nullptr : c_.data() + added_ * B_ * H_;
        layer.y = room(B_, H_);
        const Problem step{1, B_, H_, B_, 1, nullptr, nullptr, nullptr, false, 1};
        work_.emplace_back(k.workspace(step, false, 0));
        layer.work = work_.back().data();
        stream_.add(layer);
        y_ = layer.y;
        ++added_;
    }

    // A product after the last layer, W (N, H) and b (N).
    void finish(const Given<T>& w, const Given<T>& b) {
        if (added_ != L_ || N_) throw std::logic_error("the output comes last, and once");
        compare("w", w, w.rows, H_);
        if (b) compare("b", b, w.rows, 1);
        const T* bias = nullptr;
        if (b) {
            T* own = room(b.rows, 1);
            for (int64_t j = 0; j < b.rows; ++j) own[j] = b.at[j];
            bias = own;
        }
        y_ = room(B_, kernels<T>(cell_).columns_padded(w.rows));
        stream_.finish({w.rows, H_, columns(w), bias, y_});
        N_ = w.rows;
    }

    // Both are false, with nothing done, unless all layers are there and the input is of that kind.
    bool step(const T* x) {
        if (!x || added_ != L_ || V_) return false;
        stream_.step(x);
        return true;
    }
    bool step_tokens(const int64_t* tokens) {
        return tokens && added_ == L_ && V_ && stream_.step_tokens(tokens, table_.data(), V_);
    }

    int64_t lanes() const { return B_; }
    int64_t layers() const { return L_; }
    int64_t hidden() const { return H_; }
    T* h() { return h_.data(); }                          // (L, B, H)
    T* c() { return c_.empty() ? nullptr : c_.data(); }  // an LSTM's
    // (B, width), rows `stride` elements apart; null before the first layer is there.
    T* output() { return y_; }
    int64_t output_width() const { return N_ ? N_ : H_; }
    int64_t output_stride() const { return N_ ? kernels<T>(cell_).columns_padded(N_) : H_; }

private:
    using Memory = std::vector<T, OnCacheLine<T>>;

    static size_t elements(size_t a, size_t b) {
        if (b && a > std::numeric_limits<size_t>::max() / b) throw std::bad_alloc();
        return a * b;
    }

    static void compare(const char* name, const Given<T>& given, int64_t rows, int64_t columns) {
        constexpr int64_t most = std::numeric_limits<int32_t>::max();
        if (given && given.rows == rows && given.columns == columns && rows > 0 && columns > 0 &&
            rows <= most && columns <= most)
            return;
        const auto shape = [](int64_t a, int64_t b) {
            return "(" + std::to_string(a) + ", " + std::to_string(b) + ")";
        };
        throw std::invalid_argument(std::string("expected ") + name + " " + shape(rows, columns) +
                                    ", received " + (given ? shape(given.rows, given.columns) : "none") +
                                    ": pass the weights of one layer");
    }

    T* room(int64_t rows, int64_t columns) {
        return kept_.emplace_back(elements(size_t(rows), size_t(columns))).data();
    }

    T* columns(const Given<T>& matrix) {
        const Kernels<T>& k = kernels<T>(cell_);
        T* packed = room(k.columns_padded(matrix.rows), matrix.columns);
        k.pack_columns(matrix.rows, matrix.columns, matrix.at, packed);
        return packed;
    }

    Cell cell_;
    int64_t B_, L_, H_, I_ = 0, V_ = 0, N_ = 0, added_ = 0;
    Memory h_, c_, table_;
    std::vector<Memory> kept_;  // moving a vector leaves its elements where they are
    std::vector<std::vector<uint8_t>> work_;
    T* y_ = nullptr;
    Stream<T> stream_;
};

}  // namespace bptt

// A stack of layers, of one direction or of two, over one time step or over some, from torch's tensors as
// Python holds them.
//
// A call of one step takes less time than checking it in Python would, and a short one hardly more. So here a tensor's own attributes
// are asked, and its address is taken, in one place: what is plain, dense, of one dtype and of shapes that
// fit is run, and nothing else. For all else the answer is None, nothing was done, and the caller goes the
// usual way, which runs the call or says what is wrong with it.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "kernels.h"
#include "plain_tensor.h"

namespace bptt {

namespace nb = nanobind;

// Memory for a kernel to work in; small pieces stay with the thread.
class Room {
public:
    explicit Room(size_t bytes) {
        constexpr size_t most = 1 << 22;
        static thread_local std::vector<uint8_t> kept;
        if (bytes > most) own_.reset(new uint8_t[bytes]);
        else if (kept.size() < bytes) kept.resize(bytes);
        at_ = own_ ? own_.get() : kept.data();
    }
    void* at() const { return at_; }

private:
    std::unique_ptr<uint8_t[]> own_;
    uint8_t* at_;
};

// The tensors of one call, checked against each other. Weights stand layer after layer, and in it direction
// after direction, as states do: w_ih, w_hh and, with biases, b_ih, b_hh.
//
// With a gradient, each layer keeps rows of what each direction saves and, of two directions, behind them both
// outputs side by side: the input of the next layer.
class PlainCall {
public:
    PlainCall(Cell cell, bool biased, bool batch_first, int64_t directions, nb::handle x, nb::handle h0,
              nb::handle c0, nb::tuple weights)
        : cell_(cell), each_(biased ? 4 : 2), directions_(directions), x_(x), h0_(h0), c0_(c0), weights_(weights) {
        ok_ = read(batch_first);
    }
    explicit operator bool() const { return ok_; }
    bool has_layers(int64_t count) const { return layers == count; }

    // Whether a gradient of any of the tensors may be asked for.
    bool requires_grad() const {
        for (const nb::handle given : {x_, h0_, c0_})
            if (!given.is_none() && asks_grad(given)) return true;
        for (const nb::handle given : weights_)
            if (asks_grad(given)) return true;
        return false;
    }

    nb::object forward(int threads, bool save, bool batch_first) const {
        const nb::object y = T == 1 && batch_first ? make(B, 1, output()) : make(T, B, output());
        const nb::object h = make(rows(), B, H), c = lstm() ? make(rows(), B, H) : nb::object(nb::none());
        const nb::object saved = save ? make(layers, T * B, saved_width()) : nb::object(nb::none());
        PlainTensor y_out, h_out, c_out, saved_out;
        if (!y_out.find(y) || !h_out.find(h) || (lstm() && !c_out.find(c)) || (save && !saved_out.find(saved)))
            return nb::none();
        if (many() && x_in.wide()) run_all<double>(threads, y_out, h_out, c_out, saved_out);
        else if (many()) run_all<float>(threads, y_out, h_out, c_out, saved_out);
        else if (x_in.wide()) run<double>(threads, y_out, h_out, c_out, saved_out);
        else run<float>(threads, y_out, h_out, c_out, saved_out);
        if (save) return nb::make_tuple(y, h, c, saved, weights_);
        return lstm() ? nb::make_tuple(y, h, c) : nb::make_tuple(y, h);
    }

    // Gradients of x, h0, c0 and each weight, None where needs says so; None for what does not fit. dy may be
    // turned, lane after lane, whatever x is.
    nb::object backward(int threads, nb::handle dy, bool dy_turned, nb::handle dhn, nb::handle dcn, nb::handle saved,
                        nb::tuple needs) const {
        PlainTensor dy_in, dhn_in, dcn_in, saved_in;
        const bool wide = x_in.wide();
        const auto like_y = [&] {
            return dy_turned || T == 1 ? dy_in.is(wide, B, T, output()) || (T == 1 && dy_in.is(wide, T, B, output()))
                                       : dy_in.is(wide, T, B, output());
        };
        const bool fits = (dy.is_none() || (dy_in.read(dy) && like_y())) &&
                          (dhn.is_none() || (dhn_in.read(dhn) && dhn_in.is(wide, rows(), B, H))) &&
                          (dcn.is_none() || (lstm() && dcn_in.read(dcn) && dcn_in.is(wide, rows(), B, H))) &&
                          saved_in.read(saved) && saved_in.is(wide, layers, T * B, saved_width()) &&
                          nb::len(needs) == size_t(3 + rows() * each_);
        if (!fits) return nb::none();
        const size_t count = nb::len(needs);
        std::vector<nb::object> found(count, nb::object(nb::none()));
        std::vector<PlainTensor> out(count);
        for (size_t i = 0; i < count; ++i) {
            const nb::handle like = i == 0 ? x_ : i == 1 ? h0_ : i == 2 ? c0_ : nb::handle(weights_[i - 3]);
            if (!nb::cast<bool>(needs[i]) || like.is_none()) continue;
            const PlainTensor& in = i == 0 ? x_in : i == 1 ? h_in : i == 2 ? c_in : weight[i - 3];
            const nb::tuple shape = in.axes() == 1   ? nb::make_tuple(in.size(0))
                                    : in.axes() == 2 ? nb::make_tuple(in.size(0), in.size(1))
                                                     : nb::make_tuple(in.size(0), in.size(1), in.size(2));
            found[i] = x_.attr("new_empty")(shape);
            if (!out[i].find(found[i])) return nb::none();
        }
        if (many() && wide) run_all_back<double>(threads, dy_in, dy_turned, dhn_in, dcn_in, saved_in, out);
        else if (many()) run_all_back<float>(threads, dy_in, dy_turned, dhn_in, dcn_in, saved_in, out);
        else if (wide) run_back<double>(dy_in, dhn_in, dcn_in, saved_in, out);
        else run_back<float>(dy_in, dhn_in, dcn_in, saved_in, out);
        nb::list all;
        for (const nb::object& gradient : found) all.append(gradient);
        return nb::tuple(all);
    }

private:
    static bool asks_grad(nb::handle given) {
        const nb::object value = nb::steal(PyObject_GetAttr(given.ptr(), Torch::get().requires_grad));
        if (!value.ptr()) throw nb::python_error();
        return value.ptr() == Py_True;
    }
    bool lstm() const { return cell_ == Cell::lstm; }
    // Whether the kernels of a sequence run, and not that of a step.
    bool many() const { return T > 1 || directions_ > 1; }
    int64_t rows() const { return layers * directions_; }
    int64_t output() const { return directions_ * H; }
    int64_t kept() const { return saved_of(cell_) * H; }  // of one direction
    int64_t saved_width() const { return directions_ * kept() + (directions_ > 1 ? output() : 0); }
    // Where in a saved row the next layer's input begins.
    int64_t input_at() const { return directions_ > 1 ? directions_ * kept() : kept() - H; }

    bool read(bool batch_first) {
        if (!x_in.read(x_) || x_in.axes() != 3) return false;
        const size_t count = nb::len(weights_);
        if (count == 0 || count % size_t(each_ * directions_)) return false;
        layers = int64_t(count) / each_ / directions_;
        T = x_in.size(batch_first);
        B = x_in.size(!batch_first);
        I = x_in.size(2);
        turned = batch_first;
        const bool wide = x_in.wide();
        weight.resize(count);
        for (size_t i = 0; i < count; ++i)
            if (!weight[i].read(weights_[i])) return false;
        if (weight[1].axes() != 2) return false;
        H = weight[1].size(1);
        const int64_t width = gates_of(cell_) * H;
        if (many() && !takes_all()) return false;
        for (int64_t r = 0; r < rows(); ++r) {
            const PlainTensor* const w = &weight[size_t(r * each_)];
            if (!w[0].is(wide, width, r < directions_ ? I : output()) || !w[1].is(wide, width, H)) return false;
            if (each_ == 4 && (!w[2].is(wide, width) || !w[3].is(wide, width))) return false;
        }
        if (!h0_.is_none() && (!h_in.read(h0_) || !h_in.is(wide, rows(), B, H))) return false;
        return c0_.is_none() || (lstm() && c_in.read(c0_) && c_in.is(wide, rows(), B, H));
    }

    nb::object make(int64_t a, int64_t b, int64_t c) const {
        const nb::object sizes[] = {nb::int_(a), nb::int_(b), nb::int_(c)};
        PyObject* const words[] = {x_.ptr(), sizes[0].ptr(), sizes[1].ptr(), sizes[2].ptr()};
        PyObject* const made = PyObject_VectorcallMethod(Torch::get().new_empty, words, 4, nullptr);
        if (!made) throw nb::python_error();
        return nb::steal(made);
    }

    // A step is mostly over before the interpreter's lock would have been handed over and back.
    template <class F>
    void unlocked(F&& body) const {
        if (layers * T * B * H * gates_of(cell_) * (H + I) < 4000000) return body();
        const nb::gil_scoped_release released;
        body();
    }

    template <class T>
    static T* part(const PlainTensor& tensor, int64_t at) {
        T* const start = tensor.at<T>();
        return start ? start + at : nullptr;
    }

    template <class T>
    void run(int threads, const PlainTensor& y, const PlainTensor& h, const PlainTensor& c,
             const PlainTensor& saved) const {
        const Kernels<T>& k = kernels<T>(cell_);
        const Room room(k.step_workspace(B, H > I ? H : I, H, threads, false));
        const int64_t state = B * H, keep = state * saved_of(cell_);
        unlocked([&] {
            const T* x = x_in.at<T>();
            for (int64_t l = 0; l < layers; ++l) {
                const PlainTensor* const w = &weight[size_t(l * each_)];
                Step<T> step{};
                step.x = x;
                step.I = l ? H : I;
                step.w_ih = w[0].at<T>();
                step.w_hh = w[1].at<T>();
                if (each_ == 4) step.b_ih = w[2].at<T>(), step.b_hh = w[3].at<T>();
                step.h0 = part<T>(h_in, l * state);
                step.c0 = part<T>(c_in, l * state);
                step.h = part<T>(h, l * state);
                step.c = part<T>(c, l * state);
                step.saved = part<T>(saved, l * keep);
                step.work = room.at();
                k.step(B, H, threads, step);
                x = step.h;
            }
            __builtin_memcpy(y.at<T>(), x, size_t(state) * sizeof(T));
        });
    }

    // Whether the kernels of a sequence take all layers with their inputs.
    bool takes_all() const {
        const auto fits = [&](auto takes_input) {
            return takes_input(B, I, H) && (layers == 1 || takes_input(B, output(), H));
        };
        if (T > std::numeric_limits<int32_t>::max() / 8 / B) return false;
        return x_in.wide() ? fits(kernels<double>(cell_).takes_input) : fits(kernels<float>(cell_).takes_input);
    }

    // Rows of one layer. All layers read and save them as x has them; but of two directions, layers above the
    // first read what the kernels write, step after step.
    Problem problem(int64_t l, bool save, bool reverse, int threads) const {
        const bool batch_major = turned && (l == 0 || (save && directions_ == 1));
        return {T, B, H, batch_major ? 1 : B, batch_major ? T : 1, nullptr, nullptr, nullptr, reverse, threads};
    }

    // Of one direction of a layer: what is the same forward or backward.
    template <class E, class Call>
    void fill(Call& call, int64_t l, int64_t d) const {
        const int64_t row = l * directions_ + d;
        const PlainTensor* const w = &weight[size_t(row * each_)];
        call.w_ih = w[0].at<E>();
        call.w_hh = w[1].at<E>();
        call.h0 = part<E>(h_in, row * B * H);
        call.c0 = part<E>(c_in, row * B * H);
        call.I = l ? output() : I;
        call.lds = saved_width();
    }

    template <class E>
    size_t room_of(const Kernels<E>& k, bool backward, int threads) const {
        const Problem p = problem(0, true, false, threads);
        const size_t first = k.workspace(p, backward, I), others = layers > 1 ? k.workspace(p, backward, output()) : 0;
        return first > others ? first : others;
    }

    // All time steps. What is saved of a layer holds the input of the next one; where nothing is, two
    // outputs take turns, so that the last is y.
    template <class E>
    void run_all(int threads, const PlainTensor& y, const PlainTensor& h, const PlainTensor& c,
                 const PlainTensor& saved) const {
        const Kernels<E>& k = kernels<E>(cell_);
        const bool save = saved.at<E>() != nullptr;
        const int64_t state = B * H, wide = saved_width(), block = T * B * wide;
        const int64_t between = layers > 1 && !save ? T * B * output() : 0;
        const Room room(room_of<E>(k, false, threads) + size_t(between) * sizeof(E));
        E* const other = static_cast<E*>(room.at());
        unlocked([&] {
            const E* x = x_in.at<E>();
            int64_t ldx = I;
            for (int64_t l = 0; l < layers; ++l) {
                const bool top = l + 1 == layers, beside = save && !top && directions_ > 1;
                E* const out = beside                                      ? part<E>(saved, l * block + input_at())
                               : between && (layers - 1 - l) % 2 ? other : y.at<E>();
                for (int64_t d = 0; d < directions_; ++d) {
                    const int64_t row = l * directions_ + d;
                    const PlainTensor* const w = &weight[size_t(row * each_)];
                    Forward<E> call{};
                    fill<E>(call, l, d);
                    call.xp = x;
                    call.ldx = ldx;
                    if (each_ == 4) call.b_ih = w[2].at<E>(), call.b_hh = w[3].at<E>();
                    call.y = out + d * H;
                    call.ldy = beside ? wide : output();
                    call.saved = part<E>(saved, l * block + d * kept());
                    call.hn = part<E>(h, row * state);
                    call.cn = part<E>(c, row * state);
                    call.work = other + between;
                    k.forward(problem(l, save, d > 0, threads), call);
                }
                x = save ? part<E>(saved, l * block + input_at()) : out;
                ldx = save ? wide : output();
            }
        });
    }

    template <class E>
    void run_all_back(int threads, const PlainTensor& dy, bool dy_turned, const PlainTensor& dhn,
                      const PlainTensor& dcn, const PlainTensor& saved, const std::vector<PlainTensor>& out) const {
        const Kernels<E>& k = kernels<E>(cell_);
        const int64_t state = B * H, wide = saved_width(), block = T * B * wide, W = output();
        const int64_t GH = gates_of(cell_) * H, D = dz_of(cell_);
        const int64_t between = layers > 1 ? T * B * W : 0;
        const Room room(room_of<E>(k, true, threads) + size_t(2 * between + D * H) * sizeof(E));
        // Biases' gradients, and what goes back from a layer to the one below, in two places in turn.
        E *const db = static_cast<E*>(room.at()), *const down = db + D * H;
        unlocked([&] {
            for (int64_t r = rows() - 1; r >= 0; --r) {
                const int64_t l = r / directions_, d = r % directions_;
                const PlainTensor* const g = &out[size_t(3 + r * each_)];
                const bool biased = each_ == 4 && (g[2].at<E>() || g[3].at<E>()), top = l == layers - 1;
                const Problem above = problem(l + 1, true, false, threads);  // whose x dy is the gradient of
                Backward<E> call{};
                fill<E>(call, l, d);
                call.dy = top ? part<E>(dy, d * H) : down + ((l + 1) & 1) * between + d * H;
                call.dy_step = (!top ? above.step : dy_turned ? 1 : B) * W;
                call.dy_lane = (!top ? above.lane : dy_turned ? T : 1) * W;
                call.dhn = part<E>(dhn, r * state);
                call.dcn = part<E>(dcn, r * state);
                call.saved = part<E>(saved, l * block + d * kept());
                call.dh0 = part<E>(out[1], r * state);
                call.dc0 = part<E>(out[2], r * state);
                call.db = biased ? db : nullptr;
                call.x = l ? part<E>(saved, (l - 1) * block + input_at()) : x_in.at<E>();
                call.ldx = l ? wide : I;
                call.dx = l ? down + (l & 1) * between : out[0].at<E>();
                call.adds_dx = d + 1 < directions_;
                call.dw_ih = g[0].at<E>();
                call.dw_hh = g[1].at<E>();
                call.work = down + 2 * between;
                k.backward(problem(l, true, d > 0, threads), call);
                if (!biased) continue;
                if (g[2].at<E>()) __builtin_memcpy(g[2].at<E>(), db, size_t(GH) * sizeof(E));
                if (!g[3].at<E>()) continue;
                __builtin_memcpy(g[3].at<E>(), db, size_t(GH) * sizeof(E));
                // A GRU's candidate has a share of its own on the side of the state.
                if (cell_ == Cell::gru) __builtin_memcpy(g[3].at<E>() + 2 * H, db + 3 * H, size_t(H) * sizeof(E));
            }
        });
    }

    template <class T>
    void run_back(const PlainTensor& dy, const PlainTensor& dhn, const PlainTensor& dcn, const PlainTensor& saved,
                  const std::vector<PlainTensor>& out) const {
        const Kernels<T>& k = kernels<T>(cell_);
        const int64_t state = B * H, wide = saved_of(cell_) * H;
        const size_t bytes = k.step_workspace(B, H > I ? H : I, H, 1, true);
        const Room room(bytes + 2 * size_t(state) * sizeof(T) + 64);
        // What goes back from a layer to the one below, in two places in turn, before the kernel's room.
        T* const between = static_cast<T*>(room.at());
        unlocked([&] {
            const T* arrives = dy.at<T>();
            for (int64_t l = layers - 1; l >= 0; --l) {
                const PlainTensor *const w = &weight[size_t(l * each_)], *const d = &out[size_t(3 + l * each_)];
                StepBack<T> step{};
                step.dy = arrives;
                step.dhn = part<T>(dhn, l * state);
                step.dcn = part<T>(dcn, l * state);
                // The input of all layers but the first is the state of the one below.
                step.x = l ? part<T>(saved, (l - 1) * B * wide + wide - H) : x_in.at<T>();
                step.ldx = l ? wide : I;
                step.I = l ? H : I;
                step.w_ih = w[0].at<T>();
                step.w_hh = w[1].at<T>();
                step.h0 = part<T>(h_in, l * state);
                step.c0 = part<T>(c_in, l * state);
                step.saved = part<T>(saved, l * B * wide);
                step.dx = l ? between + (l & 1) * state : out[0].at<T>();
                step.dh0 = part<T>(out[1], l * state);
                step.dc0 = part<T>(out[2], l * state);
                step.dw_ih = d[0].at<T>();
                step.dw_hh = d[1].at<T>();
                if (each_ == 4) step.db_ih = d[2].at<T>(), step.db_hh = d[3].at<T>();
                step.work = between + 2 * state;
                k.step_back(B, H, step);
                arrives = step.dx;
            }
        });
    }

    Cell cell_;
    int64_t each_, directions_;
    nb::handle x_, h0_, c0_;
    nb::tuple weights_;
    PlainTensor x_in, h_in, c_in;
    std::vector<PlainTensor> weight;
    int64_t layers = 0, T = 0, B = 0, I = 0, H = 0;
    bool turned = false;  // x is batch-major
    bool ok_ = false;
};

// What a module's own dictionary says of it; null, without an error, where it says nothing.
inline PyObject* own_value(nb::dict own, PyObject* name) { return PyDict_GetItem(own.ptr(), name); }

// The weights of a module as a tuple; null unless each is among its parameters, and nothing of its name in
// the instance's own dictionary stands before it.
inline nb::object own_weights(nb::dict own) {
    const Torch& torch = Torch::get();
    PyObject *const parameters = own_value(own, torch.parameters), *const names = own_value(own, torch.names);
    if (!parameters || !PyDict_Check(parameters) || !names || !PyList_Check(names)) return {};
    const Py_ssize_t count = PyList_Size(names);
    nb::object found = nb::steal(PyTuple_New(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* const name = PyList_GetItem(names, i);
        PyObject* const held = PyDict_GetItem(parameters, name);
        if (!held || held == Py_None || PyDict_Contains(own.ptr(), name) != 0) return {};
        PyTuple_SetItem(found.ptr(), i, Py_NewRef(held));
    }
    return found;
}

}  // namespace bptt

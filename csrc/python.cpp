// The bindings. Pointers arrive as integers (a tensor's data_ptr(); 0 is null), because wrapping
// tensors costs more than a small kernel; the Python side has checked what they point to. What can be
// seen from here is looked at again: that sizes are sizes, and that no address is null that must not
// be (a tensor whose storage was freed has a shape and no memory). A stream's weights, which are given
// once, arrive as arrays, and their sizes are compared here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string>
#include <type_traits>

#include "kernels.h"
#include "owned_stream.h"
#include "plain_steps.h"

namespace nb = nanobind;
using nb::literals::operator""_a;
using bptt::Cell;
using bptt::Problem;

namespace {

using Ptr = uintptr_t;

template <class T>
T* at(Ptr p) {
    return reinterpret_cast<T*>(p);
}

// Raises bptt.errors.ArgumentError.
[[noreturn]] void refuse(const char* expected, const std::string& received, const char* remedy) {
    nb::gil_scoped_acquire held;
    const nb::object type = nb::module_::import_("bptt.errors").attr("ArgumentError");
    const nb::object error = type(expected, received, remedy);
    PyErr_SetObject(type.ptr(), error.ptr());
    throw nb::python_error();
}

Cell cell_of(int number) {
    if (number < 0 || number > int(Cell::lstm))
        refuse("a cell number 0..3", std::to_string(number), "use bptt.ops.recur");
    return Cell(number);
}

void need(std::initializer_list<Ptr> addresses) {
    for (Ptr p : addresses)
        if (!p)
            refuse("tensors that lie in memory", "one whose storage was freed",
                   "bring its storage back before the call");
}

template <class T>
struct Binding {
    using R = bptt::Real<T>;

    static void check_input(Ptr w_ih, int64_t I) {
        if (w_ih ? I < 1 : I != 0) refuse("w_ih with I >= 1 columns, or neither", std::to_string(I), "use bptt.ops.recur");
    }

    static void forward(int cell, const Problem& p, Ptr xp, int64_t ldx, Ptr tokens, Ptr b_ih, Ptr b_hh,
                        Ptr w_hh, Ptr h0, Ptr c0, Ptr y, Ptr saved, int64_t lds, Ptr hn,
                        Ptr cn, Ptr work, Ptr w_ih, int64_t I) {
        if (p.T && p.B) need({xp, w_hh, y, hn, work});
        check_input(w_ih, I);
        bptt::kernels<T>(cell_of(cell)).forward(
            p, {at<T>(xp), ldx, at<int64_t>(tokens), at<R>(b_ih), at<R>(b_hh), at<R>(w_hh), nullptr,
                at<R>(h0), at<R>(c0), at<void>(y), at<T>(saved), lds, at<R>(hn), at<R>(cn), at<void>(work), at<R>(w_ih),
                I});
    }

    static void backward(int cell, const Problem& p, Ptr dy, int64_t dy_step, int64_t dy_lane, Ptr dhn,
                         Ptr dcn, Ptr saved, int64_t lds, Ptr h0, Ptr c0, Ptr w_hh, Ptr dz, Ptr dh0,
                         Ptr dc0, Ptr db, Ptr norms, Ptr work, Ptr w_ih, int64_t I, Ptr x, Ptr dx, Ptr dw_ih,
                         Ptr dw_hh) {
        if (p.T && p.B) need({saved, w_hh, w_ih ? x : dz, work});
        check_input(w_ih, I);
        bptt::kernels<T>(cell_of(cell)).backward(
            p, {at<void>(dy), dy_step, dy_lane, at<R>(dhn), at<R>(dcn), at<T>(saved), lds, at<R>(h0),
                at<R>(c0), at<R>(w_hh), at<T>(dz), at<R>(dh0), at<R>(dc0), at<R>(db), at<R>(norms),
                at<void>(work), at<R>(w_ih), I, at<T>(x), I, at<T>(dx), at<R>(dw_ih), at<R>(dw_hh), false});
    }

    static size_t workspace(int cell, const Problem& p, bool backward, int64_t I) {
        return bptt::kernels<T>(cell_of(cell)).workspace(p, backward, I);
    }

    static bool takes_input(int cell, int64_t B, int64_t I, int64_t H) {
        return bptt::kernels<T>(cell_of(cell)).takes_input(B, I, H);
    }

    static void scatter_add(const Problem& p, Ptr tokens, Ptr rows, int64_t ld, int64_t width, Ptr table) {
        if (p.T && p.B) need({tokens, rows, table});
        bptt::scatter_add<T>(p, at<int64_t>(tokens), at<T>(rows), ld, width, at<R>(table));
    }

    using Stream = bptt::OwnedStream<T>;
    using Array = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
    using Tensor = nb::ndarray<nb::pytorch, T>;

    static bptt::Given<T> given(const std::optional<Array>& array) {
        if (!array) return {};
        const size_t axes = array->ndim();
        if (axes < 1 || axes > 2)
            refuse("a matrix or a vector", std::to_string(axes) + " axes", "pass the weights of one layer");
        if (!array->data()) need({0});
        return {array->data(), int64_t(array->shape(0)), axes == 2 ? int64_t(array->shape(1)) : 1};
    }

    // The stream's output as a tensor. What a caller does to it may take its memory away from it
    // (share_memory_, as queues between processes do, and resize_), and then steps would be written
    // to where nobody looks. The tensor's memory is on loan: when the loan ends, a step says so.
    struct Lending : Stream {
        using Stream::Stream;
        int loans = 0;
    };
    struct Loan {
        Lending& from;
        nb::object alive;  // the stream, as long as the tensor is
        ~Loan() { --from.loans; }
    };

    static Tensor lend(nb::handle self) {
        Lending& s = nb::cast<Lending&>(self);
        if (!s.output()) refuse("a stream with layers", "one without", "add the layers first");
        const nb::capsule owner(new Loan{s, nb::borrow(self)}, [](void* p) noexcept { delete static_cast<Loan*>(p); });
        ++s.loans;
        const size_t shape[] = {size_t(s.lanes()), size_t(s.output_width())};
        const int64_t strides[] = {s.output_stride(), 1};
        return Tensor(s.output(), 2, shape, owner, strides);
    }

    static nb::object state(nb::handle self, T* at) {
        if (!at) return nb::none();
        const Lending& s = nb::cast<Lending&>(self);
        const size_t shape[] = {size_t(s.layers()), size_t(s.lanes()), size_t(s.hidden())};
        return nb::cast(Tensor(at, 3, shape, self));
    }

    static void define_stream(nb::module_& m, const std::string& suffix) {
        using Weights = std::optional<Array>;
        const auto optional = [](const char* name) { return nb::arg(name).noconvert().none(); };
        // No release of the GIL: a step takes less time than handing it over and taking it back.
        nb::class_<Lending>(m, ("Stream" + suffix).c_str())
            .def("__init__",
                 [](Lending* self, int cell, int64_t lanes, int64_t layers, int64_t hidden) {
                     new (self) Lending(cell_of(cell), lanes, layers, hidden);
                 })
            .def("read_tokens", [](Lending& s, Weights table) { s.read_tokens(given(table)); },
                 nb::arg("table").noconvert())
            .def("add",
                 [](Lending& s, Weights w_ih, Weights w_hh, Weights b_ih, Weights b_hh) {
                     s.add(given(w_ih), given(w_hh), given(b_ih), given(b_hh));
                 },
                 optional("w_ih"), nb::arg("w_hh").noconvert(), optional("b_ih"), optional("b_hh"))
            .def("finish", [](Lending& s, Weights w, Weights b) { s.finish(given(w), given(b)); },
                 nb::arg("w").noconvert(), optional("b"))
            .def("output", [](nb::handle self) { return lend(self); })
            .def("h", [](nb::handle self) { return state(self, nb::cast<Lending&>(self).h()); })
            .def("c", [](nb::handle self) { return state(self, nb::cast<Lending&>(self).c()); })
            // False: nothing was done, or the output no longer is where it was lent.
            .def("step", [](Lending& s, Ptr x) { return s.step(at<T>(x)) && s.loans > 0; })
            .def("step_tokens",
                 [](Lending& s, Ptr tokens) { return s.step_tokens(at<int64_t>(tokens)) && s.loans > 0; });
    }

    static void define(nb::module_& m, const std::string& suffix) {
        const auto def = [&](const char* name, auto function, auto... arguments) {
            m.def((name + suffix).c_str(), function, nb::call_guard<nb::gil_scoped_release>(), arguments...);
        };
        // Names, as in kernels.h: nobody counts sixteen positions.
        def("forward", &forward, "cell"_a, "problem"_a, "xp"_a, "ldx"_a, "tokens"_a, "b_ih"_a, "b_hh"_a,
            "w_hh"_a, "h0"_a, "c0"_a, "y"_a, "saved"_a, "lds"_a, "hn"_a, "cn"_a, "work"_a, "w_ih"_a = 0, "I"_a = 0);
        def("backward", &backward, "cell"_a, "problem"_a, "dy"_a, "dy_step"_a, "dy_lane"_a, "dhn"_a,
            "dcn"_a, "saved"_a, "lds"_a, "h0"_a, "c0"_a, "w_hh"_a, "dz"_a, "dh0"_a, "dc0"_a, "db"_a,
            "norms"_a, "work"_a, "w_ih"_a = 0, "I"_a = 0, "x"_a = 0, "dx"_a = 0, "dw_ih"_a = 0, "dw_hh"_a = 0);
        def("workspace", &workspace, "cell"_a, "problem"_a, "backward"_a, "I"_a = 0);
        def("takes_input", &takes_input);
        def("scatter_add", &scatter_add);
        if constexpr (!std::is_same_v<T, bptt::bf16>) define_stream(m, suffix);
    }
};

// Lengths (B) and first rows (T) of packed steps from how many lanes run at each: the number of rows,
// or -1 unless the counts begin with B and fall to 1 or more.
int64_t unpack_sizes(int64_t T, int64_t B, Ptr counts, Ptr lengths, Ptr starts) {
    const int64_t* n = at<int64_t>(counts);
    int64_t rows = 0;
    for (int64_t t = 0; t < T; ++t) {
        if (n[t] < 1 || n[t] > (t ? n[t - 1] : B) || (t == 0 && n[0] != B)) return -1;
        at<int64_t>(starts)[t] = rows;
        for (int64_t b = 0; b < n[t]; ++b) at<int64_t>(lengths)[b] = t + 1;
        rows += n[t];
    }
    return rows;
}

// First place t * B + b whose token is not in 0..V-1, padding left out, or -1.
int64_t bad_token(const Problem& p, Ptr tokens, int64_t V) {
    const int64_t* token = at<int64_t>(tokens);
    for (int64_t t = 0; t < p.T; ++t)
        for (int64_t b = 0; b < p.B; ++b)
            if (t < p.length(b) && (token[t * p.B + b] < 0 || token[t * p.B + b] >= V)) return t * p.B + b;
    return -1;
}

// y, h_n and an LSTM's c_n of a module's layers, whose __dict__ this is; where a gradient may be asked for,
// y, h_n, c_n, what is saved, and the weights. y is time-major, but of one time step as the module says. None where the call is not plain.
nb::object step(int cell, int64_t layers, nb::dict own, int threads, bool grad, nb::handle x, nb::handle h0,
                nb::handle c0) {
    const bptt::Torch& torch = bptt::Torch::get();
    const bool biased = bptt::own_value(own, torch.bias) == Py_True;
    const bool batch_first = bptt::own_value(own, torch.batch_first) == Py_True;
    const int64_t directions = bptt::own_value(own, torch.bidirectional) == Py_True ? 2 : 1;
    const nb::object weights = bptt::own_weights(own);
    if (!weights) return nb::none();
    const bptt::PlainCall call(cell_of(cell), biased, batch_first, directions, x, h0, c0, nb::cast<nb::tuple>(weights));
    // A projection has weights of its own.
    if (!call || !call.has_layers(layers)) return nb::none();
    return call.forward(threads, grad && call.requires_grad(), batch_first);
}

nb::object step_back(int cell, bool biased, bool batch_first, int directions, int threads, nb::handle dy, bool dy_turned,
                     nb::handle dhn, nb::handle dcn, nb::handle saved, nb::tuple needs, nb::handle x, nb::handle h0,
                     nb::handle c0, nb::tuple weights) {
    if (directions != 1 && directions != 2) refuse("1 or 2 directions", std::to_string(directions), "use bptt.nn");
    const bptt::PlainCall call(cell_of(cell), biased, batch_first, directions, x, h0, c0, weights);
    return call ? call.backward(threads, dy, dy_turned, dhn, dcn, saved, needs) : nb::none();
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Compiled recurrence kernels.";
    if (!bptt::isa()) {
        const char* wanted = std::getenv("BPTT_ISA");
        throw nb::import_error((std::string("BPTT_ISA=") + (wanted ? wanted : "") +
                                " is not among the instruction sets this machine runs: " + bptt::isas())
                                   .c_str());
    }
    nb::class_<Problem>(m, "Problem")
        .def("__init__",
             [](Problem* self, int64_t T, int64_t B, int64_t H, int64_t step, int64_t lane, Ptr lengths,
                Ptr reset, Ptr cut, bool reverse, int threads, Ptr starts) {
                 if (T < 0 || B < 0 || H < 1 || threads < 1)
                     refuse("T, B >= 0 and H, threads >= 1",
                            "T=" + std::to_string(T) + ", B=" + std::to_string(B) +
                                ", H=" + std::to_string(H) + ", threads=" + std::to_string(threads),
                            "use bptt.ops.recur");
                 new (self) Problem{T, B, H, step, lane, at<int64_t>(lengths), at<uint8_t>(reset),
                                    at<uint8_t>(cut), reverse, threads, at<int64_t>(starts)};
             });
    Binding<float>::define(m, "_f32");
    Binding<double>::define(m, "_f64");
    Binding<bptt::bf16>::define(m, "_bf16");
    m.def("unpack_sizes", &unpack_sizes);
    m.def(
        "dropout",
        [](Ptr x, Ptr y, int64_t n, uint32_t threshold, uint64_t key, int threads) {
            if (n < 0 || threads < 1 || threshold > 65535)
                refuse("n >= 0, threads >= 1 and a threshold of 16 bits", std::to_string(threshold),
                       "use bptt.ops.dropout");
            if (n) need({x, y}), bptt::dropout(at<float>(x), at<float>(y), n, threshold, key, threads);
        },
        nb::call_guard<nb::gil_scoped_release>());
    // The first target that is none of 0..V-1 and not ignored, and nothing is done; or -1.
    m.def(
        "cross_entropy",
        [](Ptr x, int64_t rows, int64_t V, Ptr target, int64_t ignored, float scale, Ptr dx, Ptr nats,
           int threads) {
            if (rows < 0 || V < 1 || threads < 1)
                refuse("rows >= 0, V >= 1 and threads >= 1", std::to_string(V), "use bptt.ops.cross_entropy");
            if (!rows) return int64_t(-1);
            need({x, target, nats});
            for (int64_t r = 0; r < rows; ++r) {
                const int64_t t = at<int64_t>(target)[r];
                if (t != ignored && (t < 0 || t >= V)) return r;
            }
            bptt::cross_entropy(at<float>(x), rows, V, at<int64_t>(target), ignored, scale, at<float>(dx),
                                at<double>(nats), threads);
            return int64_t(-1);
        },
        nb::call_guard<nb::gil_scoped_release>());
    m.def("bad_token", &bad_token);
    const auto none = [](const char* name) { return nb::arg(name).none(); };
    m.def("step", &step, "cell"_a, "layers"_a, "own"_a, "threads"_a, "grad"_a, "x"_a, none("h0"), none("c0"));
    m.def("step_back", &step_back, "cell"_a, "biased"_a, "batch_first"_a, "directions"_a, "threads"_a,
          none("dy"), "dy_turned"_a, none("dhn"), none("dcn"),
          "saved"_a, "needs"_a, "x"_a, none("h0"), none("c0"), "weights"_a);
    m.attr("isa") = bptt::isa();
    m.attr("isas") = bptt::isas();
    m.attr("multiplies_bf16") = bptt::multiplies_bf16();
}

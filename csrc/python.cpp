// The bindings. Pointers arrive as integers (a tensor's data_ptr(); 0 is null), because wrapping
// tensors costs more than a small kernel; the Python side has checked what they point to.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "stream.h"

namespace nb = nanobind;
using bptt::Cell;
using bptt::Problem;

namespace {

using Ptr = uintptr_t;

template <class T>
T* at(Ptr p) {
    return reinterpret_cast<T*>(p);
}

template <class T>
struct Binding {
    static void forward(int cell, const Problem& p, Ptr xp, int64_t ldx, Ptr tokens, Ptr b_ih, Ptr b_hh,
                        Ptr w_hh, Ptr h0, Ptr c0, Ptr y, Ptr saved, int64_t lds, Ptr hn,
                        Ptr cn, Ptr work) {
        bptt::kernels<T>(Cell(cell)).forward(
            p, {at<T>(xp), ldx, at<int64_t>(tokens), at<T>(b_ih), at<T>(b_hh), at<T>(w_hh), nullptr,
                at<T>(h0), at<T>(c0), at<T>(y), at<T>(saved), lds, at<T>(hn), at<T>(cn), at<void>(work)});
    }

    static void backward(int cell, const Problem& p, Ptr dy, int64_t dy_step, int64_t dy_lane, Ptr dhn,
                         Ptr dcn, Ptr saved, int64_t lds, Ptr h0, Ptr c0, Ptr w_hh, Ptr dz, Ptr dh0,
                         Ptr dc0, Ptr db, Ptr norms, Ptr work) {
        bptt::kernels<T>(Cell(cell)).backward(
            p, {at<T>(dy), dy_step, dy_lane, at<T>(dhn), at<T>(dcn), at<T>(saved), lds, at<T>(h0),
                at<T>(c0), at<T>(w_hh), at<T>(dz), at<T>(dh0), at<T>(dc0), at<T>(db), at<T>(norms),
                at<void>(work)});
    }

    static size_t workspace(int cell, const Problem& p, bool backward) {
        return bptt::kernels<T>(Cell(cell)).workspace(p, backward);
    }

    static size_t packed_size(int cell, int64_t H) { return bptt::kernels<T>(Cell(cell)).packed_size(H); }

    static void pack(int cell, int64_t H, Ptr w_hh, Ptr b_ih, Ptr b_hh, Ptr out, int threads) {
        bptt::kernels<T>(Cell(cell)).pack(H, at<T>(w_hh), at<T>(b_ih), at<T>(b_hh), at<T>(out), threads);
    }

    static void scatter_add(const Problem& p, Ptr tokens, Ptr rows, int64_t ld, int64_t width, Ptr table) {
        bptt::scatter_add<T>(p, at<int64_t>(tokens), at<T>(rows), ld, width, at<T>(table));
    }

    static int64_t columns_padded(int64_t N) { return bptt::kernels<T>(Cell(0)).columns_padded(N); }

    static void pack_columns(int64_t N, int64_t K, Ptr w, Ptr out) {
        bptt::kernels<T>(Cell(0)).pack_columns(N, K, at<T>(w), at<T>(out));
    }

    static void define_stream(nb::module_& m, const std::string& suffix) {
        using Stream = bptt::Stream<T>;
        // No release of the GIL: a step takes less time than handing it over and taking it back.
        nb::class_<Stream>(m, ("Stream" + suffix).c_str())
            .def(nb::init<int64_t>())
            .def("add",
                 [](Stream& s, int cell, int64_t I, int64_t H, Ptr w_ih, Ptr packed, Ptr h, Ptr c, Ptr xp,
                    Ptr y, Ptr work) {
                     s.add({Cell(cell), I, H, at<T>(w_ih), at<T>(packed), at<T>(h), at<T>(c), at<T>(xp),
                            at<T>(y), at<void>(work)});
                 })
            .def("finish",
                 [](Stream& s, int64_t N, int64_t K, Ptr w, Ptr b, Ptr y) {
                     s.finish({N, K, at<T>(w), at<T>(b), at<T>(y)});
                 })
            .def("step", [](const Stream& s, Ptr x) { s.step(at<T>(x)); })
            .def("step_tokens", [](const Stream& s, Ptr tokens, Ptr table, int64_t V) {
                return s.step_tokens(at<int64_t>(tokens), at<T>(table), V);
            });
    }

    static void define(nb::module_& m, const std::string& suffix) {
        const auto def = [&](const char* name, auto function) {
            m.def((name + suffix).c_str(), function, nb::call_guard<nb::gil_scoped_release>());
        };
        def("forward", &forward);
        def("backward", &backward);
        def("workspace", &workspace);
        def("packed_size", &packed_size);
        def("pack", &pack);
        def("scatter_add", &scatter_add);
        def("columns_padded", &columns_padded);
        def("pack_columns", &pack_columns);
        define_stream(m, suffix);
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
                 new (self) Problem{T, B, H, step, lane, at<int64_t>(lengths), at<uint8_t>(reset),
                                    at<uint8_t>(cut), reverse, threads, at<int64_t>(starts)};
             });
    Binding<float>::define(m, "_f32");
    Binding<double>::define(m, "_f64");
    m.def("unpack_sizes", &unpack_sizes);
    m.def("bad_token", &bad_token);
    m.attr("isa") = bptt::isa();
    m.attr("isas") = bptt::isas();
}

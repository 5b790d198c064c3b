// The instruction set is chosen once, when the library is loaded: the best one this machine runs,
// or the one that the environment variable BPTT_ISA names.
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "kernels.h"

#define BPTT_DECLARE(isa)                             \
    namespace isa {                                   \
    template <class T> Kernels<T> rnn_tanh_kernels(); \
    template <class T> Kernels<T> rnn_relu_kernels(); \
    template <class T> Kernels<T> gru_kernels();      \
    template <class T> Kernels<T> lstm_kernels();     \
    void dropout(const float*, float*, int64_t, uint32_t, uint64_t, int); \
    void cross_entropy(const float*, int64_t, int64_t, const int64_t*, int64_t, float, float*, double*, int); \
    }

namespace bptt {

BPTT_DECLARE(baseline)
#if defined(BPTT_HAVE_AVX2)
BPTT_DECLARE(avx2)
#endif
#if defined(BPTT_HAVE_AVX512)
BPTT_DECLARE(avx512)
#endif
#if defined(BPTT_HAVE_AVX512BF16)
BPTT_DECLARE(avx512bf16)  // in bf16 alone; the rest is avx512's
#endif

namespace {

// Pointers to the functions that fill in the tables, and not the tables: even filling in a table is
// code of that instruction set, and must not run on a machine that lacks it.
struct Isa {
    const char* name;
    bool (*runs)();
    // Whether it is taken without being asked for.
    bool (*is_chosen)();
    bool multiplies_bf16;
    Kernels<float> (*f32[4])();
    Kernels<double> (*f64[4])();
    Kernels<bf16> (*b16[4])();
    void (*dropout)(const float*, float*, int64_t, uint32_t, uint64_t, int);
    void (*cross_entropy)(const float*, int64_t, int64_t, const int64_t*, int64_t, float, float*, double*, int);
};

#define BPTT_TABLE(isa, T)                                                                         \
    {isa::rnn_tanh_kernels<T>, isa::rnn_relu_kernels<T>, isa::gru_kernels<T>, isa::lstm_kernels<T>}
#define BPTT_ROW(isa, name, runs)                                                                     \
    {name,                   runs,                    always,               false,                    \
     BPTT_TABLE(isa, float), BPTT_TABLE(isa, double), BPTT_TABLE(isa, bf16), isa::dropout, isa::cross_entropy}

bool always() { return true; }

#if defined(BPTT_HAVE_AVX512)
bool runs_avx512() {
    return bool(__builtin_cpu_supports("avx512f")) && bool(__builtin_cpu_supports("avx512dq")) &&
           bool(__builtin_cpu_supports("avx512bw")) && bool(__builtin_cpu_supports("avx512vl"));
}
#endif

// Best first. On AArch64 the baseline's 16-byte vectors are NEON.
const Isa built[] = {
#if defined(BPTT_HAVE_AVX512BF16)
    // AMD's processors do twice as many multiply-adds a cycle on bfloat16 as on float; Intel's, which
    // leave bfloat16 to their matrix unit, half as many. There float is faster, and more exact.
    {"avx512bf16",
     [] { return runs_avx512() && bool(__builtin_cpu_supports("avx512bf16")); },
     [] { return bool(__builtin_cpu_is("amd")); },
     true,
     BPTT_TABLE(avx512, float),
     BPTT_TABLE(avx512, double),
     BPTT_TABLE(avx512bf16, bf16),
     avx512::dropout,
     avx512::cross_entropy},
#endif
#if defined(BPTT_HAVE_AVX512)
    BPTT_ROW(avx512, "avx512", runs_avx512),
#endif
#if defined(BPTT_HAVE_AVX2)
    BPTT_ROW(avx2, "avx2",
             [] { return bool(__builtin_cpu_supports("avx2")) && bool(__builtin_cpu_supports("fma")); }),
#endif
#if defined(__aarch64__)
    BPTT_ROW(baseline, "neon", always),
#else
    BPTT_ROW(baseline, "baseline", always),
#endif
};

char names[64];

const Isa* choose() {
    const char* wanted = std::getenv("BPTT_ISA");
    if (wanted && !*wanted) wanted = nullptr;
    const Isa* chosen = nullptr;
    for (bool by_itself : {true, false})
        for (const Isa& isa : built) {
            if (!isa.runs() || isa.is_chosen() != by_itself) continue;
            if (*names) std::strcat(names, " ");
            std::strcat(names, isa.name);
            if (!chosen && (!wanted || !std::strcmp(wanted, isa.name))) chosen = &isa;
        }
    return chosen;
}

const Isa* const chosen = choose();

template <class T>
struct Table {
    Kernels<T> cell[4] = {};
    explicit Table(Kernels<T> (*const* make)()) {
        for (int i = 0; make && i < 4; ++i) cell[i] = make[i]();
    }
};

const Table<float> table32(chosen ? chosen->f32 : nullptr);
const Table<double> table64(chosen ? chosen->f64 : nullptr);
const Table<bf16> table16(chosen ? chosen->b16 : nullptr);

}  // namespace

const char* isa() { return chosen ? chosen->name : nullptr; }
const char* isas() { return names; }
void dropout(const float* x, float* y, int64_t n, uint32_t threshold, uint64_t key, int threads) {
    chosen->dropout(x, y, n, threshold, key, threads);
}
void cross_entropy(const float* x, int64_t rows, int64_t V, const int64_t* target, int64_t ignored, float scale,
                   float* dx, double* nats, int threads) {
    chosen->cross_entropy(x, rows, V, target, ignored, scale, dx, nats, threads);
}
bool multiplies_bf16() { return chosen && chosen->multiplies_bf16; }

template <>
const Kernels<float>& kernels<float>(Cell c) {
    return table32.cell[int(c)];
}
template <>
const Kernels<bf16>& kernels<bf16>(Cell c) {
    return table16.cell[int(c)];
}
template <>
const Kernels<double>& kernels<double>(Cell c) {
    return table64.cell[int(c)];
}

}  // namespace bptt

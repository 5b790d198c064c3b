// The gradient of a table of projected tokens: row i of dz is added to row token[i] of the table.
#include "kernels.h"

#include <cstring>

namespace bptt {

namespace {

float wide(float x) { return x; }
double wide(double x) { return x; }
float wide(bf16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

}  // namespace

template <class T>
void scatter_add(const Problem& p, const int64_t* tokens, const T* rows, int64_t ld, int64_t width,
                 Real<T>* table) {
    // Threads share out the columns, not the rows: no two write the same element, and every
    // element is summed in the order of time.
    const int64_t line = 64 / int64_t(sizeof(T));
    const int64_t pieces = (width + line - 1) / line;
    int n = p.T * p.B * width < 200000 ? 1 : p.threads;
    if (n > pieces) n = int(pieces);
    if (n < 1) n = 1;
#if defined(_OPENMP)
#pragma omp parallel for num_threads(n) schedule(static, 1) if (n > 1)
#endif
    for (int i = 0; i < n; ++i) {
        const int64_t begin = pieces * i / n * line;
        const int64_t stop = pieces * (i + 1) / n * line, end = stop < width ? stop : width;
        for (int64_t t = 0; t < p.T; ++t)
            for (int64_t b = 0; b < p.B; ++b) {
                if (t >= p.length(b)) continue;
                const T* from = rows + p.row(t, b) * ld;
                Real<T>* to = table + tokens[t * p.B + b] * width;
                for (int64_t j = begin; j < end; ++j) to[j] += wide(from[j]);
            }
    }
}

template void scatter_add(const Problem&, const int64_t*, const float*, int64_t, int64_t, float*);
template void scatter_add(const Problem&, const int64_t*, const bf16*, int64_t, int64_t, float*);
template void scatter_add(const Problem&, const int64_t*, const double*, int64_t, int64_t, double*);

}  // namespace bptt

// Dropout whose mask is a function of a key and of an element's place: nothing is drawn one after the
// other, nothing is kept for the gradient, and threads change nothing.
//
// Numbers of 16 bits from Threefry-2x32 with 20 rounds (J. Salmon et al., 2011, Parallel random numbers:
// as easy as 1, 2, 3): additions, rotations and exclusive ors alone, alike in every vector width. 16
// counters make the 64 numbers of 64 elements in turn: the lower halves of the first words, their upper
// halves, then those of the second words.
#include "lanes.h"

namespace bptt {
namespace BPTT_ISA {

namespace {

constexpr int L = Simd<float>::L;
constexpr int64_t group = 64, counters = 16;

BPTT_INLINE void threefry(uint32_t key0, uint32_t key1, Bits& x0, Bits& x1) {
    const uint32_t key[3] = {key0, key1, key0 ^ key1 ^ 0x1bd11bdau};
    constexpr int turn[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
    x0 += key[0];
    x1 += key[1];
    BPTT_UNROLL
    for (uint32_t i = 0; i < 5; ++i) {
        BPTT_UNROLL
        for (int r = 0; r < 4; ++r) {
            x0 += x1;
            const int by = turn[i % 2][r];
            x1 = ((x1 << by) | (x1 >> (32 - by))) ^ x0;
        }
        x0 += key[(i + 1) % 3];
        x1 += key[(i + 2) % 3] + (i + 1);
    }
}

void run(const float* x, float* y, int64_t from, int64_t to, uint32_t threshold, float scale, uint64_t key) {
    Bits lane;
    for (int i = 0; i < L; ++i) lane[i] = uint32_t(i);
    for (int64_t at = from; at < to; at += group)
        for (int64_t part = 0; part < counters; part += L) {
            const uint64_t counter = uint64_t(at / group * counters + part);
            Bits word[2] = {lane + uint32_t(counter), Bits{} + uint32_t(counter >> 32)};
            threefry(uint32_t(key), uint32_t(key >> 32), word[0], word[1]);
            BPTT_UNROLL
            for (int h = 0; h < 4; ++h) {
                const Bits number = h % 2 ? word[h / 2] >> 16 : word[h / 2] & 0xffffu;
                const int64_t j = at + h * counters + part, left = to - j;
                const auto keep = [&](auto where) {
                    // Not a product by 0 or 1: what is dropped is zero, be it infinite or NaN.
                    store(y + j, number >= threshold ? load(x + j, where) * scale : Vec<float>{}, where);
                };
                if (left >= L) keep(Whole{});
                else if (left > 0) keep(Part{int(left)});
            }
        }
}

}  // namespace

void dropout(const float* x, float* y, int64_t n, uint32_t threshold, uint64_t key, int threads) {
    const float scale = float(65536.0 / (65536.0 - double(threshold)));
    const int64_t groups = (n + group - 1) / group;
    if (n < smallest_parallel / 4) threads = 1;
    if (groups < threads) threads = int(groups);
    parallel(threads, threads, [&](int i, int) {
        const int64_t end = groups * (i + 1) / threads * group;
        run(x, y, groups * i / threads * group, end < n ? end : n, threshold, scale, key);
    });
}

}  // namespace BPTT_ISA
}  // namespace bptt

/* How fast one core reads floats that lie in its first or second cache: sums a block over and over.
 * usage: read_bandwidth BYTES; prints GB/s, the best of five. */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    const size_t size = (argc > 1) ? (size_t)atol(argv[1]) / sizeof(int) : 4096U;
    const size_t count = size - size % 64U;
    const size_t passes = 400000000U / count;
    int *block = malloc(count * sizeof(int));
    volatile int sink = 0;
    double best = 0.0;
    if (block == NULL) {
        return 1;
    }
    for (size_t k = 0U; k < count; k++) {
        block[k] = (int)k;
    }
    for (int run = 0; run < 5; run++) {
        const double start = seconds();
        for (size_t pass = 0U; pass < passes; pass++) {
            /* Integers: their sum may be reordered, so the compiler uses as many vectors as it likes. */
            int sums[64] = {0};
            for (size_t k = 0U; k < count; k += 64U) {
                for (size_t j = 0U; j < 64U; j++) {
                    sums[j] ^= block[k + j];
                }
            }
            for (size_t j = 0U; j < 64U; j++) {
                sink ^= sums[j];
            }
            block[pass % count] ^= 1;
        }
        const double rate = (double)passes * (double)(count * sizeof(int)) / (seconds() - start);
        best = (rate > best) ? rate : best;
    }
    printf("%.1f\n", best * 1e-9);
    free(block);
    return 0;
}

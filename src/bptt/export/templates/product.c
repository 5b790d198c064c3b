/* y += W x for W stored column after column, their number a multiple of 4: every unit adds up in the
 * same order, column 0 first, whatever the width of the machine's vectors. Four columns a pass, since
 * y is read and written once a pass. */
static void add_columns(const float *ONLY weights, const float *ONLY x, float *ONLY y,
    size_t rows, size_t columns)
{
    for (size_t k = 0U; k < columns; k += 4U) {
        const float *ONLY w0 = &weights[k * rows];
        const float *ONLY w1 = &w0[rows];
        const float *ONLY w2 = &w1[rows];
        const float *ONLY w3 = &w2[rows];
        const float x0 = x[k];
        const float x1 = x[k + 1U];
        const float x2 = x[k + 2U];
        const float x3 = x[k + 3U];
        for (size_t j = 0U; j < rows; j++) {
            float sum = y[j];
            sum += w0[j] * x0;
            sum += w1[j] * x1;
            sum += w2[j] * x2;
            sum += w3[j] * x3;
            y[j] = sum;
        }
    }
}


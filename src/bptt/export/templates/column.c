/* y += w x, one column. */
static void add_column(const float *ONLY w, float x, float *ONLY y, size_t rows)
{
    for (size_t j = 0U; j < rows; j++) {
        y[j] += w[j] * x;
    }
}


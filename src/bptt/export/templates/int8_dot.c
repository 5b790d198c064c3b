/* One row of a matrix times a vector; no row of this network can overflow. */
static int32_t dot(const int8_t *w, const int16_t *x, size_t columns)
{
    int32_t sum = 0;
    for (size_t k = 0U; k < columns; k++) {
        sum += (int32_t)w[k] * (int32_t)x[k];
    }
    return sum;
}


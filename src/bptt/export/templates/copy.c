static void copy(const float *x, float *y, size_t size)
{
    for (size_t j = 0U; j < size; j++) {
        y[j] = x[j];
    }
}


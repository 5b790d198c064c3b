static void widen(const int8_t *x, int16_t *y, size_t size)
{
    for (size_t j = 0U; j < size; j++) {
        y[j] = (int16_t)x[j];
    }
}


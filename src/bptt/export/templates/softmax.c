/* y = softmax(x): the largest is taken off first, so that nothing overflows. */
static void softmax_of(const float *x, float *y, size_t size)
{
    float top = x[0];
    float sum = 0.0f;
    for (size_t j = 1U; j < size; j++) {
        top = (x[j] > top) ? x[j] : top;
    }
    for (size_t j = 0U; j < size; j++) {
        y[j] = exp_of(x[j] - top);
        sum += y[j];
    }
    for (size_t j = 0U; j < size; j++) {
        y[j] /= sum;
    }
}


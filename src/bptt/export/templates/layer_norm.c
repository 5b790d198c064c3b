/* y = (x - mean) / sqrt(variance + eps) * weight + bias. */
static void normalise(const float *x, const float *weight, const float *bias, float eps, float *y,
    size_t size)
{
    float mean = 0.0f;
    float variance = 0.0f;
    for (size_t j = 0U; j < size; j++) {
        mean += x[j];
    }
    mean /= (float)size;
    for (size_t j = 0U; j < size; j++) {
        const float off = x[j] - mean;
        variance += off * off;
    }
    const float scale = 1.0f / sqrtf(variance / (float)size + eps);
    for (size_t j = 0U; j < size; j++) {
        y[j] = (x[j] - mean) * scale * weight[j] + bias[j];
    }
}


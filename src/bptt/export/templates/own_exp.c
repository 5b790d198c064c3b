/* e^x by powers of two and a polynomial, to two units in the last place, for x from -87 to 88. */
static float exp_of(float x)
{
    float c = (x < 88.0f) ? x : 88.0f;
    c = (c > -87.0f) ? c : -87.0f;
    const float n = floorf(c * 1.4426950f + 0.5f);
    const float r = (c - n * 0.693359375f) + n * 2.1219444e-4f;
    const float p = ((((1.9875692e-4f * r + 1.3982000e-3f) * r + 8.3334519e-3f) * r + 4.1665796e-2f) * r
        + 0.16666665f) * r + 0.5f;
    return ldexpf(p * r * r + r + 1.0f, (int)n);
}


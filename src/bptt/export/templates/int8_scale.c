/* A sum of int8 products in the units of the gates: sum * multiplier / 2^shift, to nearest. */
static int32_t scale(int32_t sum, int32_t multiplier, int8_t shift)
{
    const int64_t half = (int64_t)1 << (shift - 1);
    int64_t z = (((int64_t)sum * multiplier) + half) >> shift;
    z = (z > $largest) ? $largest : z;
    return (int32_t)((z < -$largest) ? -$largest : z);
}


/* Units of 2^-14 to units of 2^-15, 0 to 32768. */
static int32_t sigmoid_of(int32_t z)
{
    return (curve(z) + 32769) >> 1;
}


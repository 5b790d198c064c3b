static int32_t clip(int32_t x, int32_t low, int32_t high)
{
    const int32_t y = (x > high) ? high : x;
    return (y < low) ? low : y;
}


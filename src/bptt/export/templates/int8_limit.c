/* Held to -most ... most. */
static int32_t limit(int64_t x, int32_t most)
{
    const int64_t low = (x < -(int64_t)most) ? -(int64_t)most : x;
    return (int32_t)((low > most) ? most : low);
}


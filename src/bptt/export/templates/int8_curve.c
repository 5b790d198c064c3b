/* tanh(u / 2) in units of 2^-15 of u in units of 2^-14, linear between the table's entries. */
static int32_t curve(int32_t u)
{
    int32_t a = (u < 0) ? -u : u;
    a = (a > $end) ? $end : a;
    const int32_t low = table[a >> $step];
    const int32_t high = table[(a >> $step) + 1];
    const int32_t v = low + ((((high - low) * (a & $mask)) + $half) >> $step);
    return (u < 0) ? -v : v;
}


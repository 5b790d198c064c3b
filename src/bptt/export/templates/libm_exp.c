static float exp_of(float x)
{
    return expf(x);
}


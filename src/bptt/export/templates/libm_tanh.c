static float tanh_of(float x)
{
    return tanhf(x);
}


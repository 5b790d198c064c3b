static float sigmoid_of(float x)
{
    return 0.5f + 0.5f * tanh_of(0.5f * x);
}


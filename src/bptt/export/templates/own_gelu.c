/* x times the share of the normal distribution below x, by Abramowitz and Stegun 7.1.26: to 1.5e-7. */
static float gelu_of(float x)
{
    const float a = ((x < 0.0f) ? -x : x) * 0.70710678f;
    const float t = 1.0f / (1.0f + 0.3275911f * a);
    const float p = ((((1.0614054f * t - 1.4531520f) * t + 1.4214137f) * t - 0.28449674f) * t + 0.25482959f) * t;
    const float rest = p * exp_of(-a * a);
    return 0.5f * x * ((x < 0.0f) ? rest : 2.0f - rest);
}


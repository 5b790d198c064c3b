/* tanh x = x P(x^2) / Q(x^2), both of degree 4, to 6.5 units in the last place; beyond 9.02 it
 * rounds to 1. No table, no branch, the same bits on every machine that does not fuse a*b+c. */
static float tanh_of(float x)
{
    float c = (x > 9.02f) ? 9.02f : x;
    c = (c < -9.02f) ? -9.02f : c;
    const float s = c * c;
    const float p = ((((1.3319073e-8f * s + 2.0583484e-5f) * s + 3.4940347e-3f) * s
        + 0.13379718f) * s + 1.0f) * c;
    const float q = (((7.7620203e-7f * s + 3.2830932e-4f) * s + 2.5871074e-2f) * s
        + 0.46713033f) * s + 1.0f;
    float t = p / q;
    t = (t > 1.0f) ? 1.0f : t;
    return (t < -1.0f) ? -1.0f : t;
}


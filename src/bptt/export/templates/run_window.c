int ${name}_window(${name}_state *state, size_t steps, $inputs_parameter, float *outputs)
{
    if (steps > ${guard}_WINDOW) {
        return 1;
    }
$checks    ${name}_init(state);
$body    return 0;
}
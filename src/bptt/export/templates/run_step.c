$step_type ${name}_step(${name}_state *state, $input_parameter, $element *output)
{
$body}

$step_type ${name}_step_many(${name}_state *states, size_t count, $inputs_parameter,
    $element *outputs)
{
$before    for (size_t s = 0U; s < count; s++) {
        $call${name}_step(&states[s], $input_of_stream, &outputs[s * ${output_size}U]);
    }
$after}
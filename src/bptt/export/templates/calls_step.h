$step_comment
$step_type ${name}_step(${name}_state *state, $input_parameter, $element *output);

/* One time step of several streams: states[s], then input and output one stream after another. */
$step_type ${name}_step_many(${name}_state *states, size_t count, $inputs_parameter,
    $element *outputs);

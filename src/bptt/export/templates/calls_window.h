/* All outputs of one window of at most ${guard}_WINDOW steps, each from a zero state: inputs and outputs
 * lie step after step. Returns 0; or 1, and writes no output, for more steps$token_note. */
int ${name}_window(${name}_state *state, size_t steps, $inputs_parameter, $element *outputs);

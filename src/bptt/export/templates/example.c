/* Feeds $steps steps to $name and compares the output with what the model gave in Python.
 * It prints "ok" and the largest difference, and fails if that is above $tolerance. */
#include <stdio.h>

#include "$name.h"

$inputs
$expected
int main(void)
{
    static ${name}_state state;
    static $element output[$outputs];
    double worst = 0.0;
    int wrong = 0;

    ${name}_init(&state);
$whole    for (size_t t = 0U; t < ${steps}U; t++) {
$step        for (size_t j = 0U; j < (size_t)${guard}_OUTPUT_SIZE; j++) {
            const double difference = (double)output[$at]
                - (double)expected[t * (size_t)${guard}_OUTPUT_SIZE + j];
            const double size = (difference < 0.0) ? -difference : difference;
            worst = (size > worst) ? size : worst;
        }
    }
    wrong |= (worst > $tolerance) ? 1 : 0;
    printf("%s: $steps steps, largest difference %.3g\n", (wrong != 0) ? "WRONG" : "ok", worst);
    return wrong;
}

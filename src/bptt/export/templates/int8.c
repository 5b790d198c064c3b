/* $name: $title. See $name.h. Integers only; every result is the same on every machine. */
#include "$name.h"

/* A negative number shifted right must round down, as every compiler in use does; this line does not
 * compile on one that does otherwise. */
typedef char ${name}_shift_check[(((-3) >> 1) == (-2)) ? 1 : -1];

$weights
$helpers
$layers
void ${name}_init(${name}_state *state)
{
$clear}

$run

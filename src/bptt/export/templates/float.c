/* $name: $title. See $name.h. */
#include "$name.h"

#include <math.h>

/* The step must not branch, or a compiler cannot run eight units at once: let it compute both
 * sides of a ? : without asking whether a comparison could trap. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__)
#pragma GCC optimize("no-trapping-math")
#endif

#if defined(__cplusplus)
#define ONLY
#else
#define ONLY restrict
#endif

$weights
$activations
$products$layers
void ${name}_init(${name}_state *state)
{
$clear}

$run

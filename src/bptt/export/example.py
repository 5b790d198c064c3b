"""The example beside an exported network: a program that checks itself against Python."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bptt.export.ctext import fill, float_array, int_array
from bptt.export.network import Network

STEPS = 16


def example_files(
    name: str,
    network: Network,
    inputs: NDArray[np.generic],
    *,
    quantised: tuple[NDArray[np.generic], NDArray[np.generic]] | None = None,
) -> dict[str, str]:
    """``example.c`` and ``Makefile``.

    Args:
        name: of the network.
        network: computes what is expected.
        inputs: (T, B, I) or tokens (T, B); the first lane's first steps are used.
        quantised: inputs (T, I) and expected outputs (T, O) of the int8 network, which must be met
            exactly.
    """
    x = inputs[:STEPS, :1]
    if quantised is not None:
        x, y = quantised[0][:STEPS], quantised[1][:STEPS]
        tolerance = "0.0"
    else:
        y = network.run(x).output[:, 0]
        tolerance = f"{1e-5 * max(float(np.abs(y).max()), 1e-3):.1e}"
    if network.tokens:
        lines = int_array("uint32_t", "input", x.reshape(-1), "tokens, step after step")
        step = f"wrong |= {name}_step(&state, input[t], output);"
    else:
        comment = "step after step"
        if quantised is None:
            lines = float_array("input", x, comment)
        else:
            lines = int_array("int8_t", "input", x, comment)
        step = f"{name}_step(&state, &input[t * (size_t){name.upper()}_INPUT_SIZE], output);"
    comment = "what Python gave, step after step"
    if quantised is None:
        wanted, element = float_array("expected", y, comment), "float"
    else:
        element = f"int{8 * y.dtype.itemsize}_t"
        wanted = int_array(element, "expected", y, comment)
    words = {
        "name": name, "guard": name.upper(), "steps": len(x), "tolerance": tolerance,
        "inputs": lines, "expected": wanted, "element": element, "step": step,
        "link_note": "" if quantised is not None else " but <math.h>",
    }  # fmt: skip
    return {"example.c": fill("example.c", **words), "Makefile": fill("Makefile", **words)}

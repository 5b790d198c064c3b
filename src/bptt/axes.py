"""The axis letters, one meaning each, in docstrings, einsum strings, C++ and error messages.

====== =====================================================================
letter meaning
====== =====================================================================
``T``  time steps
``B``  batch; each batch column of a stream is a *lane*
``I``  input size
``H``  hidden size
``G``  gates a cell stacks along its weight rows: 1 RNN, 3 GRU, 4 LSTM
``L``  layers
``V``  vocabulary
``K``  truncation length, in steps
``lag`` how many steps back
====== =====================================================================
"""

from __future__ import annotations

from collections.abc import Iterable


def describe(shape: Iterable[int], letters: str = "") -> str:
    """Write a shape for an error message, with its letters when they fit.

    Example:
        >>> describe((5, 3, 8), "TBH")
        '(T=5, B=3, H=8)'
        >>> describe((5, 3), "TBH")
        '(5, 3)'
    """
    sizes = tuple(shape)
    if len(sizes) == len(letters):
        return "(" + ", ".join(f"{a}={n}" for a, n in zip(letters, sizes, strict=True)) + ")"
    return "(" + ", ".join(str(n) for n in sizes) + ")"

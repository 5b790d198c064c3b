"""``bptt.plot``: a watched step as a matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bptt.errors import ArgumentError
from bptt.report.lags import draw_lags
from bptt.report.style import panels, style
from bptt.report.truncation import draw_bias, draw_cosine
from bptt.watching import Flow, Watched

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(flow: Flow | Watched) -> Figure:
    """Draw how far back a step learns: gradient by lag, bias and cosine against K.

    Args:
        flow: what :func:`bptt.watch` handed out, after a backward pass; or one of its ``modules``.

    Returns:
        a figure of three panels, 14 by 3 inches, its background transparent and readable on white
        and on black: ``figure.savefig("flow.svg")``. It belongs to no window; in a notebook it shows
        itself.

    Raises:
        ArgumentError: something else was passed, or the gradient is not finite.
        WatchError: nothing has been measured yet.
        DependencyError: matplotlib is missing.

    Cost: a tenth of a second.

    Example:
        >>> import torch, bptt
        >>> model = torch.nn.GRU(3, 5)
        >>> with bptt.watch(model) as flow:
        ...     model(torch.randn(20, 2, 3))[0].square().mean().backward()
        >>> [axes.get_title(loc="left") for axes in plot(flow).axes]
        ['Gradient by lag', 'Bias of the truncated gradient', 'Cosine with the full gradient']
    """
    if not isinstance(flow, (Flow, Watched)):
        raise ArgumentError(
            "what bptt.watch handed out", type(flow).__name__, "pass flow, or one of flow.modules"
        )
    spectrum = flow.spectrum
    if not bool(spectrum.norms.isfinite().all()):
        raise ArgumentError(
            "a finite gradient to draw", "one that overflowed", "read flow.explain() instead"
        )
    with style() as figure:
        made, (left, middle, right) = panels(figure, 3)
        draw_lags(left, spectrum)
        draw_bias(middle, spectrum)
        draw_cosine(right, spectrum)
    return made

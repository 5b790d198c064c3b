"""Figures, and reports in a terminal, as HTML and as JSON: drawing only, nothing is measured here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bptt.errors import ArgumentError
from bptt.probes.watch import Flow, Watched
from bptt.report.advice import Advice, advise
from bptt.report.chart_figure import draw_figure
from bptt.report.figures import chart_bias, chart_cosine, chart_lags
from bptt.report.on_text import plot_on
from bptt.report.pages import own_k, write_report, write_run_report
from bptt.report.terminal import document, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Advice",
    "advise",
    "document",
    "own_k",
    "plot",
    "show",
    "write_report",
    "write_run_report",
]


def plot(flow: Flow | Watched, on: Any = None, *, at: int | None = None, lane: int = 0) -> Figure:
    """Draw how far back a step learns: gradient by lag, bias and cosine against K; or on a text, which of
    its symbols one loss depends on.

    Args:
        flow: what :func:`bptt.watch` handed out, after a backward pass; or one of its ``modules``.
        on: the text that a lane was given, or a list of its tokens, one for each step: the shade behind
            each says how much the loss at one step depends on it, by the norm of that loss's gradient
            at the step's input; where ``flow.method`` is ``"graded"``, at the states that the step left,
            of lanes that do not mix. Of recurrences that read in one direction.
        at: the step of that loss, from 0; default the last one that a loss asks for.
        lane: the lane that was given the text.

    Returns:
        a figure of three panels, 14 by 3 inches, its background transparent and readable on white and on
        black: ``figure.savefig("flow.svg")``; or one of the text on its shades, on white. It belongs to
        no window; in a notebook it shows itself.

    Raises:
        ArgumentError: something else was passed, the text's length is not that of the lane, the step
            kept no trajectory, a recurrence reads in two directions, or the gradient is not finite.
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
    if on is not None:
        return plot_on(flow, on, at, lane)
    if not bool(spectrum.norms.isfinite().all()):
        raise ArgumentError(
            "a finite gradient to draw", "one that overflowed", "read flow.explain() instead"
        )
    return draw_figure(chart_lags(spectrum), chart_bias(spectrum), chart_cosine(spectrum))

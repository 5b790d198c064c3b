"""Figures, and reports in a terminal, as HTML and as JSON: drawing only, nothing is measured here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bptt.errors import ArgumentError, plain
from bptt.probes import (
    Capacity,
    JacobianProducts,
    LagSpectrum,
    Lyapunov,
    Saturation,
    StateGradients,
)
from bptt.probes.diagnose import Diagnosis
from bptt.probes.watch import Flow, Watched
from bptt.report.advice import Advice, advise
from bptt.report.chart import Chart
from bptt.report.chart_figure import draw_figure
from bptt.report.figures import (
    chart_bias,
    chart_cosine,
    chart_course,
    chart_gates,
    chart_lags,
    chart_memory,
    chart_products,
    chart_spectrum,
    chart_states,
    chart_updates,
    is_number,
)
from bptt.report.on_text import plot_on
from bptt.report.pages import module_charts, write_report, write_run_report
from bptt.report.terminal import document, show
from bptt.training import Update
from bptt.training.run_folder import RunFolder
from bptt.training.sizes import own_k

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

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


DRAWN = (
    "what bptt.watch handed out, a result of bptt.probes, a diagnosis, a run folder, "
    "lines of its metrics, or a list of updates or losses"
)


def plot(found: Any, on: Any = None, *, at: int | None = None, lane: int = 0) -> Figure:
    """Draw what was measured: of a flow how far back a step learns, of a probe's result what it found,
    of a run how it went.

    Args:
        found: one of these.

            - what :func:`bptt.watch` handed out, after a backward pass, one of its ``modules``, or a
              :class:`bptt.probes.LagSpectrum`: gradient by lag, bias and cosine against K;
            - :class:`bptt.probes.StateGradients`: the gradient that reaches the state at every step;
            - :class:`bptt.probes.JacobianProducts`: gain over k steps, and one step's singular values;
            - :class:`bptt.probes.Lyapunov`: the factors of the long run;
            - :class:`bptt.probes.Saturation`: a histogram of every gate, a panel a layer;
            - :class:`bptt.probes.Capacity`: what the state still knows of earlier inputs;
            - :class:`bptt.Diagnosis`: all that it holds of these;
            - a run folder, or the lines of its ``metrics.jsonl``: loss, horizon and norm over training;
            - a list of :class:`bptt.training.Update`, or of losses as numbers: the same of a loop of
              your own.
        on: with a flow, the text that a lane was given, or a list of its tokens, one for each step: the
            shade behind each says how much the loss at one step depends on it, by the norm of that loss's
            gradient at the step's input; where ``flow.method`` is ``"graded"``, at the states that the
            step left, of lanes that do not mix. Of recurrences that read in one direction.
        at: the step of that loss, from 0; default the last one that a loss asks for.
        lane: the lane that was given the text.

    Returns:
        a figure of as many panels as there is to draw, each 4.7 by 3 inches, its background
        transparent and readable on white and on black: ``figure.savefig("flow.svg")``; or one of the
        text on its shades, on white. It belongs to no window; in a notebook it shows itself.

    Raises:
        ArgumentError: something else was passed, there is nothing in it to draw, the text's length is not
            that of the lane, the step kept no trajectory, a recurrence reads in two directions, or the
            gradient is not finite.
        WatchError: nothing has been measured yet.
        RunError: the run folder cannot be read.
        DependencyError: matplotlib is missing.

    Cost: a tenth of a second.

    Example:
        >>> import torch, bptt
        >>> model = torch.nn.GRU(3, 5)
        >>> with bptt.watch(model) as flow:
        ...     model(torch.randn(20, 2, 3))[0].square().mean().backward()
        >>> [axes.get_title(loc="left") for axes in plot(flow).axes]
        ['Gradient by lag', 'Bias of the truncated gradient', 'Cosine with the full gradient']
        >>> [axes.get_title(loc="left") for axes in plot([2.0, 1.1, 0.7]).axes]
        ['Loss']
    """
    if on is not None:
        if not isinstance(found, (Flow, Watched)):
            raise ArgumentError(
                "a flow, to draw on a text", type(found).__name__, "pass what bptt.watch handed out"
            )
        return plot_on(found, on, at, lane)
    charts = _charts(found)
    if not charts:
        raise ArgumentError("something to draw", f"{type(found).__name__} without", "measure first")
    return draw_figure(*charts)


def _charts(found: Any) -> list[Chart]:
    """The pictures of a result."""
    if isinstance(found, (Flow, Watched)):
        found = found.spectrum
    if isinstance(found, LagSpectrum):
        if not bool(found.norms.isfinite().all()):
            raise ArgumentError(
                "a finite gradient to draw", "one that overflowed", "read flow.explain() instead"
            )
        return [chart_lags(found), chart_bias(found), chart_cosine(found)]
    if isinstance(found, StateGradients):
        return [chart_states(_finite(found, found.together))]
    if isinstance(found, JacobianProducts):
        drawable = bool(found.norms.isfinite().any())
        return [chart_products(found), chart_spectrum(found, None)] if drawable else []
    if isinstance(found, Lyapunov):
        return [chart_spectrum(None, _finite(found, found.exponents))]
    if isinstance(found, Saturation):
        return [chart_gates(found, layer) for layer in range(len(found.layers))]
    if isinstance(found, Capacity):
        return [chart_memory(_finite(found, found.explained))]
    if isinstance(found, Diagnosis):
        return list(module_charts(found.main, None).values())
    return _course(found)


def _finite(found: Any, values: Tensor) -> Any:
    if bool(values.isfinite().all()):
        return found
    raise ArgumentError(
        "finite numbers to draw", f"{type(found).__name__} with some that are not",
        "lower the rate, or clip, and measure again",
    )  # fmt: skip


def _course(found: Any) -> list[Chart]:
    """The pictures of a run: of its folder, of lines of its metrics, or of a loop of one's own."""
    if isinstance(found, (str, os.PathLike)):
        run = RunFolder.open(found)
        settings = run.read_settings()
        return list(chart_course(list(run.read_metrics()), own_k(settings), settings.clip).values())
    if isinstance(found, (list, tuple)) and found:
        if all(isinstance(line, Mapping) for line in found):
            return list(chart_course(found).values())
        if all(isinstance(update, Update) for update in found):
            return chart_updates([u.loss for u in found], [u.norm for u in found])
        if all(is_number(plain(value)) or isinstance(plain(value), float) for value in found):
            return chart_updates([float(plain(value)) for value in found])
    raise ArgumentError(
        DRAWN, type(found).__name__, "bptt.probes and bptt.watch measure, bptt.plot draws"
    )

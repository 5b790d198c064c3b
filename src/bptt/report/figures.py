"""Every picture of a model and of a run, described once: a function for each makes its chart.

The report draws them with matplotlib, the lab as SVG. :func:`bptt.plot` shows three of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bptt.probes import (
    Capacity,
    JacobianProducts,
    LagSpectrum,
    Lyapunov,
    Saturation,
    StateGradients,
)
from bptt.report.chart import (
    Band,
    Bars,
    Chart,
    Color,
    Dash,
    Heat,
    Label,
    Line,
    Mark,
    Part,
    number,
    octaves,
)
from bptt.report.words import percent

# The gradient by lag, with the horizon marked.

# Below this share of the largest a norm is drawn no more: five decades fill the panel.
FLOOR = 1e-5
STATES = 4  # states drawn apart, as the h and c of two layers of an LSTM
LANES_SHOWN = 12  # lanes drawn by themselves
LOOKS: tuple[tuple[Color, Dash], ...] = (
    ("purple", ""), ("sky", ""), ("purple", "dotted"), ("sky", "dotted")
)  # fmt: skip


def chart_lags(spectrum: LagSpectrum, k: int | None = None) -> Chart:
    """Norm of the gradient j steps back, as a share of the largest, on a logarithmic scale.

    Args:
        spectrum: what to draw.
        k: a truncation to mark.
    """
    norms = spectrum.norms.numpy()
    top = norms.max() or 1.0
    shown = int((norms > FLOOR * top).nonzero()[0][-1]) + 1 if (norms > 0).any() else 1
    at, shares = range(shown), norms[:shown] / top
    several = len(spectrum.state_norms) > 1
    parts: list[Part] = [Line("all states" if several else "", at, shares.tolist(), dots=shown < 3)]
    if several:
        for look, (name, values) in zip(LOOKS, spectrum.state_norms.items(), strict=False):
            own = (values.numpy()[:shown] / top).tolist()
            parts.append(Line(name, at, own, *look, thin=True))
    marks: list[tuple[float, Color, str]] = [
        (0.05, "green", "horizon 5 %"),
        (0.01, "orange", "1 %"),
    ]
    for tolerance, color, name in marks:
        end = spectrum.horizon(tolerance)
        parts.append(Mark(f"{name}: {end}", x=end, color=color, dash="dashed"))
    if k is not None:
        parts.append(Mark(f"k = {k}", x=k, dash="dotted"))
    lowest = float(shares[shares > 0].min(initial=1.0))
    limit = max(shown - 1, spectrum.horizon(0.01), k or 0, 1)
    return Chart(
        "Gradient by lag", parts, x="steps back", y="share of the largest", log=True,
        xlim=(0, 1.04 * limit), ylim=(max(FLOOR, lowest / 20), 3),
    )  # fmt: skip


# What truncating to K steps does to the gradient: its bias and its direction.

LEAST = 1e-4  # a bias below a hundredth of a percent is not drawn
SHARES = ((1e-4, "0.01 %"), (1e-3, "0.1 %"), (1e-2, "1 %"), (1e-1, "10 %"), (1.0, "100 %"))


def chart_bias(spectrum: LagSpectrum, k: int | None = None) -> Chart:
    """Relative bias against K, both logarithmic, with the tolerances 5 % and 1 %.

    Args:
        spectrum: what to draw.
        k: the truncation that is trained with; its point is marked.
    """
    at, bias = spectrum.truncations.numpy(), spectrum.measured_bias.numpy()
    error = np.nan_to_num(spectrum.bias_error.numpy())
    last = 1.2 * max(float(at[-1]), k or 1)
    parts: list[Part] = [
        Line("", at.tolist(), np.where(bias >= LEAST / 2, bias, np.nan).tolist(), dots=len(at) < 3)
    ]
    if error.any():
        low, high = np.clip(bias - error, LEAST, None), np.clip(bias + error, LEAST, None)
        parts.append(Band("", at.tolist(), low.tolist(), high.tolist()))
    marks: list[tuple[float, Color]] = [(0.05, "green"), (0.01, "orange")]
    for tolerance, color in marks:
        end = spectrum.horizon(tolerance)
        word = f"{100 * tolerance:.0f} % from {end} steps on"
        # On the side where the curve is far from the line.
        start = end > last**0.5
        parts += [
            Mark(word, y=tolerance, color=color, dash="dashed", start=start),
            Line("", [end], [tolerance], color, "none", dots=True),
        ]
    if k is not None:
        value = spectrum.bias_of(k)
        parts += [
            Mark(f"k = {k}: {percent(value)}", x=k, dash="dotted"),
            Line("", [k], [max(LEAST, value)], "ink", "none", dots=True),
        ]
    return Chart(
        "Bias of the truncated gradient", parts, x="truncated to K steps", y="bias",
        log=True, xlog=True, xlim=(0.9, last),
        ylim=(LEAST / 1.5, max(2.0, 1.5 * float(np.nanmax(bias)))),
        xticks=octaves(1, last), yticks=SHARES,
    )  # fmt: skip


def chart_cosine(spectrum: LagSpectrum) -> Chart:
    """Cosine of the angle between truncated and full gradient against K."""
    at, cosine = spectrum.truncations.tolist(), spectrum.measured_cosine.numpy()
    lowest = float(np.nanmin(cosine)) if np.isfinite(cosine).any() else 0.0
    parts: list[Part] = [Line("", at, cosine.tolist(), "purple", dots=len(at) < 3)]
    if lowest < 0:
        below = np.minimum(cosine, 0).tolist()
        parts += [Mark("", y=0), Band("", at, below, [0.0] * len(at), "orange")]
    return Chart(
        "Cosine with the full gradient", parts, x="truncated to K steps", y="cosine", xlog=True,
        xlim=(0.9, 1.2 * at[-1]), ylim=(min(0.0, 1.1 * lowest), 1.05), xticks=octaves(1, 1.2 * at[-1]),
    )  # fmt: skip


# The gradient that reaches the state at every step: what vanishes on its way back.


def chart_states(found: StateGradients) -> Chart:
    """‖∂L/∂h_t‖ by step, logarithmic: every lane faintly, their mean strongly."""
    norms = found.together.numpy()
    at, top = list(range(len(norms))), float(norms.max(initial=0.0)) or 1.0
    shown = np.where(norms > 1e-16 * top, norms, np.nan)  # what is not there is no point
    parts: list[Part] = []
    if norms.shape[1] > 1:
        few = shown.T[:LANES_SHOWN]
        parts += [Line("", at, lane.tolist(), "sky", thin=True) for lane in few]
    several = len(found.norms) > 1
    mean = np.where(norms.mean(1) > 0, norms.mean(1), np.nan)
    parts.append(Line("all states" if several else "mean over the lanes", at, mean.tolist()))
    for look, (name, values) in zip(LOOKS, found.norms.items() if several else (), strict=False):
        own = values.mean(1).numpy()
        parts.append(Line(name, at, np.where(own > 0, own, np.nan).tolist(), *look))
    return Chart(
        "Gradient by step", parts, x="step", y="‖∂L/∂h‖", log=True,
        caption="Mean over the lanes; faint, each of the first lanes by itself.",
    )  # fmt: skip


# What the recurrence alone does to a gradient: products of Jacobians, singular values, exponents.


def chart_products(found: JacobianProducts) -> Chart:
    """The largest singular value of J_t … J_{t-k+1} against k: median and range over the ends."""
    norms = found.norms.numpy()
    norms = norms[:, np.isfinite(norms).any(0)]
    steps = list(range(1, norms.shape[1] + 1))
    floor = max(1e-12, 1e-3 * float(np.nanmin(norms)))
    middle = np.nanmedian(found.singular_values.numpy()[:, : len(steps)], axis=(0, 2))
    parts: list[Part] = [
        Band("", steps, np.nanmin(norms, 0).tolist(), np.nanmax(norms, 0).tolist()),
        Line("largest singular value", steps, np.nanmedian(norms, 0).tolist()),
        Line("middle one", steps, np.where(middle > floor, middle, np.nan).tolist(), "green"),
    ]
    highest = float(np.nanmax(norms))
    if found.bound is not None:
        bound = found.bound.numpy()[: len(steps)]
        shown = np.where(bound <= 1e3 * highest, bound, np.nan)  # the bound soon says nothing
        parts.append(Line("bound (γ σmax)^k", steps, shown.tolist(), "ink", "dotted"))
        highest = max(highest, float(np.nan_to_num(shown).max()))
    parts.append(Mark("", y=1))
    return Chart(
        "Products of Jacobians", parts, x="steps back", y="gain", log=True,
        ylim=(floor, 1.5 * max(highest, 1.0)),
    )  # fmt: skip


def chart_spectrum(found: JacobianProducts | None, exponents: Lyapunov | None) -> Chart:
    """Singular values of one Jacobian, ranked, beside the long-run factors e^λ of each direction."""
    parts: list[Part] = []
    if found is not None:
        values = np.nanmedian(found.singular_values.numpy()[:, 0], 0)
        parts.append(Line("one step: singular values", range(1, len(values) + 1), values.tolist()))
    if exponents is not None:
        factors = exponents.exponents.exp().tolist()
        name = "long run: e^λ (Lyapunov)"
        parts.append(Line(name, range(1, len(factors) + 1), factors, "orange"))
    highest = max(float(np.nanmax(p.y)) for p in parts if isinstance(p, Line))
    return Chart(
        "Jacobian spectrum", [*parts, Mark("", y=1)], x="direction, ranked", y="factor per step",
        ylim=(0, 1.05 * max(highest, 1.0)),
    )  # fmt: skip


# Where the units stand on their activations: a histogram of every gate, and its saturated share.


def chart_gates(found: Saturation, layer: int) -> Chart:
    """The gates of one layer, one histogram above the other; the saturated ends in another colour.

    Args:
        found: what to draw.
        layer: which, from 0.
    """
    parts: list[Part] = [Mark("", y=0)]
    rows = []
    for row, (name, gate) in enumerate(reversed(found.layers[layer].items())):
        edges, shares = gate.edges.numpy(), gate.shares.numpy()
        # Gates of range 0…1 and states of -1…1 share one axis: place within the range.
        low, high = float(edges[0]), float(edges[-1])
        places = (edges - low) / (high - low)
        middle = (places[1:] + places[:-1]) / 2
        ends = (middle < 0.05) | (middle > 0.95)
        sizes = 0.8 * shares / max(float(shares.max()), 1e-12)
        parts += [
            Bars(middle[~ends].tolist(), sizes[~ends].tolist(), width=0.046, base=row),
            Bars(middle[ends].tolist(), sizes[ends].tolist(), "orange", 0.046, row),
            Label(f"{100 * gate.saturated:.0f} %", 1.03, row + 0.1, "orange"),
        ]
        limits = f"{low:.2g} … {high:.2g}".replace("-", "\N{MINUS SIGN}")
        rows.append((row + 0.3, f"{name}\n{limits}"))
    where = f", layer {layer}" if len(found.layers) > 1 else ""
    return Chart(
        f"Gates and saturation{where}", parts, xlim=(-0.02, 1.17), ylim=(-0.05, len(rows)),
        xticks=((0, "lowest"), (0.5, "middle"), (1, "highest value")), yticks=rows, grid=False,
    )  # fmt: skip


# What the state still knows of the input of k steps ago, beside what the gradient reaches.


def chart_memory(found: Capacity, spectrum: LagSpectrum | None = None) -> Chart:
    """Share of the variance of x_{t-k} that a linear map reads out of h_t, by k; with the horizon of a
    spectrum beside it."""
    explained = found.explained.tolist()
    parts: list[Part] = [Bars(range(len(explained)), explained)]
    horizon = None if spectrum is None else spectrum.horizon()
    if horizon is not None and horizon <= len(explained):
        parts.append(Mark(f"horizon 5 %: {horizon}", x=horizon, color="green", dash="dashed"))
    return Chart(
        "Memory of the input", parts, x="steps ago", y="variance explained",
        xlim=(-0.7, len(explained) - 0.3), ylim=(0, 1.02),
        yticks=((0, "0"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (1, "100 %")),
    )  # fmt: skip


# A training run over its steps: loss, horizon, norm, and the bias of every truncation as a heat map.

Record = Mapping[str, Any]
POINTS = 600  # of a curve; more are thinned out
COLUMNS = 60  # measurements the heat map shows; more are thinned out, the last one kept


def series(records: Iterable[Record], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one number, where it was written and is finite.

    Example:
        >>> series([{"step": 1, "loss": 2.0}, {"step": 2}, {"step": 3, "loss": 1.5}], "loss")
        (array([1., 3.]), array([2. , 1.5]))
    """
    pairs = [(r.get("step"), r.get(name)) for r in records]
    good = [(s, v) for s, v in pairs if is_number(s) and is_number(v)]
    array = np.array(good, dtype=float).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def spectra(records: Iterable[Record]) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """(step, truncations, bias) of every line that carries a well-formed spectrum."""
    found = []
    for record in records:
        spectrum, step = record.get("spectrum"), record.get("step", 0)
        if not isinstance(spectrum, Mapping) or not is_number(step):
            continue
        at, bias = spectrum.get("truncations"), spectrum.get("bias")
        if not isinstance(at, list) or not isinstance(bias, list) or len(at) != len(bias):
            continue
        if at and all(is_number(k) and k >= 1 for k in at) and all(is_number(b) for b in bias):
            order = np.argsort(at)
            found.append((float(step), np.array(at, float)[order], np.array(bias, float)[order]))
    return found


def is_number(value: Any) -> bool:
    """Whether a value of a line is a number that can be drawn: a finite one, and no True."""
    kind = isinstance(value, (int, float)) and not isinstance(value, bool)
    return kind and bool(abs(value) < 1e300)


def held_out(records: Iterable[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and bits per token of the scores on the held-out text."""
    scores = [
        {"step": r.get("step"), "bits": r["valid"].get("bits")}
        for r in records
        if isinstance(r.get("valid"), Mapping)
    ]
    return series(scores, "bits")


def chart_course(
    records: Sequence[Record], k: int | None = None, clip: object = None
) -> dict[str, Chart]:
    """The pictures of a training run, by name; those whose numbers were never written are left out.

    Args:
        records: lines of ``metrics.jsonl``.
        k: the truncation that was trained with.
        clip: the norm it was clipped to, where it is a number.

    Returns:
        ``"heat"``, ``"loss"``, ``"horizon"`` and ``"norm"``, each where there is something to draw.
    """
    charts = {}
    if spectra(records):
        charts["heat"] = chart_heat(records, k)
    if len(series(records, "bits")[0]):
        bits = series(records, "bits")[1]
        parts: list[Part] = [_curve("training", records, "bits", "blue")]
        steps, scores = held_out(records)
        if len(steps):
            held = Line("held out", steps.tolist(), scores.tolist(), "orange", "dashed", dots=True)
            parts.append(held)
        caption = (
            f"Bits per token, from {bits[0]:.2f} to {bits[-1]:.2f}. Where the held-out curve rises "
            "while the other falls, the model learns the text by heart."
        )
        charts["loss"] = Chart("Loss", parts, y="bits per token", caption=caption)
    reach = series(records, "horizon")[1]
    if len(reach):
        parts = [_curve("", records, "horizon", "green")]
        if k is not None:
            parts.append(Mark(f"k = {k}", y=k, dash="dotted"))
        caption = (
            "How many steps back the gradient reaches (5 % bias), as measured while training. It "
            "usually grows as the model finds something in the past worth keeping."
        )
        charts["horizon"] = Chart(
            "Horizon over training", parts, y="steps back", caption=caption,
            ylim=(0, 1.15 * max(float(reach.max()), k or 1)),
        )  # fmt: skip
    norms = series(records, "norm")[1]
    if (norms > 0).any():
        parts = [_curve("before clipping", records, "norm", "purple")]
        if isinstance(clip, (int, float)):
            parts.append(Mark(f"clipped at {number(clip)}", y=float(clip), color="orange"))
        caption = "The mean of the updates between two lines of the metrics."
        charts["norm"] = Chart("Gradient norm", parts, y="norm", log=True, caption=caption)
    return {name: replace(chart, x="training step") for name, chart in charts.items()}


def chart_updates(losses: Sequence[float], norms: Sequence[float] = ()) -> list[Chart]:
    """A loop of one's own: its loss, and the gradient's norm where that is known, by update."""
    charts: list[Chart] = []
    for title, values in (("Loss", losses), ("Gradient norm", norms)):
        lines = [{"step": n, "y": value} for n, value in enumerate(values, 1)]
        if len(series(lines, "y")[0]):
            curve, log = _curve("", lines, "y", "purple" if charts else "blue"), bool(charts)
            charts.append(Chart(title, [curve], x="update", y=title.lower(), log=log))
    return charts


def _curve(name: str, records: Sequence[Record], key: str, color: Color) -> Line:
    x, y = series(records, key)
    apart = -(-len(x) // POINTS) or 1
    # The last one is what is now.
    x, y = x[::-1][::apart][::-1], y[::-1][::apart][::-1]
    return Line(name, x.tolist(), y.tolist(), color, dots=len(x) < 3)


def heat(
    records: Iterable[Record], columns: int = COLUMNS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bias of every truncation over training, on a common grid.

    Args:
        records: lines of ``metrics.jsonl``, one with a spectrum among them.
        columns: more measurements are thinned out, first and last kept.

    Returns:
        steps ``(n,)``, truncations K ``(m,)`` and log10 of the bias ``(n, m)``, between -4 and 0.

    Example:
        >>> line = {"step": 10, "spectrum": {"truncations": [1, 2], "bias": [0.1, 0.0]}}
        >>> heat([line])[2].tolist()
        [[-1.0, -4.0]]
    """
    found = spectra(records)
    if len(found) > columns:
        found = [found[i] for i in np.linspace(0, len(found) - 1, columns).round().astype(int)]
    grid = np.unique(np.concatenate([at for _, at, _ in found]))
    # log of the bias, which changes by decades; beyond what was measured the last value holds.
    values = [
        np.interp(np.log(grid), np.log(at), np.log10(np.clip(b, 1e-4, 1))) for _, at, b in found
    ]
    return np.array([step for step, _, _ in found]), grid, np.array(values)


def chart_heat(records: Sequence[Record], k: int | None = None) -> Chart:
    """The bias of every truncation over training, and the horizon on top; dark: nothing is left out."""
    steps, grid, values = heat(records)
    scale = tuple((float(np.log10(share)), word) for share, word in SHARES)
    columns, rows = borders(steps).tolist(), np.exp(borders(np.log(grid))).tolist()
    at, reach = series(records, "horizon")
    parts: list[Part] = [Heat("bias", columns, rows, values, scale)]
    if len(at) > 1:
        parts.append(Line("", at.tolist(), np.clip(reach, rows[0], rows[-1]).tolist(), "white"))
    if k is not None and grid[0] <= k <= grid[-1]:
        parts.append(Mark("", y=k, color="white", dash="dotted"))
    caption = (
        "Each column is a moment of training, each row a truncation K: the colour is the share of the "
        "gradient that truncating to K steps would have left out then. Yellow: all of it; dark blue: "
        "less than 0.01 %. White line: the horizon, above which less than 5 % is left"
    )
    return Chart(
        "Bias by truncation, over training", parts, x="training step", y="truncation K, steps back",
        log=True, xlim=(columns[0], columns[-1]), ylim=(rows[0], rows[-1]),
        yticks=octaves(grid[0], grid[-1]), grid=False,
        caption=caption + ("; dotted: the K it trains with." if k is not None else "."),
    )  # fmt: skip


def borders(centres: np.ndarray) -> np.ndarray:
    """Cell borders halfway between centres."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    inner = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - inner[0]], inner, [2 * centres[-1] - inner[-1]]])

"""Figures of a watched step: gradient by lag, truncation, gates, Jacobians, memory; ``bptt.plot``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt.errors import ArgumentError
from bptt.probes import Capacity, JacobianProducts, LagSpectrum, Lyapunov, Saturation
from bptt.probes.watch import Flow, Watched
from bptt.report.on_text import plot_on
from bptt.report.page import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, panels, style
from bptt.report.words import percent

# Where the units stand on their activations: a histogram of every gate, and its saturated share.


def draw_gates(axes: Any, found: Saturation, layer: int) -> None:
    """The gates of one layer, one histogram above the other; the saturated ends in another colour.

    Args:
        axes: matplotlib's.
        found: what to draw.
        layer: which, from 0.
    """
    gates = found.layers[layer]
    for row, (_, gate) in enumerate(reversed(gates.items())):
        edges, shares = gate.edges.numpy(), gate.shares.numpy()
        # Gates of range 0…1 and states of -1…1 share one axis: place within the range.
        low, high = edges[0], edges[-1]
        places = (edges - low) / (high - low)
        middle = (places[1:] + places[:-1]) / 2
        ends = (middle < 0.05) | (middle > 0.95)
        heights = 0.8 * shares / max(float(shares.max()), 1e-12)
        colors = np.where(ends, ORANGE, BLUE)
        axes.bar(middle, heights, width=0.046, bottom=row, color=colors, linewidth=0)
        axes.text(
            1.03,
            row + 0.1,
            f"{100 * gate.saturated:.0f} %",
            color=ORANGE,
            fontsize=9.5,
            va="bottom",
        )
    names = [_ranged(name, gate) for name, gate in reversed(gates.items())]
    axes.set_yticks([r + 0.3 for r in range(len(names))], names)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([0, 0.5, 1], ["lowest", "middle", "highest value"])
    axes.set(xlim=(-0.02, 1.17), ylim=(-0.05, len(names)))
    axes.grid(False)
    axes.axhline(0, color=INK, linewidth=0.6)
    where = f", layer {layer}" if len(found.layers) > 1 else ""
    axes.set(title=f"Gates and saturation{where}")


def _ranged(name: str, gate: Any) -> str:
    low, high = float(gate.edges[0]), float(gate.edges[-1])
    return f"{name}\n{low:.2g} … {high:.2g}".replace("-", "\N{MINUS SIGN}")


# What the recurrence alone does to a gradient: products of Jacobians, singular values, exponents.


def draw_products(axes: Any, found: JacobianProducts) -> None:
    """The largest singular value of J_t … J_{t-k+1} against k: median and range over the ends."""
    norms = found.norms.numpy()
    norms = norms[:, np.isfinite(norms).any(0)]
    steps = np.arange(1, norms.shape[1] + 1)
    axes.fill_between(
        steps, np.nanmin(norms, 0), np.nanmax(norms, 0), color=BLUE, alpha=0.2, linewidth=0
    )
    axes.semilogy(steps, np.nanmedian(norms, 0), color=BLUE, label="largest singular value")
    floor = max(1e-12, 1e-3 * float(np.nanmin(norms)))
    middle = np.nanmedian(found.singular_values.numpy()[:, : len(steps)], axis=(0, 2))
    axes.semilogy(steps, np.where(middle > floor, middle, np.nan), color=GREEN, label="middle one")
    if found.bound is not None:
        bound = found.bound.numpy()[: len(steps)]
        shown = bound <= 1e3 * np.nanmax(norms)  # the bound soon says nothing
        axes.semilogy(
            steps[shown], bound[shown], color=INK, linestyle=":", label="bound (γ σmax)^k"
        )
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.legend(loc="lower right", handlelength=1.4)
    axes.set_ylim(bottom=floor)
    axes.set(title="Products of Jacobians", xlabel="steps back", ylabel="gain")


def draw_spectrum(axes: Any, found: JacobianProducts | None, exponents: Lyapunov | None) -> None:
    """Singular values of one Jacobian, ranked, beside the long-run factors e^λ of each direction."""
    if found is not None:
        values = np.nanmedian(found.singular_values.numpy()[:, 0], 0)
        axes.plot(range(1, len(values) + 1), values, color=BLUE, label="one step: singular values")
    if exponents is not None:
        factors = exponents.exponents.exp().numpy()
        axes.plot(
            range(1, len(factors) + 1), factors, color=ORANGE, label="long run: e^λ (Lyapunov)"
        )
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", handlelength=1.4)
    axes.set(title="Jacobian spectrum", xlabel="direction, ranked", ylabel="factor per step")


# The gradient by lag, with the horizon marked.

# Below this share of the largest a norm is drawn no more: five decades fill the panel.
FLOOR = 1e-5
STATES = 4  # states drawn apart, as the h and c of two layers of an LSTM


def draw_lags(axes: Any, spectrum: LagSpectrum, k: int | None = None) -> None:
    """Norm of the gradient j steps back, as a share of the largest, on a logarithmic scale.

    Args:
        axes: matplotlib's.
        spectrum: what to draw.
        k: a truncation to mark.
    """
    norms = spectrum.norms.numpy()
    top = norms.max() or 1.0
    shown = int((norms > FLOOR * top).nonzero()[0][-1]) + 1 if (norms > 0).any() else 1
    axes.semilogy(
        range(shown),
        norms[:shown] / top,
        color=BLUE,
        label="all states" if len(spectrum.state_norms) > 1 else None,
    )
    if len(spectrum.state_norms) > 1:
        for place, (label, values) in enumerate(list(spectrum.state_norms.items())[:STATES]):
            own = np.where(values.numpy()[:shown] > 0, values.numpy()[:shown], np.nan) / top
            look = {"color": (PURPLE, SKY)[place % 2], "linestyle": ("-", ":")[place // 2 % 2]}
            axes.semilogy(range(shown), own, linewidth=1.1, label=label, **look)
    for tolerance, color, name in ((0.05, GREEN, "horizon 5 %"), (0.01, ORANGE, "1 %")):
        at = spectrum.horizon(tolerance)
        label = f"{name}: {at}"
        axes.axvline(at, color=color, linestyle="--", linewidth=1.3, label=label)
    if k is not None:
        axes.axvline(k, color=INK, linestyle=":", linewidth=1.5, label=f"k = {k}")
    shares = norms[:shown][norms[:shown] > 0] / top
    lowest = float(shares.min()) if len(shares) else 1.0
    axes.set_ylim(max(FLOOR, lowest / 20), 3)
    limit = max(shown - 1, spectrum.horizon(0.01), k or 0, 1)
    # Above the panel, where no curve runs through it, in rows of three.
    rows = -(-len(axes.get_legend_handles_labels()[1]) // 3)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1.1, handlelength=1.4,
        borderpad=0.1, borderaxespad=0.1,
    )  # fmt: skip
    axes.set_xlim(0, 1.04 * limit)
    axes.set_title("Gradient by lag", pad=6 + 15 * rows)
    axes.set(xlabel="steps back", ylabel="share of the largest")


# What the state still knows of the input of k steps ago, beside what the gradient reaches.


def draw_memory(axes: Any, found: Capacity, spectrum: LagSpectrum) -> None:
    """Share of the variance of x_{t-k} that a linear map reads out of h_t, by k."""
    explained = found.explained.numpy()
    axes.bar(range(len(explained)), explained, color=BLUE, width=0.85, linewidth=0)
    horizon = spectrum.horizon()
    if horizon <= len(explained):
        label = f"horizon 5 %: {horizon}"
        axes.axvline(horizon, color=GREEN, linestyle="--", linewidth=1.3, label=label)
        axes.legend(loc="upper right")
    axes.set(xlim=(-0.7, len(explained) - 0.3), ylim=(0, 1.02))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set(title="Memory of the input", xlabel="steps ago", ylabel="variance explained")


# What truncating to K steps does to the gradient: its bias and its direction.

LEAST = 1e-4  # a bias below a hundredth of a percent is not drawn


def draw_bias(axes: Any, spectrum: LagSpectrum, k: int | None = None) -> None:
    """Relative bias against K, both logarithmic, with the tolerances 5 % and 1 %.

    Args:
        axes: matplotlib's.
        spectrum: what to draw.
        k: the truncation that is trained with; its point is marked.
    """
    at = spectrum.truncations.numpy()
    bias = spectrum.measured_bias.numpy()
    axes.loglog(at, np.where(bias >= LEAST / 2, bias, np.nan), color=BLUE)
    error = np.nan_to_num(spectrum.bias_error.numpy())
    if error.any():
        low, high = np.clip(bias - error, LEAST, None), np.clip(bias + error, LEAST, None)
        axes.fill_between(at, low, high, color=BLUE, alpha=0.18, linewidth=0)
    for tolerance, color in ((0.05, GREEN), (0.01, ORANGE)):
        axes.axhline(tolerance, color=color, linestyle="--", linewidth=1.1)
        place = spectrum.horizon(tolerance)
        label = f"{100 * tolerance:.0f} % from {place} steps on"
        axes.plot([place], [tolerance], "o", color=color, markersize=6, label=label)
    if k is not None:
        value = spectrum.bias_of(k)
        axes.axvline(k, color=INK, linestyle=":", linewidth=1.3)
        label = f"k = {k}: {percent(value)}"
        axes.plot([k], [max(LEAST, value)], "s", color=INK, markersize=6, label=label)
    axes.legend(loc="lower left", handlelength=1.0)
    axes.set_ylim(LEAST / 1.5, max(2.0, 1.5 * float(np.nanmax(bias))))
    axes.set_xlim(0.9, 1.2 * max(float(at[-1]), k or 1))
    axes.set_yticks([1e-4, 1e-3, 1e-2, 1e-1, 1.0], ["0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    _plain_ticks(axes)
    axes.set(title="Bias of the truncated gradient", xlabel="truncated to K steps")


def draw_cosine(axes: Any, spectrum: LagSpectrum) -> None:
    """Cosine of the angle between truncated and full gradient against K."""
    at, cosine = spectrum.truncations.numpy(), spectrum.measured_cosine.numpy()
    axes.semilogx(at, cosine, color=PURPLE)
    lowest = float(np.nanmin(cosine)) if np.isfinite(cosine).any() else 0.0
    if lowest < 0:
        axes.axhline(0, color=INK, linewidth=1)
        axes.fill_between(at, cosine, 0, where=cosine < 0, color=ORANGE, alpha=0.3, linewidth=0)
    axes.set_ylim(min(0.0, 1.1 * lowest), 1.05)
    axes.set_xlim(0.9, 1.2 * float(at[-1]))
    _plain_ticks(axes)
    axes.set(title="Cosine with the full gradient", xlabel="truncated to K steps")


def _plain_ticks(axes: Any) -> None:
    """1, 10, 100 in place of powers of ten."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


# A training run over its steps: loss, horizon, and the bias of every truncation as a heat map.

Record = Mapping[str, Any]
COLUMNS = 120  # measurements the heat map shows; more are thinned out, the last one kept


def series(records: Iterable[Record], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one number, where it was written and is finite.

    Example:
        >>> series([{"step": 1, "loss": 2.0}, {"step": 2}, {"step": 3, "loss": 1.5}], "loss")
        (array([1., 3.]), array([2. , 1.5]))
    """
    pairs = [(r.get("step"), r.get(name)) for r in records]
    good = [(s, v) for s, v in pairs if number(s) and number(v)]
    array = np.array(good, dtype=float).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def spectra(records: Iterable[Record]) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """(step, truncations, bias) of every line that carries a well-formed spectrum."""
    found = []
    for record in records:
        spectrum, step = record.get("spectrum"), record.get("step", 0)
        if not isinstance(spectrum, Mapping) or not number(step):
            continue
        at, bias = spectrum.get("truncations"), spectrum.get("bias")
        if not isinstance(at, list) or not isinstance(bias, list) or len(at) != len(bias):
            continue
        if at and all(number(k) and k >= 1 for k in at) and all(number(b) for b in bias):
            order = np.argsort(at)
            found.append((float(step), np.array(at, float)[order], np.array(bias, float)[order]))
    return found


def number(value: Any) -> bool:
    """Whether a value of a line is a number that can be drawn: a finite one, and no True."""
    kind = isinstance(value, (int, float)) and not isinstance(value, bool)
    return kind and bool(abs(value) < 1e300)


def draw_loss(axes: Any, records: Sequence[Record]) -> None:
    """Bits per token: in training, smoothed by what a line averages, and held out."""
    axes.plot(*series(records, "bits"), color=BLUE, linewidth=1.3, label="training")
    scores = [
        {"step": r.get("step"), "bits": r["valid"].get("bits")}
        for r in records
        if isinstance(r.get("valid"), Mapping)
    ]
    steps, bits = series(scores, "bits")
    if len(steps):
        axes.plot(steps, bits, "o-", color=ORANGE, markersize=4, label="held out")
        axes.legend(loc="upper right")
    axes.set(title="Loss", xlabel="training step", ylabel="bits per token")


def draw_horizon(axes: Any, records: Sequence[Record], k: int | None = None) -> None:
    """The horizon over training, and the k that was trained with."""
    axes.plot(*series(records, "horizon"), color=GREEN, drawstyle="steps-post")
    if k is not None:
        axes.axhline(k, color=INK, linestyle=":", linewidth=1.3)
        axes.annotate(
            f"k = {k}", (1, k), xycoords=axes.get_yaxis_transform(), xytext=(0, 3), ha="right",
            textcoords="offset points", color=INK, fontsize=9.5,
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set(title="Horizon over training", xlabel="training step", ylabel="steps back")


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


def draw_heat(axes: Any, records: Sequence[Record], k: int | None = None) -> None:
    """Bias by training step and truncation; dark: nothing is left out."""
    steps, grid, values = heat(records)
    longest = grid[-1]
    image = axes.pcolormesh(
        borders(steps), np.exp(borders(np.log(grid))), values.T,
        cmap="cividis", vmin=-4, vmax=0, rasterized=True,
    )  # fmt: skip
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_ticks([-4, -3, -2, -1, 0], labels=["0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    bar.outline.set_visible(False)
    axes.set_yscale("log")
    ticks = [t for t in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if t <= longest]
    axes.set_yticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    if k is not None and k <= longest:
        axes.axhline(k, color="white", linestyle=":", linewidth=1.3)
    axes.grid(False)
    axes.set(title="Bias by truncation, over training", xlabel="training step", ylabel="K")


def borders(centres: np.ndarray) -> np.ndarray:
    """Cell borders halfway between centres."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    inner = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - inner[0]], inner, [2 * centres[-1] - inner[-1]]])


# ``bptt.plot``: a watched step as a matplotlib figure.

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(flow: Flow | Watched, on: Any = None, *, at: int | None = None, lane: int = 0) -> Figure:
    """Draw how far back a step learns: gradient by lag, bias and cosine against K; or on a text, which of
    its symbols one loss depends on.

    Args:
        flow: what :func:`bptt.watch` handed out, after a backward pass; or one of its ``modules``.
        on: the text that a lane was given, or a list of its tokens, one for each step: the shade behind
            each says how much the loss at one step depends on it, by the norm of that loss's gradient
            at the step's input. Of a model with one recurrent layer or cell that reads in one direction.
        at: the step of that loss, from 0; default the last one that a loss asks for.
        lane: the lane that was given the text.

    Returns:
        a figure of three panels, 14 by 3 inches, its background transparent and readable on white and on
        black: ``figure.savefig("flow.svg")``; or one of the text on its shades, on white. It belongs to
        no window; in a notebook it shows itself.

    Raises:
        ArgumentError: something else was passed, the text's length is not that of the lane, the step
            kept no trajectory, or the gradient is not finite.
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
    with style() as figure:
        made, (left, middle, right) = panels(figure, 3)
        draw_lags(left, spectrum)
        draw_bias(middle, spectrum)
        draw_cosine(right, spectrum)
    return made

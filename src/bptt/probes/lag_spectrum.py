"""The gradient split by lag: how much of it comes from how many steps back, and what truncation leaves.

Lag j of a loss at step t is the part of its gradient that passed through j steps of the recurrence.
δ_t⁰ = ∂ℓ/∂h_t is the direct gradient at the state, J_t = ∂h_t/∂h_{t-1}, and

    δ_{t-1}^{j+1} = J_tᵀ δ_t^j        for all t at once,
    g_K = Σ_{j<K} Σ_t (∂h_t/∂θ)ᵀ δ_t^j.

g_K is the gradient truncated to K steps: every loss reaches its own step and K - 1 before it. With K
as long as the sequence it is the gradient g of BPTT.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.errors import ArgumentError, optional, real, whole
from bptt.probes.spectrum import LagSpectrum, fit_decay
from bptt.probes.walk import ShortWalk, Walk, square
from bptt.recurrence import Linear, Recurrence, States, add_gradients, padded

# Every K up to here is measured; beyond it, by default, four to the octave.
EVERY = 64
PER_OCTAVE = 4


def default_truncations(steps: int, cap: int | None = None) -> list[int]:
    """Every K up to 64, then four to the octave, up to the sequence's length or the cap.

    Example:
        >>> default_truncations(128)[62:]
        [63, 64, 76, 91, 108, 128]
    """
    steps, cap = whole("steps", steps), optional("cap", cap)
    last = steps if cap is None else min(steps, cap)
    found = list(range(1, min(EVERY, last) + 1))
    octave = 1
    while found[-1] < last:
        found.append(min(last, round(EVERY * 2 ** (octave / PER_OCTAVE))))
        octave += 1
    return found


def lag_spectrum(
    recurrence: Recurrence,
    direct: States,
    *,
    at: Sequence[int] | str | None = None,
    cap: int | None = None,
    lanes: int | None = None,
    sources: int | None = None,
    sample_of: int | None = None,
    floor: float | None = None,
    linear: Linear | None = None,
) -> LagSpectrum:
    """Split the gradient of a recurrence's parameters by lag.

    Args:
        recurrence: as it ran; see :func:`bptt.recurrence.trace` and :func:`bptt.watch`.
        direct: δ⁰, for each state ``(T, B, S)``: the loss's gradient that reaches it from outside.
        at: the K to measure; default :func:`default_truncations`; ``"every"`` for all.
        cap: the most lags to follow. The full gradient is taken by an ordinary backward pass in any
            case, so every bias and cosine up to the cap is as exact as without one.
        lanes: the most lanes to measure, evenly spaced. What is found is exact for the loss on those
            lanes, and an estimate, with ``bias_error``, for the batch.
        sources: the most time steps whose loss is followed, evenly spaced; likewise.
        sample_of: the recurrence's lanes are themselves a sample of so many.
        floor: follow lags only until those to come, if they fall on as the last did, sum to less
            than this share of those followed; then they are taken for nothing. Saves the backward
            pass, and is not exact: every bias errs by about this share. Default: to rounding.
        linear: the recurrence's own linearisation, where it is at hand.

    Returns:
        :class:`LagSpectrum`.

    Raises:
        ArgumentError, ShapeError: what does not fit, and what to do.

    Cost: a backward pass, one vector-Jacobian product over the remaining T - j steps for each lag,
    and one product over T - K steps for each K. A GRU with B=32, T=256, H=128: all 256 lags in the
    time of about 20 passes of BPTT. Memory O(T·B·G·H).

    Example:
        >>> import torch
        >>> from bptt.recurrence import trace
        >>> (rnn,) = trace(torch.nn.RNN(3, 5), torch.randn(7, 2, 3))
        >>> spectrum = lag_spectrum(rnn, (torch.ones(7, 2, 5),))
        >>> spectrum.norms.shape, spectrum.bias_of(7)
        (torch.Size([7]), 0.0)

    Source: the lags are the terms of the sum in R. Pascanu, T. Mikolov and Y. Bengio, 2013, On the
    difficulty of training recurrent neural networks, eq. 5, computed for all t at once.
    """
    direct = recurrence.check_gradient(direct)
    T, B = recurrence.steps, recurrence.lanes
    remedy = "leave it out for all"
    cap, lanes = optional("cap", cap, remedy=remedy), optional("lanes", lanes, remedy=remedy)
    sources = optional("sources", sources, remedy=remedy)
    sample_of = optional("sample_of", sample_of, remedy=remedy)
    floor = None if floor is None else real("floor", floor, "leave it out")
    if floor is not None and not (0 < floor < 1 and cap is None):
        raise ArgumentError(
            "a floor between 0 and 1, and no cap",
            f"floor={floor}, cap={cap}",
            "pass one of the two",
        )
    truncations = asked_truncations(at, T, cap)
    kept = min(B, lanes or B)
    times = _evenly(T, T if sources is None else min(T, sources))
    followed = len(times)
    of = B if sample_of is None else max(B, sample_of)
    passes: Sequence[Walk | ShortWalk]
    if floor is None:
        parts = _parts(recurrence, direct, kept, times, kept < of)
        passes = [Walk(r, d, truncations, cap, half) for r, d, half in parts]
    else:
        r, d, half = _lanes(recurrence, direct, kept, kept < of or followed < T)
        linear = linear if linear is not None and r is recurrence else r.linearize()
        sampled = kept < of or followed < T
        passes = [
            ShortWalk(r, d, truncations, half, part, floor, linear)
            for part in (_halved(times) if sampled and not half else (times,))
        ]
    return _result(recurrence, passes, truncations, (kept, of), followed)


def asked_truncations(at: Sequence[int] | str | None, steps: int, cap: int | None) -> list[int]:
    """The K to measure, ascending, the last of them the sequence's length or the cap.

    Raises:
        ArgumentError: ``at`` is neither numbers of steps from 1 on nor ``"every"``.
    """
    last = steps if cap is None else min(steps, cap)
    if at is None:
        return default_truncations(steps, cap)
    if isinstance(at, str):
        if at != "every":
            raise ArgumentError("numbers of steps or 'every'", repr(at), "pass at='every'")
        return list(range(1, last + 1))
    asked = sorted({whole("K", k, remedy="pass e.g. at=[16, 35]") for k in at})
    if not asked:
        raise ArgumentError("truncations K >= 1", f"{at!r}", "pass e.g. at=[16, 35]")
    return [k for k in asked if k < last] + [last]


def _evenly(steps: int, sources: int) -> range:
    """So many times at most, evenly spaced, the last step among them: it looks back the furthest."""
    apart = -(-steps // sources)
    return range((steps - 1) % apart, steps, apart)


def _halved(times: range) -> tuple[range, ...]:
    """One lane has no half: its sources are halved, each half walked for itself; one has none."""
    return (times[::2], times[1::2]) if len(times) > 1 else (times,)


def _lanes(
    recurrence: Recurrence, direct: States, lanes: int, sampled: bool
) -> tuple[Recurrence, States, int]:
    """Some lanes, and how many of them are the first half; 0 where there are no halves to take."""
    B = recurrence.lanes
    if not sampled or lanes == 1:
        chosen = torch.zeros(1, dtype=torch.int64, device="cpu")
        half = 0
    else:
        chosen = torch.arange(lanes, device="cpu") * B // lanes
        chosen, half = torch.cat([chosen[::2], chosen[1::2]]), (lanes + 1) // 2
    if lanes == B and (lanes <= 2 or not half):
        return recurrence, direct, half  # as they stand
    chosen = chosen.to(direct[0].device)
    return recurrence.select(chosen), tuple(d.index_select(1, chosen) for d in direct), half


def _parts(
    recurrence: Recurrence, direct: States, lanes: int, times: range, sampled: bool
) -> Iterator[tuple[Recurrence, States, int]]:
    """What is measured: all of it, or a sample, and how many of its lanes are its first half."""
    T = recurrence.steps
    sampled = sampled or len(times) < T
    recurrence, direct, half = _lanes(recurrence, direct, lanes, sampled)
    if not sampled:
        yield recurrence, direct, 0
        return
    for part in (times,) if half else _halved(times):
        others = torch.ones(T, 1, 1, dtype=torch.bool, device=direct[0].device)
        others[part.start :: part.step] = False
        yield recurrence, tuple(d.masked_fill(others, 0) for d in direct), half


@dataclass
class _Tally:
    """Squares and products with g of what is missing at one K, by parameter."""

    squares: dict[str, float]
    dots: dict[str, float]

    @staticmethod
    def of(missing: dict[str, Tensor], gradient: dict[str, Tensor]) -> _Tally:
        squares = {n: square(m) for n, m in missing.items()}
        dots = {n: float(torch.dot(m.flatten(), gradient[n].flatten())) for n, m in missing.items()}
        return _Tally(squares, dots)

    @property
    def square(self) -> float:
        return sum(self.squares.values())

    @property
    def dot(self) -> float:
        return sum(self.dots.values())


def _result(
    recurrence: Recurrence,
    passes: Sequence[Walk | ShortWalk],
    truncations: list[int],
    lanes: tuple[int, int],
    sources: int,
) -> LagSpectrum:
    frozen = recurrence.frozen

    def trained(part: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: g for n, g in part.items() if n not in frozen} if frozen else part

    gradient = trained(_sum([p.gradient for p in passes]))
    whole = {n: square(g) for n, g in gradient.items()}
    size = sum(whole.values())
    halves = _halves(gradient, [(trained(p.gradient), trained(p.half_gradient)) for p in passes])
    sizes = [sum(map(square, half.values())) for half in halves]
    tallies: list[_Tally] = []
    blocks: list[float] = []
    errors: list[float] = []
    # One time step of one lane has no halves to compare, and does not say how far it is off.
    sampled = lanes[0] < lanes[1] or sources < recurrence.steps
    unknown = math.nan if sampled else 0.0
    before = gradient
    for found in zip(*passes, strict=False):
        missing = [(trained(one), trained(half)) for one, half in found]
        together = _sum([whole_part for whole_part, _ in missing])
        tallies.append(_Tally.of(together, gradient))
        change = (g - together[n] if n in together else g for n, g in before.items())
        blocks.append(sum(map(square, change)) ** 0.5)
        before = together
        parts = _halves(together, missing)
        if not halves or (len(parts) < 2 and together):
            errors.append(errors[-1] if errors else unknown)
        else:
            one, other = (
                _ratio(sum(map(square, half.values())), n) ** 0.5
                for half, n in zip(parts or [{}, {}], sizes, strict=True)
            )
            errors.append(abs(one - other) / 2)

    names = list(gradient)
    layer_of = {n: layer for n, layer in recurrence.step.layer_of.items() if n not in frozen}
    by_parameter = {n: _biases(tallies, [n], whole) for n in names}
    by_layer = {
        layer: _biases(tallies, [n for n in names if layer_of[n] == layer], whole)
        for layer in sorted(set(layer_of.values()))
    }
    squares = _add_lines(
        [torch.tensor(p.squares, dtype=torch.float64, device="cpu") for p in passes]
    )
    linked = _add_lines([torch.tensor(p.linked, dtype=torch.float64, device="cpu") for p in passes])
    norms = squares.sum(1)
    factors = (norms[1:] / linked[: len(norms) - 1]).sqrt()
    # Lags that were not followed, because nothing is left to follow, are zeros.
    squares = padded(squares, truncations[-1])
    norms = squares.sum(1)
    # Passes are halves of the same lane's losses: their gradients add up, their squares do not.
    total = tuple(
        sum(parts[1:], parts[0]) for parts in zip(*(p.total for p in passes), strict=True)
    )
    return LagSpectrum(
        name=recurrence.name,
        steps=recurrence.steps,
        norms=norms.sqrt(),
        state_norms=dict(zip(recurrence.labels, squares.sqrt().unbind(1), strict=True)),
        factors=factors,
        decay=fit_decay(factors, norms.sqrt()),
        truncations=torch.tensor(truncations, device="cpu"),
        measured_bias=_biases(tallies, names, whole),
        measured_cosine=torch.tensor(
            [_cosine(t, size) for t in tallies], dtype=torch.float64, device="cpu"
        ),
        block_norms=torch.tensor(blocks, dtype=torch.float64, device="cpu"),
        parameters=by_parameter,
        layers=by_layer,
        gradient_norm=size**0.5,
        state_gradient_norms=_by_step(total).sqrt(),
        lanes=lanes,
        sources=sources / recurrence.steps,
        bias_error=torch.tensor(errors, dtype=torch.float64, device="cpu"),
        missing_dot=torch.tensor([t.dot for t in tallies], dtype=torch.float64, device="cpu"),
    )


def _sum(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for part in parts:
        add_gradients(total, part)
    return total


def _halves(
    whole: dict[str, Tensor], parts: Sequence[tuple[dict[str, Tensor], dict[str, Tensor]]]
) -> list[dict[str, Tensor]]:
    """The two halves of a sample: walked apart, or one lane for lane and the other by difference."""
    if len(parts) == 2:
        return [found for found, _ in parts]
    half = parts[0][1]
    return [half, {n: whole[n] - h for n, h in half.items()}] if half else []


def _biases(tallies: list[_Tally], names: list[str], whole: dict[str, float]) -> Tensor:
    size = sum(whole[n] for n in names)
    missing = [sum(t.squares.get(n, 0.0) for n in names) for t in tallies]
    return torch.tensor(
        [_ratio(m, size) for m in missing], dtype=torch.float64, device="cpu"
    ).sqrt()


def _ratio(part: float, whole: float) -> float:
    """NaN where there is no gradient to be a part of."""
    return part / whole if whole > 0 else math.nan


def _cosine(tally: _Tally, size: float) -> float:
    """Of g - r with g, from ‖r‖² and r·g; 0 where the truncated gradient is nothing."""
    along = size - tally.dot
    square = size - 2 * tally.dot + tally.square
    if not size > 0:
        return math.nan
    return max(-1.0, min(1.0, along / (square * size) ** 0.5)) if square > 0 else 0.0


def _add_lines(parts: list[Tensor]) -> Tensor:
    """Sum by lag; a part that fell below rounding earlier has nothing there."""
    lags = max(len(p) for p in parts)
    total = torch.zeros(lags, *parts[0].shape[1:], dtype=torch.float64, device="cpu")
    for part in parts:
        total[: len(part)] += part
    return total


def _by_step(total: States) -> Tensor:
    """(T,) squares over lanes and units."""
    found = torch.zeros(total[0].shape[0], dtype=torch.float64, device="cpu")
    for state in total:
        found += torch.linalg.vector_norm(state, dim=(1, 2)).double().square().cpu()
    return found

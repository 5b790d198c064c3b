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

from bptt.errors import ArgumentError
from bptt.probes.decay import fit_decay
from bptt.recurrence import Linear, Recurrence, States, add_gradients, flat, total_gradient

# Every K up to here is measured; beyond it, by default, four to the octave.
EVERY = 64
PER_OCTAVE = 4
# The error of a sample changes slowly with K: it is measured at every so many of them.
HALVES = 4


@dataclass(frozen=True, eq=False)
class LagSpectrum:
    """What :func:`lag_spectrum` found. Tensors are float64 on the CPU, gradients in the loss's units.

    Attributes:
        name: of the recurrent module.
        steps: T, of the longest lane.
        norms: ``(lags,)``: norm over all steps, lanes and states of the gradient j steps back,
            (Σ_t ‖δ_t^j‖²)^½, for j = 0, 1, …; it ends at T, at the cap, or below rounding.
        state_norms: state's label → ``(lags,)``, the same for each state apart (an LSTM's h and c).
        factors: ``(lags - 1,)``: by how much lag j's gradient changes in the next step back, counted
            over those steps that have a step before them: 1 for an orthogonal map, however short the
            sequence.
        decay: the robust factor per step, see :func:`bptt.probes.decay.fit_decay`; NaN with one lag.
        truncations: ``(n,)`` int64, ascending: the K that were measured.
        measured_bias: ``(n,)``: ‖g_K - g‖ / ‖g‖ at those K.
        measured_cosine: ``(n,)``: cosine of the angle between g_K and g at those K.
        block_norms: ``(n,)``: norm of the parameter gradient of the lags from one measured K to the
            next: up to K=64 that of the single lag K - 1.
        bias: ``(lags,)``: bias[K - 1] of K; between measured K interpolated on its logarithm.
        cosine: ``(lags,)``: likewise, interpolated linearly.
        parameters: name → ``(n,)``: ‖g_K - g‖ / ‖g‖ of each parameter alone; NaN where its g is 0.
        layers: layer → ``(n,)``: the same for each layer's parameters together.
        gradient_norm: ‖g‖.
        state_gradient_norms: ``(T,)``: ‖∂L/∂h_t‖ over lanes and states, all lags together.
        lanes: how many lanes were measured, of how many.
        sources: the share of the loss's time steps that were followed; 1 unless sampled.
        bias_error: ``(n,)``: standard error of ``measured_bias`` from sampling, half the difference
            between two halves of the sample, at every fourth K and held until the next; zeros where
            nothing was sampled.
    """

    name: str
    steps: int
    norms: Tensor
    state_norms: dict[str, Tensor]
    factors: Tensor
    decay: float
    truncations: Tensor
    measured_bias: Tensor
    measured_cosine: Tensor
    block_norms: Tensor
    parameters: dict[str, Tensor]
    layers: dict[int, Tensor]
    gradient_norm: float
    state_gradient_norms: Tensor
    lanes: tuple[int, int]
    sources: float
    bias_error: Tensor

    @property
    def bias(self) -> Tensor:
        """Relative bias of the gradient truncated to K = 1 … lags."""
        tiny = torch.finfo(torch.float64).tiny
        return self._spread(self.measured_bias.clamp(min=tiny).log()).exp()

    @property
    def cosine(self) -> Tensor:
        """Cosine between truncated and full gradient for K = 1 … lags."""
        return self._spread(self.measured_cosine)

    def horizon(self, tolerance: float = 0.05) -> int:
        """The smallest K from which on the relative bias is at most ``tolerance``, in steps.

        Exact up to K=64 and wherever every K was measured; between the K measured beyond, the
        upper one, at most 19 % too large. If no measured K is good enough, T.

        Raises:
            ArgumentError: the tolerance is not between 0 and 1.
        """
        if not 0 < tolerance < 1:
            raise ArgumentError(
                "a tolerance between 0 and 1", f"{tolerance}", "pass a share, e.g. 0.05 for 5 %"
            )
        good = (self.measured_bias <= tolerance).tolist()
        horizon = self.steps
        for k, fine in zip(reversed(self.truncations.tolist()), reversed(good), strict=True):
            if not fine:
                break
            horizon = k
        return horizon

    def bias_of(self, k: int) -> float:
        """Relative bias at a measured K; 0 from the sequence's length on.

        Raises:
            ArgumentError: this K was not measured.
        """
        return self._at(k, self.measured_bias, 0.0)

    def cosine_of(self, k: int) -> float:
        """Cosine at a measured K; 1 from the sequence's length on. Raises: as :meth:`bias_of`."""
        return self._at(k, self.measured_cosine, 1.0)

    def _at(self, k: int, values: Tensor, beyond: float) -> float:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ArgumentError("K >= 1", f"{k!r}", "count steps: K=1 is a loss's own step alone")
        if k >= self.steps:
            return beyond
        found = (self.truncations == k).nonzero()
        if not len(found):
            raise ArgumentError(
                "a K that was measured", f"K={k}", f"ask for it: at=[{k}], or at='every'"
            )
        return float(values[found[0, 0]])

    def _spread(self, values: Tensor) -> Tensor:
        lags = len(self.norms)
        at = torch.arange(1, lags + 1)
        if len(self.truncations) == 1:
            return values.expand(lags).clone()
        right = torch.searchsorted(self.truncations, at).clamp(1, len(self.truncations) - 1)
        low, high = self.truncations[right - 1], self.truncations[right]
        share = ((at - low) / (high - low)).clamp(0, 1).to(values.dtype)
        return torch.lerp(values[right - 1], values[right], share)


def default_truncations(steps: int, cap: int | None = None) -> list[int]:
    """Every K up to 64, then four to the octave, up to the sequence's length or the cap.

    Example:
        >>> default_truncations(128)[62:]
        [63, 64, 76, 91, 108, 128]
    """
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
        floor: follow lags until their norm is below this share of the whole gradient's; a K beyond
            is given the bias left there, which is its own or more unless the gradient grows again.
            Default: below rounding.

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
    for name, value in (("cap", cap), ("lanes", lanes), ("sources", sources)):
        if value is not None and value < 1:
            raise ArgumentError(f"{name} >= 1", f"{value}", "leave it out for all")
    truncations = _asked(at, T, cap)
    kept = min(B, lanes or B)
    followed = T if sources is None else min(T, sources)
    of = B if sample_of is None else max(B, sample_of)
    parts = list(_parts(recurrence, direct, kept, followed, kept < of))
    passes = [_Pass(r, d, truncations, cap, half, floor) for r, d, half in parts]
    return _result(recurrence, passes, truncations, (kept, of), followed)


def _asked(at: Sequence[int] | str | None, steps: int, cap: int | None) -> list[int]:
    last = steps if cap is None else min(steps, cap)
    if at is None:
        return default_truncations(steps, cap)
    if isinstance(at, str):
        if at != "every":
            raise ArgumentError("numbers of steps or 'every'", repr(at), "pass at='every'")
        return list(range(1, last + 1))
    asked = sorted(set(at))
    if not asked or asked[0] < 1:
        raise ArgumentError("truncations K >= 1", f"{at!r}", "pass e.g. at=[16, 35]")
    return [k for k in asked if k < last] + [last]


def _parts(
    recurrence: Recurrence, direct: States, lanes: int, sources: int, sampled: bool
) -> Iterator[tuple[Recurrence, States, int]]:
    """What is measured: all of it, or a sample, and how many of its lanes are its first half."""
    T, B = recurrence.steps, recurrence.lanes
    device = direct[0].device
    if sources == T and not sampled:
        yield recurrence, direct, 0
        return
    chosen = torch.arange(lanes, device=device) * B // lanes
    marks = torch.arange(sources, device=device) * T // sources
    if lanes > 1:
        chosen = torch.cat([chosen[::2], chosen[1::2]])
        kept = [(marks, (lanes + 1) // 2)]
    else:  # one lane: its sources are halved, each half walked for itself
        kept = [(marks[::2], 0), (marks[1::2], 0)]
    if lanes < B or lanes > 1:
        recurrence = recurrence.select(chosen)
        direct = tuple(d.index_select(1, chosen) for d in direct)
    for followed, half in kept:
        others = torch.ones(T, 1, 1, dtype=torch.bool, device=device)
        others[followed] = False
        yield recurrence, tuple(d.masked_fill(others, 0) for d in direct), half


class _Pass:
    """One walk over the lags; iterating it yields, for each K, what is missing of the gradient."""

    def __init__(
        self,
        recurrence: Recurrence,
        direct: States,
        truncations: list[int],
        cap: int | None,
        half: int,
        floor: float | None,
    ) -> None:
        self.recurrence = recurrence
        self._truncations = truncations
        self._last = recurrence.steps if cap is None else min(recurrence.steps, cap)
        self._linear: Linear = recurrence.linearize()
        self._direct = direct
        self.total = total_gradient(recurrence, self._linear, direct)
        self._half, self._turn = half, 0
        # What lies below this, summed over all lags to come, is lost in the rounding of the total.
        self._loose = floor is not None
        self._floor = 1e-3 * torch.finfo(direct[0].dtype).eps if floor is None else floor
        # Of all lanes, and of the first half of them.
        self.gradient, self.half_gradient = self._gradients(flat(self.total))
        self.squares: list[list[float]] = []  # by lag, by state
        self.linked: list[float] = []  # by lag: the part that has a step before it

    def _gradients(self, delta: States) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        n, B = delta[0].shape[0], self.recurrence.lanes
        if not n:
            return {}, {}
        found = self._linear.gradient(delta, slice(0, n))
        self._turn += 1
        if not self._half or self._turn % HALVES != 1:
            return found, {}
        part = tuple(d.clone() for d in delta)
        for d in part:
            d.view(n // B, B, -1)[:, self._half :] = 0
        return found, self._linear.gradient(part, slice(0, n))

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """For each K the gradient of all lags from K on, of all lanes and of half; empty for none."""
        B = self.recurrence.lanes
        # Two buffers that swap: a lag is read from one and the next written to the other.
        current = tuple(d.clone() for d in flat(self._direct))
        spare = tuple(torch.empty_like(d) for d in current)
        rest = tuple(d.clone() for d in flat(self.total))
        link = self.recurrence.link.flatten().to(current[0].dtype).unsqueeze(-1)
        whole = bool(self.recurrence.link[1:].all())
        floor = sum(map(_square, rest)) * self._floor**2
        asked = iter(self._truncations)
        k = next(asked)
        n = current[0].shape[0]
        for lag in range(self._last):
            for r, d in zip(rest, current, strict=True):
                r[:n].sub_(d[:n])
            self.squares.append([_square(d[:n]) for d in current])
            left = n - B
            if lag + 1 == k:
                yield self._gradients(tuple(r[:left] for r in rest))
                k = next(asked, self._last + 1)
            if not left or not sum(self.squares[-1]) > floor:
                break
            delta = tuple(d[B:n] for d in current)
            if not whole:
                for d in delta:
                    d.mul_(link[B:n])
            self.linked.append(sum(map(_square, delta)))
            into = tuple(d[:left] for d in spare)
            came = self._linear.back(delta, slice(B, n), into)
            assert all(c.data_ptr() == i.data_ptr() for c, i in zip(came, into, strict=True))
            current, spare, n = spare, current, left
        beyond = self._gradients(rest) if self._loose and k < self._last else ({}, {})
        while k <= self._last:
            yield beyond if k < self.recurrence.steps else ({}, {})
            k = next(asked, self._last + 1)


def _square(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value)) ** 2


@dataclass
class _Tally:
    """Squares and products with g of what is missing at one K, by parameter."""

    squares: dict[str, float]
    dots: dict[str, float]

    @staticmethod
    def of(missing: dict[str, Tensor], gradient: dict[str, Tensor]) -> _Tally:
        squares = {n: _square(m) for n, m in missing.items()}
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
    passes: list[_Pass],
    truncations: list[int],
    lanes: tuple[int, int],
    sources: int,
) -> LagSpectrum:
    gradient = _sum([p.gradient for p in passes])
    whole = {n: _square(g) for n, g in gradient.items()}
    size = sum(whole.values())
    halves = _halves(gradient, [(p.gradient, p.half_gradient) for p in passes])
    sizes = [sum(map(_square, half.values())) for half in halves]
    tallies: list[_Tally] = []
    blocks: list[float] = []
    errors: list[float] = []
    before = gradient
    for missing in zip(*passes, strict=False):
        together = _sum([whole_part for whole_part, _ in missing])
        tallies.append(_Tally.of(together, gradient))
        change = (g - together[n] if n in together else g for n, g in before.items())
        blocks.append(sum(map(_square, change)) ** 0.5)
        before = together
        parts = _halves(together, missing)
        if not halves or (len(parts) < 2 and together):
            errors.append(errors[-1] if errors else 0.0)
        else:
            one, other = (
                _ratio(sum(map(_square, half.values())), n) ** 0.5
                for half, n in zip(parts or [{}, {}], sizes, strict=True)
            )
            errors.append(abs(one - other) / 2)

    names = list(gradient)
    layer_of = recurrence.step.layer_of
    by_parameter = {n: _biases(tallies, [n], whole) for n in names}
    by_layer = {
        layer: _biases(tallies, [n for n in names if layer_of[n] == layer], whole)
        for layer in sorted(set(layer_of.values()))
    }
    squares = _add_lines([torch.tensor(p.squares, dtype=torch.float64) for p in passes])
    linked = _add_lines([torch.tensor(p.linked, dtype=torch.float64) for p in passes])
    norms = squares.sum(1)
    factors = (norms[1:] / linked[: len(norms) - 1]).sqrt()
    total = torch.stack([_by_step(p.total) for p in passes])
    return LagSpectrum(
        name=recurrence.name,
        steps=recurrence.steps,
        norms=norms.sqrt(),
        state_norms=dict(zip(recurrence.labels, squares.sqrt().unbind(1), strict=True)),
        factors=factors,
        decay=fit_decay(factors, norms.sqrt()),
        truncations=torch.tensor(truncations),
        measured_bias=_biases(tallies, names, whole),
        measured_cosine=torch.tensor([_cosine(t, size) for t in tallies], dtype=torch.float64),
        block_norms=torch.tensor(blocks, dtype=torch.float64),
        parameters=by_parameter,
        layers=by_layer,
        gradient_norm=size**0.5,
        state_gradient_norms=total.sum(0).sqrt(),
        lanes=lanes,
        sources=sources / recurrence.steps,
        bias_error=torch.tensor(errors, dtype=torch.float64),
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
    return torch.tensor([_ratio(m, size) for m in missing], dtype=torch.float64).sqrt()


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
    total = torch.zeros(lags, *parts[0].shape[1:], dtype=torch.float64)
    for part in parts:
        total[: len(part)] += part
    return total


def _by_step(total: States) -> Tensor:
    """(T,) squares over lanes and units."""
    found = torch.zeros(total[0].shape[0], dtype=torch.float64)
    for state in total:
        found += torch.linalg.vector_norm(state, dim=(1, 2)).double().square().cpu()
    return found

"""Lag spectra out of a graded backward pass, of one module or of all on one clock; and of modules that
have nothing to do with each other, put together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from bptt.probes.decay import fit_decay
from bptt.probes.spectrum import LagSpectrum
from bptt.recurrence.graded import Graded


def graded_spectrum(
    found: Graded,
    parameters: Mapping[str, Tensor],
    *,
    name: str,
    steps: int,
    lanes: int,
    modules: Sequence[str],
) -> LagSpectrum:
    """The lag spectrum of some parameters.

    Args:
        found: what the graded pass gave.
        parameters: by the name they are to have; those that no step uses fall away.
        name: of the module.
        steps: T, on the clock.
        lanes: B.
        modules: whose states' norms are counted.
    """
    parts = {n: found.parts[id(p)] for n, p in parameters.items() if id(p) in found.parts}
    count = len(found.truncations)
    sizes: dict[str, float] = {}
    squares: dict[str, Tensor] = {}
    dots: dict[str, Tensor] = {}
    blocks: dict[str, Tensor] = {}
    for n, part in parts.items():
        whole = found.whole.get(id(parameters[n]))
        capped = whole is not None and found.truncations[-1] < steps
        sizes[n], squares[n], dots[n], blocks[n] = _tally(part, whole if capped else None)
    zero = torch.zeros(count, dtype=torch.float64)
    size, square, dot = sum(sizes.values()), sum(squares.values(), zero), sum(dots.values(), zero)
    last = min(steps, found.truncations[-1])
    lines = {key: line[:last] for key, line in found.squares.items() if key[0] in modules}
    norms = sum(lines.values(), torch.zeros(last, dtype=torch.float64))
    linked = sum((v for m, v in found.linked.items() if m in modules), torch.zeros(steps).double())
    factors = _factors(norms, linked)
    totals = sum((v for m, v in found.totals.items() if m in modules), torch.zeros(steps).double())
    alone = len(modules) == 1
    layer_of = {n: int((re.search(r"_l(\d+)", n) or [0, 0])[1]) if alone else 0 for n in parts}
    return LagSpectrum(
        name=name,
        steps=steps,
        norms=norms.sqrt(),
        state_norms={
            (f"state{place}" if alone else f"{module}.state{place}"): line.sqrt()
            for (module, place), line in lines.items()
        },
        factors=factors,
        decay=fit_decay(factors, norms.sqrt()),
        truncations=torch.tensor(found.truncations),
        measured_bias=share(square, size).sqrt(),
        measured_cosine=cosines(square, dot, size),
        block_norms=sum(blocks.values(), zero).sqrt(),
        parameters={n: share(squares[n], sizes[n]).sqrt() for n in parts},
        layers={
            layer: share(
                sum((squares[n] for n in parts if layer_of[n] == layer), zero),
                sum(sizes[n] for n in parts if layer_of[n] == layer),
            ).sqrt()
            for layer in sorted(set(layer_of.values()))
        },
        gradient_norm=size**0.5,
        state_gradient_norms=totals.sqrt(),
        lanes=(lanes, lanes),
        sources=found.sources,
        bias_error=_error(found, parts, parameters, count),
        missing_dot=dot,
    )  # fmt: skip


def _tally(part: Tensor, whole: Tensor | None) -> tuple[float, Tensor, Tensor, Tensor]:
    """Of one parameter, from its gradient by block of lags: ‖g‖², and at each K ‖r‖² and r·g of what
    is missing, and ‖·‖² of the block before it. One K after the other, from the last: nothing is kept."""
    total = torch.zeros_like(part[0], dtype=torch.float64)
    for row in part:
        total += row
    missing = torch.zeros_like(total) if whole is None else whole.double() - total
    gradient = total + missing
    squares, dots, blocks = [], [], []
    for row in reversed(part.unbind(0)):
        squares.append(float(missing.square().sum()))
        dots.append(float((missing * gradient).sum()))
        blocks.append(float(row.double().square().sum()))
        missing += row
    square, dot, block = (
        torch.tensor(v[::-1], dtype=torch.float64) for v in (squares, dots, blocks)
    )
    return float(gradient.square().sum()), square, dot, block


def _error(
    found: Graded, parts: Mapping[str, Tensor], parameters: Mapping[str, Tensor], count: int
) -> Tensor:
    """Half of what the biases of two halves of the losses differ by."""
    if found.sources == 1:
        return torch.zeros(count, dtype=torch.float64)
    biases = []
    for side in (0, 1):
        square, size = torch.zeros(count, dtype=torch.float64), 0.0
        for n, part in parts.items():
            half = found.half.get(id(parameters[n]))
            if half is not None:
                own, missing, _, _ = _tally(part - half if side else half, None)
                square, size = square + missing, size + own
        biases.append(share(square, size).sqrt())
    return (biases[0] - biases[1]).abs() / 2


def _factors(norms: Tensor, linked: Tensor) -> Tensor:
    """By how much the gradient changes from lag to lag; spread evenly over lags that nothing reaches,
    as where a state goes on to the step after next."""
    reached = [int(i) for i in (norms > 0).nonzero().flatten()]
    found: list[float] = []
    for here, there in pairwise(reached):
        base = float(linked[here])
        total = (float(norms[there]) / base) ** 0.5 if base > 0 else math.nan
        found += [total ** (1 / (there - here)) if total > 0 else total] * (there - here)
    return torch.tensor(found, dtype=torch.float64)


def share(part: Tensor, whole: float) -> Tensor:
    """NaN where there is no gradient to be a part of."""
    return part / whole if whole > 0 else torch.full_like(part, math.nan)


def cosines(square: Tensor, dot: Tensor, size: float) -> Tensor:
    """Of g - r with g, from ‖r‖², r·g and ‖g‖²."""
    if not size > 0:
        return torch.full_like(square, math.nan)
    left = (size - 2 * dot + square).clamp(min=0)
    found = (size - dot) / (left * size).sqrt()
    return torch.where(left > 0, found.clamp(-1, 1), torch.zeros_like(found))


def join_spectra(spectra: Sequence[LagSpectrum], name: str = "") -> LagSpectrum:
    """Several modules, none of which is given what another returned, as one.

    The K are those that every one of them was measured at, or is not as long as.
    """
    if len(spectra) == 1:
        return spectra[0]
    steps = max(s.steps for s in spectra)
    asked = sorted({k for s in spectra for k in s.truncations.tolist()})
    at = [
        k for k in asked
        if all(k >= s.steps or bool((s.truncations == k).any()) for s in spectra)
    ]  # fmt: skip
    at = at or [steps]
    size = sum(s.gradient_norm**2 for s in spectra)
    square = torch.zeros(len(at), dtype=torch.float64)
    dot = torch.zeros(len(at), dtype=torch.float64)
    error = torch.zeros(len(at), dtype=torch.float64)
    for s in spectra:
        for place, k in enumerate(at):
            if k < s.steps:
                i = int((s.truncations == k).nonzero()[0, 0])
                bias = float(s.measured_bias[i])
                square[place] += 0.0 if math.isnan(bias) else (bias * s.gradient_norm) ** 2
                dot[place] += float(s.missing_dot[i]) if s.missing_dot is not None else 0.0
                error[place] = torch.maximum(error[place], s.bias_error[i])
    lags = max(len(s.norms) for s in spectra)
    squares = torch.zeros(lags, dtype=torch.float64)
    linked = torch.zeros(lags + 1, dtype=torch.float64)
    totals = torch.zeros(steps, dtype=torch.float64)
    blocks = torch.zeros(len(at), dtype=torch.float64)
    for s in spectra:
        line = s.norms.square()
        squares[: len(line)] += line
        known = len(s.factors)
        base = line[1 : known + 1] / s.factors[: len(line) - 1].square()
        linked[: len(base)] += base.nan_to_num(0.0, 0.0, 0.0)
        totals[: len(s.state_gradient_norms)] += s.state_gradient_norms.square()
    left = torch.cat([torch.tensor([size], dtype=torch.float64), square])
    blocks = (left[:-1] - left[1:]).clamp(min=0).sqrt()
    factors = _factors(squares, linked)
    return LagSpectrum(
        name=name,
        steps=steps,
        norms=squares.sqrt(),
        state_norms={f"{s.name}.{n}": v for s in spectra for n, v in s.state_norms.items()},
        factors=factors,
        decay=fit_decay(factors, squares.sqrt()),
        truncations=torch.tensor(at),
        measured_bias=share(square, size).sqrt(),
        measured_cosine=cosines(square, dot, size),
        block_norms=blocks,
        parameters={},
        layers={},
        gradient_norm=size**0.5,
        state_gradient_norms=totals.sqrt(),
        lanes=spectra[0].lanes,
        sources=min(s.sources for s in spectra),
        bias_error=error,
        missing_dot=dot,
    )

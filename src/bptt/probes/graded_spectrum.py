"""Lag spectra out of a graded backward pass, of one module or of all on one clock; and of modules that
have nothing to do with each other, put together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from bptt.errors import BpttError
from bptt.probes.lag_spectrum import asked_truncations
from bptt.probes.spectrum import LagSpectrum, fit_decay
from bptt.recurrence import (
    Call,
    Clock,
    Found,
    Graded,
    GradedError,
    Graph,
    Recorder,
    assemble,
    check_sum,
    choose,
    split_by_lag,
    unroll,
)
from bptt.recurrence.clock import Owner
from bptt.recurrence.graded import gram, tally
from bptt.recurrence.loops import KNOWN, silent
from bptt.recurrence.tape import Visit, children_first
from bptt.recurrence.unrolled import plain_weights

# A gradient is kept for each K: every one up to here, then four to the octave, unless others are asked
# for.
EVERY = 16
# In a training run: losses of so many lanes and times show what the batch does; so many times at least.
SAMPLES, SOURCES = 64, 4


@dataclass(eq=False)
class Begun:
    """What is known when a backward pass begins.

    Attributes:
        closed: the modules whose closed form is exact, by ``id``; None for all.
        graded: the graded pass, where it was needed.
        spectra: of each module in it, name → (kind, spectrum).
        joint: the spectrum of all on one clock.
        refusal: why there is none, where it was needed.
        two: the name of a layer in it that reads in two directions.
    """

    closed: set[int] | None = None
    graded: Graded | None = None
    spectra: dict[str, tuple[str, LagSpectrum]] = field(default_factory=dict)
    joint: LagSpectrum | None = None
    refusal: BpttError | None = None
    two: str | None = None
    worst: float = 0.0
    handles: list[Any] = field(default_factory=list)

    def check(self, parameters: dict[str, nn.Parameter]) -> None:
        """Compare the lags' sum with the gradient that the step is about to leave."""
        found = self.graded
        if found is None:
            return
        for parameter in parameters.values():
            # A hook of the user's own may change what is left, and is not measured.
            if not parameter._backward_hooks:

                def compare(gradient: Tensor, parameter: nn.Parameter = parameter) -> None:
                    self.worst = max(self.worst, check_sum(found, parameter, gradient))

                self.handles.append(parameter.register_hook(compare))

    def finish(self) -> None:
        """The backward pass has ended."""
        for handle in self.handles:
            handle.remove()
        self.handles = []
        if self.worst > 1 and self.refusal is None:
            self.joint, self.spectra = None, {}
            self.refusal = GradedError(
                "the gradient's lags to sum to the gradient that the step left",
                f"a sum that is off by {self.worst:.3g} times the rounding",
                "remove hooks on tensors that change their gradient, or measure without them",
            )


def begin(
    recorder: Recorder,
    model: nn.Module,
    roots: list[Any],
    given: list[Tensor],
    *,
    at: Sequence[int] | str | None,
    cap: int | None,
    floor: float | None,
    coarse: Callable[[int], list[int]],
    sampled: bool,
    check: bool,
) -> Begun:
    """Look at the graph, and run the graded pass where it is needed, while the graph is there.

    Args:
        recorder: what happened in the forward pass.
        model: the watched model.
        roots, given: of the backward pass.
        at, cap, floor: as :func:`bptt.probes.lag_spectrum` takes them.
        coarse: the K to measure in a training run, by the steps there are.
        sampled: whether this is one: then some times of losses are followed, evenly spaced.
        check: compare with the gradient that the step leaves.
    """
    visits = choose(recorder.tape.visits)
    clock = Clock(visits, {id(v): _length(v) for v in visits})
    unlike = {v.key for v in clock.unlike} | {v.key for v in visits if not _plain(v)}
    ticks = any(v.kind == "tick" for v in visits)
    closed: set[int] | None = None
    if unlike or ticks:
        closed = {v.key for v in visits if v.kind != "tick"} - unlike
        closed |= {id(m) for v in visits if v.key in closed for m in v.module.modules()}
    calls = [c for c in recorder.calls if closed is None or id(c.module) in closed]
    try:
        with torch.no_grad(), silent():
            assemble(calls, 1)
    except BpttError as error:
        if all(v.kind == "layer" for v in visits) and not (unlike or clock.chained):
            raise  # each by itself: run step by step it would be off as well
        closed = set() if closed is None else closed
        closed -= {id(c.module) for c in calls}
        refused: BpttError | None = error
    else:
        refused = None
    needed = ticks or bool(unlike) or clock.chained or refused is not None
    begun = Begun(closed)
    if not needed or not clock.owners:
        return begun
    try:
        _run(
            begun, clock, visits, model, roots, given, at, cap, floor, coarse, sampled, ticks, check
        )
    except BpttError as error:
        begun.refusal = refused or error
    return begun


def _run(
    begun: Begun, clock: Clock, visits: list[Visit], model: nn.Module, roots: list[Any],
    given: list[Tensor], at: Any, cap: int | None, floor: float | None,
    coarse: Callable[[int], list[int]], sampled: bool, ticks: bool, check: bool,
) -> None:  # fmt: skip
    _check_unchanged(visits)
    owners: list[Owner] = []
    instead: dict[Any, Any] = {}
    onward: dict[Any, Any] = {}
    lanes = 1
    for owner in clock.owners:
        if owner.visit.kind == "layer":
            layer = unroll(owner.visit)
            owners += layer.owners
            instead |= layer.instead
            onward |= layer.onward
            lanes = layer.lanes
        else:
            owners.append(owner)
            for node, nr in owner.roots[:1]:
                shape = tuple(node._input_metadata[nr].shape)
                lanes = shape[0] if len(shape) > 1 else 1
    if ticks:  # one behind a loop closes it; no step begins there
        reached: dict[Any, list[Any]] = {}
        children_first([node for node, _ in roots], reached)
        owners = [o for o in owners if o.counts or any(node in reached for node, _ in o.roots)]
    layers = [v for v in visits if v.kind == "layer"]
    begun.two = next((v.name for v in layers if getattr(v.module, "bidirectional", False)), None)
    trained = _trained(visits, model, ticks)
    steps = max(o.time for o in owners) + 1
    if at is None:
        last = steps if cap is None else min(cap, steps)
        grid = coarse(steps) if sampled else [*range(1, EVERY + 1), *_octaves(steps)]
        at = [k for k in grid if k < last] + [last]
    truncations = asked_truncations(at, steps, cap)
    graph = Graph(owners, trained.values(), instead, onward)
    sources = max(SOURCES, SAMPLES // lanes) if sampled else None
    found = split_by_lag(
        graph, roots, given, truncations, floor=floor, ticks=ticks, sources=sources,
        whole=check and sampled,
        lanes=0 if sampled or truncations[-1] < steps or begun.two is not None else lanes,
    )  # fmt: skip
    names: dict[str, nn.Module] = {o.name: o.module for o in owners if o.counts and o.roots}
    shared: dict[str, Any] = {"steps": steps, "lanes": lanes}
    used = {n: p for n, p in trained.items() if id(p) in found.parts}
    for name, module in names.items():
        own = {n: p for n, p in module.named_parameters() if id(p) in found.parts}
        spectrum = graded_spectrum(found, own, name=name, modules=[name], **shared)
        begun.spectra[name] = (type(module).__name__, spectrum)
    begun.graded = found
    if len(names) == 1 and len(own) == len(used):
        begun.joint = spectrum
    else:
        begun.joint = graded_spectrum(found, used, name="", modules=list(names), **shared)
    if check:
        begun.check({n: p for n, p in used.items() if isinstance(p, nn.Parameter)})


def _trained(visits: list[Visit], model: nn.Module, ticks: bool) -> dict[str, Tensor]:
    inside = {id(p) for v in visits for p in v.module.parameters()}
    return {
        n: p for n, p in model.named_parameters()
        if p.requires_grad and (ticks or id(p) in inside)
    }  # fmt: skip


def _octaves(steps: int) -> list[int]:
    """Four K to the octave."""
    found = {round(2 ** (place / 4)) for place in range(4 * steps.bit_length() + 1)}
    return sorted(k for k in found if k > EVERY)


def _length(visit: Visit) -> int:
    if visit.kind != "layer" or visit.call is None:
        return 1
    y = visit.call.output[0]
    if not isinstance(y, Tensor):
        return len(y.batch_sizes)
    module: Any = visit.module
    return int(y.shape[1 if y.dim() == 3 and module.batch_first else 0])


def _plain(visit: Visit) -> bool:
    """Whether the step's weights are the parameters that are trained, and it was recorded whole."""
    if visit.kind == "tick":
        return True
    if visit.call is None:
        return False
    if visit.kind == "layer":
        return plain_weights(visit.module)
    if visit.kind == "cell":
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return type(visit.module) in KNOWN and all(n in visit.module._parameters for n in names)
    return True


def _check_unchanged(visits: list[Visit]) -> None:
    """A view that was written to has left the graph, and its mark with it."""
    for visit in visits:
        call: Call | None = visit.call
        if call is not None and visit.kind == "layer":
            call.check_unchanged()


def closed_forms(begun: Begun | None, calls: list[Call], lanes: int | None) -> list[Found]:
    """The recurrences of the modules whose closed form is exact."""
    closed = None if begun is None else begun.closed
    calls = [c for c in calls if closed is None or id(c.module) in closed]
    return assemble(calls, lanes) if calls else []


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
    halves: list[Tensor] = []
    for n, part in parts.items():
        whole = found.whole.get(id(parameters[n]))
        half = found.half.get(id(parameters[n]))
        rows = [part] if half is None else [half, part]
        if whole is not None and found.truncations[-1] < steps:
            rows.append((whole - part.sum(0)).unsqueeze(0))
        products = gram(rows)
        if half is not None:
            halves.append(products[: 2 * count, : 2 * count])
            products = products[count:, count:]
        sizes[n], squares[n], dots[n], blocks[n] = tally(products, count)
    zero = torch.zeros(count, dtype=torch.float64, device="cpu")
    size, square, dot = sum(sizes.values()), sum(squares.values(), zero), sum(dots.values(), zero)
    last = min(steps, found.truncations[-1])
    lines = {key: line[:last] for key, line in found.squares.items() if key[0] in modules}
    norms = sum(lines.values(), torch.zeros(last, dtype=torch.float64, device="cpu"))
    none = torch.zeros(steps, dtype=torch.float64, device="cpu")
    linked = sum((v for m, v in found.linked.items() if m in modules), none)
    factors = _factors(norms, linked)
    totals = sum((v for m, v in found.totals.items() if m in modules), none)
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
        truncations=torch.tensor(found.truncations, device="cpu"),
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
        bias_error=_error(halves, count),
        missing_dot=dot,
    )  # fmt: skip


def _error(halves: list[Tensor], count: int) -> Tensor:
    """Half of what the biases of two halves of the losses differ by.

    Args:
        halves: by parameter, the products of the first half's gradients and of both halves'.
    """
    if not halves:
        return torch.zeros(count, dtype=torch.float64, device="cpu")
    square, size = torch.zeros(2, count, dtype=torch.float64, device="cpu"), [0.0, 0.0]
    for both in halves:
        cross = both[:count, count:]
        one, whole = both[:count, :count], both[count:, count:]
        for side, products in enumerate((one, whole - cross - cross.t() + one)):
            own, missing, _, _ = tally(products, count)
            square[side] += missing
            size[side] += own
    one, other = (share(s, n).sqrt() for s, n in zip(square, size, strict=True))
    return (one - other).abs() / 2


def _factors(norms: Tensor, linked: Tensor) -> Tensor:
    """By how much the gradient changes from lag to lag; spread evenly over lags that nothing reaches,
    as where a state goes on to the step after next."""
    reached = [int(i) for i in (norms > 0).nonzero().flatten()]
    found: list[float] = []
    for here, there in pairwise(reached):
        base = float(linked[here])
        total = (float(norms[there]) / base) ** 0.5 if base > 0 else math.nan
        found += [total ** (1 / (there - here)) if total > 0 else total] * (there - here)
    return torch.tensor(found, dtype=torch.float64, device="cpu")


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
    square = torch.zeros(len(at), dtype=torch.float64, device="cpu")
    dot = torch.zeros(len(at), dtype=torch.float64, device="cpu")
    error = torch.zeros(len(at), dtype=torch.float64, device="cpu")
    for s in spectra:
        for place, k in enumerate(at):
            if k < s.steps:
                i = int((s.truncations == k).nonzero()[0, 0])
                bias = float(s.measured_bias[i])
                square[place] += 0.0 if math.isnan(bias) else (bias * s.gradient_norm) ** 2
                dot[place] += float(s.missing_dot[i]) if s.missing_dot is not None else 0.0
                error[place] = torch.maximum(error[place], s.bias_error[i])
    lags = max(len(s.norms) for s in spectra)
    squares = torch.zeros(lags, dtype=torch.float64, device="cpu")
    linked = torch.zeros(lags + 1, dtype=torch.float64, device="cpu")
    totals = torch.zeros(steps, dtype=torch.float64, device="cpu")
    blocks = torch.zeros(len(at), dtype=torch.float64, device="cpu")
    for s in spectra:
        line = s.norms.square()
        squares[: len(line)] += line
        known = len(s.factors)
        base = line[1 : known + 1] / s.factors[: len(line) - 1].square()
        linked[: len(base)] += base.nan_to_num(0.0, 0.0, 0.0)
        totals[: len(s.state_gradient_norms)] += s.state_gradient_norms.square()
    left = torch.cat([torch.tensor([size], dtype=torch.float64, device="cpu"), square])
    blocks = (left[:-1] - left[1:]).clamp(min=0).sqrt()
    factors = _factors(squares, linked)
    return LagSpectrum(
        name=name,
        steps=steps,
        norms=squares.sqrt(),
        state_norms={f"{s.name}.{n}": v for s in spectra for n, v in s.state_norms.items()},
        factors=factors,
        decay=fit_decay(factors, squares.sqrt()),
        truncations=torch.tensor(at, device="cpu"),
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

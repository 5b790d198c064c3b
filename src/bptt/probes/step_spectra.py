"""One training step measured: which method its graph allows, and what either gives.

The closed form is taken where the graph shows that each module got back the state it returned, as it
was, and nothing else that depends on it. Everywhere else, and wherever modules hand states or outputs to
each other, the backward pass is graded by the time of each loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bptt.errors import BpttError
from bptt.probes.graded_spectrum import graded_spectrum
from bptt.probes.lag_spectrum import asked_truncations
from bptt.probes.spectrum import LagSpectrum
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
from bptt.recurrence.cellcalls import KNOWN, silent
from bptt.recurrence.clock import Owner
from bptt.recurrence.tape import Visit, children_first

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
    """

    closed: set[int] | None = None
    graded: Graded | None = None
    spectra: dict[str, tuple[str, LagSpectrum]] = field(default_factory=dict)
    joint: LagSpectrum | None = None
    refusal: BpttError | None = None
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
                lanes = (tuple(node._input_metadata[nr].shape) or (1,))[0]
    # A tick behind a loop closes it; no step begins there.
    reached = set(children_first([node for node, _ in roots], set()))
    owners = [o for o in owners if o.counts or any(node in reached for node, _ in o.roots)]
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
        module: Any = visit.module
        return all(n in module._parameters for names in module._all_weights for n in names)
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

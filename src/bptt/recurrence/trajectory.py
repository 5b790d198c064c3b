"""A recurrence as it ran: its step, its inputs and states at every step, and where gradients pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bptt.errors import BpttError, ShapeError
from bptt.ops.device import random_kept
from bptt.recurrence.step import Linear, States, Step


@dataclass(frozen=True, eq=False)
class Recurrence:
    """A step function with the trajectory it was run along.

    Steps stand in the order they were computed: a reversed direction's first step is the lane's last
    token. Every tensor is detached.

    Attributes:
        name: of the module it came from.
        step: ``(inputs, states) -> states`` over rows, and its parameters.
        inputs: each ``(T, B, ·)``: x, and whatever else the step takes.
        before: each ``(T, B, S)``: the states a step began with, after any reset.
        after: each ``(T, B, S)``: the states it ended with.
        live: ``(T, B)`` bool: the steps that ran; a lane's live steps come first. None: all.
        link: ``(T, B)`` bool: whether the gradient goes from step t to step t - 1 of the lane: not at
            its first step, at a reset, at a cut or in the padding. Row 0 is False.
        labels: of the states, e.g. ``("h_l0", "c_l0")``.
        frozen: names of the step's parameters that are not trained; they have no gradient to split.

    Example:
        >>> import torch
        >>> from bptt.recurrence import trace
        >>> (gru,) = trace(torch.nn.GRU(3, 5), torch.randn(7, 2, 3))
        >>> gru.steps, gru.lanes, gru.sizes, gru.labels
        (7, 2, (5,), ('h_l0',))
    """

    name: str
    step: Step
    inputs: tuple[Tensor, ...]
    before: States
    after: States
    link: Tensor
    live: Tensor | None = None
    labels: tuple[str, ...] = ()
    frozen: frozenset[str] = frozenset()

    @property
    def steps(self) -> int:
        """T."""
        return self.after[0].shape[0]

    @property
    def lanes(self) -> int:
        """B."""
        return self.after[0].shape[1]

    @property
    def sizes(self) -> tuple[int, ...]:
        """S of each state."""
        return tuple(s.shape[2] for s in self.after)

    def linearize(self) -> Linear:
        """The step's derivative at all T·B rows. Cost: about one forward pass, memory O(T·B·G·H)."""
        return self.step.linearize(flat(self.inputs), flat(self.before))

    def select(self, lanes: Tensor) -> Recurrence:
        """The same recurrence on some of its lanes, ``lanes (n,)`` int64."""
        return self._picked(1, lanes)

    def beside(self, others: Sequence[Recurrence]) -> Recurrence:
        """The same recurrence with the lanes of others of it behind its own; those as long as it is."""
        every = [self, *(o for o in others if o.steps == self.steps)]
        if len(every) == 1:
            return self

        def joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            return tuple(torch.cat(row, 1) for row in zip(*parts, strict=True))

        marked = any(o.live is not None for o in every)
        live = [torch.ones_like(o.link) if o.live is None else o.live for o in every]
        return replace(
            self,
            inputs=joined([o.inputs for o in every]),
            before=joined([o.before for o in every]),
            after=joined([o.after for o in every]),
            link=torch.cat([o.link for o in every], 1),
            live=torch.cat(live, 1) if marked else None,
        )

    def at(self, times: Tensor) -> Recurrence:
        """Its steps in another order, ``times (n,)`` int64, for what looks at each by itself."""
        return self._picked(0, times)

    def _picked(self, axis: int, places: Tensor) -> Recurrence:
        places = places.to(self.link.device)

        def pick(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(v.index_select(axis, places) for v in values)

        return replace(
            self,
            inputs=pick(self.inputs),
            before=pick(self.before),
            after=pick(self.after),
            link=self.link.index_select(axis, places),
            live=None if self.live is None else self.live.index_select(axis, places),
        )

    def check_gradient(self, direct: States) -> States:
        """Check gradients by the states, each ``(T, B, S)``, and hand them back detached.

        Raises:
            ShapeError: their shapes are not those of the states.
        """
        got = [tuple(d.shape) for d in direct]
        expected = [tuple(a.shape) for a in self.after]
        if got != expected:
            raise ShapeError(
                f"one gradient (T, B, S) for each state, {expected}",
                f"{got}",
                "take dL/dh_t of every step, zeros where the loss does not touch a state",
            )
        live = None if self.live is None else self.live.unsqueeze(-1)
        return tuple(
            (d if live is None else d.masked_fill(~live, 0)).detach().to(a.dtype)
            for d, a in zip(direct, self.after, strict=True)
        )


def flat(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """(T, B, ·) to rows (T·B, ·)."""
    return tuple(v.flatten(0, 1) for v in values)


def total_gradient(recurrence: Recurrence, linear: Linear, direct: States) -> States:
    """∂L/∂h_t for every t: the direct gradient and all that comes back from later steps.

    D_t = δ_t⁰ + J_{t+1}ᵀ D_{t+1}, from the last step to the first.

    Returns:
        each ``(T, B, S)``.

    Cost: the backward pass of the layer.
    """
    T, B = recurrence.steps, recurrence.lanes
    total = tuple(d.clone() for d in direct)
    whole = bool(recurrence.link[1:].all())
    lines = [d.unbind(0) for d in total]
    for t in range(T - 1, 0, -1):
        came = linear.back(tuple(d[t] for d in lines), slice(t * B, (t + 1) * B))
        for line, c in zip(lines, came, strict=True):
            line[t - 1].add_(c if whole else torch.where(recurrence.link[t].unsqueeze(-1), c, 0))
    return total


def merge(parts: list[Recurrence]) -> Recurrence:
    """Several trajectories of one step, side by side as lanes; shorter ones are padded at their end."""
    if len(parts) == 1:
        return parts[0]
    T = max(p.steps for p in parts)

    def join(name: str) -> tuple[Tensor, ...]:
        columns = zip(*(getattr(p, name) for p in parts), strict=True)
        return tuple(torch.cat([padded(v, T) for v in column], 1) for column in columns)

    lives = [torch.ones_like(p.link) if p.live is None else p.live for p in parts]
    live = torch.cat([padded(v, T) for v in lives], 1)
    return replace(
        parts[0],
        inputs=join("inputs"),
        before=join("before"),
        after=join("after"),
        link=torch.cat([padded(p.link, T) for p in parts], 1),
        live=None if bool(live.all()) else live,
    )


def padded(value: Tensor, steps: int) -> Tensor:
    """Zeros (or False) after the last step, up to ``steps``."""
    missing = steps - value.shape[0]
    if not missing:
        return value
    return torch.cat([value, value.new_zeros(missing, *value.shape[1:])])


def concatenate(parts: list[Recurrence], borders: list[Tensor]) -> Recurrence:
    """Trajectories that follow each other in time, every lane of them full.

    Args:
        borders: for each part after the first ``(B,)`` bool: where the gradient passes into the part
            before it.
    """
    if len(parts) == 1:
        return parts[0]

    def join(name: str) -> tuple[Tensor, ...]:
        columns = zip(*(getattr(p, name) for p in parts), strict=True)
        return tuple(torch.cat(column) for column in columns)

    link = torch.cat([p.link for p in parts])
    at = 0
    for part, border in zip(parts, borders, strict=False):
        at += part.steps
        link[at] = border
    return replace(
        parts[0], inputs=join("inputs"), before=join("before"), after=join("after"), link=link
    )


def direct_gradient(recurrence: Recurrence, arrived: States, whole: Tensor) -> States:
    """δ⁰ from gradients that autograd handed out, some of which hold what came from the next step.

    Args:
        arrived: each ``(T, B, S)``.
        whole: ``(T,)`` bool: where ``arrived`` is all of ∂L/∂h_t, because the state itself was seen;
            elsewhere it is what came from outside the recurrence, because an output was.

    Cost: one vector-Jacobian product over all steps, if all of them were seen whole; else a backward
    pass. The difference is as exact as ∂L/∂h_t is: it errs by that one's rounding.
    """
    if not bool(whole[:-1].any()):
        return arrived
    T, B = recurrence.steps, recurrence.lanes
    linear = recurrence.linearize()
    direct = tuple(a.clone() for a in arrived)
    link = recurrence.link.unsqueeze(-1)
    if bool(whole[:-1].all()):
        came = linear.back(flat(tuple(a[1:] for a in arrived)), slice(B, T * B))
        for state, c in zip(direct, came, strict=True):
            state[:-1] -= torch.where(link[1:], c.view(T - 1, B, -1), 0)
        return direct
    total = tuple(a.clone() for a in arrived)
    for t in range(T - 1, 0, -1):
        came = linear.back(tuple(d[t] for d in total), slice(t * B, (t + 1) * B))
        for state, mine, c in zip(total, direct, came, strict=True):
            passed = torch.where(link[t], c, 0)
            if whole[t - 1]:
                mine[t - 1] -= passed
            else:
                state[t - 1] += passed
    return direct


# Whether a recurrence, computed again from what was recorded, gives what was recorded.

# One step from recorded states errs by rounding alone, whatever the length: a mask that was not
# recovered, a state that was missed or a random number is wrong by whole units.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class ReplayError(BpttError, RuntimeError):
    """What was recorded does not determine what was computed; no figure would be exact."""


def lowest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The floating dtype that rounds the most; float64 where there is none."""
    found = (d for d in dtypes if d.is_floating_point)
    return max(found, key=lambda d: torch.finfo(d).eps, default=torch.float64)


def check_replay(
    recurrence: Recurrence, remedy: str | None = None, dtype: torch.dtype = torch.float64
) -> Recurrence:
    """Run every step once more, all at once, and compare with the recorded states.

    Args:
        remedy: what to do where they differ.
        dtype: the lowest that the states were computed in, where that is lower than their own.

    Returns:
        the recurrence itself.

    Raises:
        ReplayError: they differ, or the steps cannot be run all at once.

    Cost: one forward pass, parallel over time.
    """
    try:
        with torch.no_grad(), random_kept(*recurrence.before):
            found = recurrence.step(flat(recurrence.inputs), flat(recurrence.before))
    except (BpttError, torch.OutOfMemoryError):
        raise
    except Exception as reason:  # the user's own code, run on more lanes than it ever was
        raise ReplayError(
            f"the steps of {recurrence.name or 'the module'} to run again, each a lane of one batch",
            f"{type(reason).__name__} ({str(reason).partition(chr(10))[0]})",
            remedy
            or "let the first axis of x, of y and of every state be the lanes, and row n of "
            "what is returned depend on row n of what is given alone",
        ) from reason
    for label, new, old in zip(recurrence.labels, found, flat(recurrence.after), strict=True):
        tolerance = TOLERANCE.get(lowest([old.dtype, dtype]), 3e-2)
        # A state that overflowed is the model's own doing, and for the verdict to tell.
        seen = old.isfinite()
        if recurrence.live is not None:
            seen &= recurrence.live.flatten().unsqueeze(-1)
        error, kept = (new - old).abs()[seen], old[seen].abs()
        unit = max(1.0, float(kept.max())) if kept.numel() else 1.0
        worst = float(error.max()) if error.numel() else 0.0
        if not worst <= tolerance * unit:
            raise ReplayError(
                f"the steps of {recurrence.name or 'the module'}, run again, to give the states "
                f"they gave (within {tolerance:g})",
                f"{label} off by {worst:.3g}",
                remedy
                or "remove what the step's input and state do not determine (random numbers, "
                "batch statistics, hidden attributes), or call model.eval()",
            )
    return recurrence

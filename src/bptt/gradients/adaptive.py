"""Truncation that sets its own length: the bias is measured, and k is the least that stays within it."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bptt.errors import ArgumentError, real, whole
from bptt.files.read import fit, shown
from bptt.gradients.chunks import ChunkEstimator, Chunks
from bptt.gradients.step import Step
from bptt.gradients.truncated import Truncated
from bptt.nn.carry import Carry
from bptt.probes.lag_spectrum import default_truncations
from bptt.probes.watch import watch

logger = logging.getLogger(__name__)

# A block of one call: only its first backward pass is measured, however many there are.
ONCE = sys.maxsize


@dataclass(frozen=True)
class Decision:
    """What one measurement led to.

    Attributes:
        call: number of the estimator's call it was made in, from 0.
        horizon: the smallest K from which on the relative bias is within bounds, in steps.
        reach: steps of the sequence that was measured: no horizon can be longer.
        k: truncation length from then on.
    """

    call: int
    horizon: int
    reach: int
    k: int


@dataclass
class _Memory:
    """What has been measured so far."""

    calls: int = 0
    decisions: list[Decision] = field(default_factory=list)


@dataclass(frozen=True)
class Adaptive(ChunkEstimator):
    """Truncated BPTT with the smallest k whose gradient is within a relative bias of the exact one.

    Every ``every``-th call goes back through the whole sequence and splits the gradient by lag, which
    gives bias(K) = ‖g_K - g‖ / ‖g‖ for every K. The smallest K from which on it is at most ``bias`` is
    the horizon of that call. k goes to the median of the last three horizons, so that one batch cannot
    throw it far, but falls to no less than ``shrink`` of itself at a time, from the whole sequence on.
    Calls in between are :class:`Truncated` with that k.

    Why it comes down slowly: what an untrained model's gradient holds at long lags is small, and is
    all there is to learn from. Truncated to the horizon of that first moment, the model would never
    grow the long one, and go on being measured as short; a copy task shows it (docs/estimators).

    Attributes:
        bias: the largest relative bias, between 0 and 1.
        k_max: k's upper bound; a measured call goes back through pieces of 2·k_max steps then, and not
            through the whole sequence. Default: no bound.
        k_min: k's lower bound.
        every: calls from one measurement to the next; the first call is measured.
        shrink: the least share of k that one measurement leaves; 0 lets k fall at once.
        lanes: lanes to measure, a sample of the batch; None for all.
        batch_first: whether time is axis 1 of the inputs.
        reduction: ``"mean"`` or ``"sum"``; default: what the loss says of itself, else a mean.
        agree: turns the horizon that one process measured on its lanes into the one that all of them
            go by; default: each goes by its own.

    The estimator remembers what it measured (:attr:`decisions`, :meth:`state_dict`), and says each
    decision to the logger ``bptt.gradients.adaptive``. A horizon cannot be longer than the sequence a
    call is given: hand it several times the k you expect.

    Cost: that of :class:`Truncated`, and per measured call one exact gradient and the lags of
    ``lanes`` lanes, see :func:`bptt.probes.lag_spectrum`.

    Example:
        >>> import torch, bptt
        >>> gru = torch.nn.GRU(3, 5)
        >>> x, target = torch.randn(40, 2, 3), torch.randn(40, 2, 5)
        >>> estimator = Adaptive(bias=0.1, shrink=0)
        >>> step = estimator.backward(gru, x, target, loss=torch.nn.functional.mse_loss)
        >>> estimator.k == estimator.decisions[0].k < 40
        True

    Source: C. Aicher, N. J. Foti and E. B. Fox, 2019, Adaptively truncating backpropagation through
    time to control gradient bias. They bound the bias by an assumed geometric decay; here it is
    measured.
    """

    bias: float = 0.05
    k_max: int | None = None
    k_min: int = 1
    every: int = 50
    shrink: float = 0.9
    lanes: int | None = 4
    batch_first: bool = False
    reduction: str | None = None
    agree: Callable[[int], int] | None = None
    _memory: _Memory = field(default_factory=_Memory, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("bias", "shrink"):
            object.__setattr__(self, name, real(name, getattr(self, name), "give a share"))
        if not 0 < self.bias < 1:
            raise ArgumentError(
                "a bias between 0 and 1", f"{self.bias!r}", "give a share, e.g. 0.05 for 5 %"
            )
        if not 0 <= self.shrink < 1:
            raise ArgumentError("0 <= shrink < 1", f"{self.shrink!r}", "give a share, e.g. 0.9")
        for name in ("k_max", "k_min", "every", "lanes"):
            value = getattr(self, name)
            if value is not None or name not in ("k_max", "lanes"):
                object.__setattr__(self, name, whole(name, value, remedy=f"change {name}"))
        if self.k_max is not None and self.k_max < self.k_min:
            raise ArgumentError(
                "k_max >= k_min", f"{self.k_max} < {self.k_min}", "raise k_max or lower k_min"
            )

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Every measurement and what it led to, oldest first."""
        return tuple(self._memory.decisions)

    @property
    def k(self) -> int | None:
        """The truncation length in use; None before the first call."""
        return self._memory.decisions[-1].k if self._memory.decisions else None

    def _take(self, chunks: Chunks, carry: Carry) -> Step:
        k, steps = self.k, chunks.steps
        due = k is None or self._memory.calls % self.every == 0
        reach = steps if self.k_max is None else min(steps, 2 * self.k_max)
        inner = Truncated(reach if due or k is None else k)
        if not due:
            step = inner._take(chunks, carry)
        else:
            at = default_truncations(reach)
            with watch(chunks.model, every=ONCE, lanes=self.lanes, at=at) as flow:
                step = inner._take(chunks, carry)
            horizon = max(m.spectrum.horizon(self.bias) for m in flow.modules)
            self._decide(horizon if self.agree is None else self.agree(horizon), reach)
        self._memory.calls += 1
        return step

    def _decide(self, horizon: int, reach: int) -> None:
        memory = self._memory
        recent = sorted([d.horizon for d in memory.decisions[-2:]] + [horizon])
        before = reach if self.k is None else self.k
        k = max(self.k_min, recent[len(recent) // 2], math.ceil(self.shrink * before))
        k = k if self.k_max is None else min(k, self.k_max)
        memory.decisions.append(Decision(memory.calls, horizon, reach, k))
        logger.info("call %d: horizon %d of %d steps, k = %d", memory.calls, horizon, reach, k)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Estimator.state_dict`."""
        decisions = [[d.call, d.horizon, d.reach, d.k] for d in self._memory.decisions]
        return {"calls": self._memory.calls, "decisions": decisions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`Estimator.load_state_dict`."""
        fit(state, {"calls": int, "decisions": list[list[int]]}, "state")
        for numbers in state["decisions"]:
            if len(numbers) != 4 or numbers[3] < 1:
                raise ArgumentError(
                    "call, horizon, reach and k >= 1 as each of state.decisions",
                    shown(numbers),
                    "pass what state_dict() returned",
                )
        self._memory.calls = state["calls"]
        self._memory.decisions = [Decision(*numbers) for numbers in state["decisions"]]

"""Truncation at random borders, reweighted so that its expectation is the exact gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.errors import ArgumentError, real, whole
from bptt.gradients.chunks import ChunkEstimator, Chunks, differentiate
from bptt.gradients.step import Step, check_generator, source_of
from bptt.nn import carry as carries
from bptt.nn.carry import Carry


@dataclass(frozen=True)
class Randomized(ChunkEstimator):
    """Chunks of ``k`` steps; at each border between two, the gradient is cut with probability c.

    Where it is not cut, what passes back over the border is multiplied by 1/(1 - c). A gradient that
    crosses m borders so arrives with probability ∏(1 - c_j) and weight ∏ 1/(1 - c_j): its mean is
    the exact gradient of the sequence given, whatever k and c. The price is variance, which grows
    with every border crossed; where gradients decay quickly from step to step it stays small, and
    where they do not, prefer a smaller c. As in :class:`Truncated`, the carry that a call begins with
    is held constant.

    Attributes:
        k: steps per chunk, at least 1; within a chunk nothing is cut.
        cut: c, 0 ≤ c < 1; or a function that gives c for n = 1, 2, …, the number of chunks since the
            last cut, this border's included. With c(n) = α/((α - 1)·n₀ + n), α > 1, the weights grow
            like a power of the distance and not exponentially.
        generator: where the cuts are drawn from, on the CPU; the caller seeds and saves it. Default:
            one number a call out of torch's global generator seeds them, so that
            ``torch.manual_seed`` repeats them. One draw decides a border for all lanes.
        batch_first: whether time is axis 1 of the inputs.
        reduction: ``"mean"`` or ``"sum"``; default: what the loss says of itself, else a mean.

    Cost: the time of full backpropagation; memory of the longest run of chunks between two cuts. With
    a constant c, a run is n chunks long with probability c·(1 - c)^(n-1): 1/c chunks on average, more
    than n with probability (1 - c)^n, and the longest of M runs is about ln(M)/c. The bound is T.

    Example:
        >>> import torch, bptt
        >>> gru = torch.nn.GRU(3, 5)
        >>> x, target = torch.randn(8, 2, 3), torch.randn(8, 2, 5)
        >>> estimator = Randomized(k=2, cut=0.5, generator=torch.Generator().manual_seed(1))
        >>> estimator.backward(gru, x, target, loss=torch.nn.functional.mse_loss).depth.shape
        torch.Size([8])

    Source: C. Tallec and Y. Ollivier, 2017, Unbiasing truncated backpropagation through time.
    """

    k: int
    cut: float | Callable[[int], float] = 0.5
    generator: torch.Generator | None = None
    batch_first: bool = False
    reduction: str | None = None

    def __post_init__(self) -> None:
        k = whole("k", self.k, remedy="give the number of steps per chunk")
        object.__setattr__(self, "k", k)
        if not callable(self.cut):
            object.__setattr__(self, "cut", real("cut", self.cut))
        self._probability(1)
        check_generator(self.generator)

    def _probability(self, chunks: int) -> float:
        c = real("cut", self.cut(chunks) if callable(self.cut) else self.cut)
        if not 0 <= c < 1:
            raise ArgumentError(
                "a probability 0 <= cut < 1",
                f"{c!r} after {chunks} chunks",
                "give the share of borders to cut; to cut every one, take Truncated",
            )
        return c

    def _take(self, call: Chunks, carry: Carry) -> Step:
        source = source_of(self.generator)
        total = call.zero
        depth = torch.empty(call.steps, dtype=torch.int64, device="cpu")
        pending: list[Tensor] = []  # losses of the chunks since the last cut
        begin, chunks = 0, 0
        for start, stop in call.pieces(self.k):
            if start:
                c = self._probability(chunks)
                if torch.rand((), generator=source, dtype=torch.float64, device="cpu") < c:
                    _backward(pending)
                    carry = carries.detach(carry)
                    begin, chunks = start, 0
                else:
                    carry = carries.apply(_amplifier(1 / (1 - c)), carry)
            chunks += 1
            depth[start:stop] = torch.arange(start - begin, stop - begin, device="cpu")
            output, carry = call.run(start, stop, carry)
            value = call.score(output, start, stop)
            if value is not None:
                pending.append(value)
                total = total + value.detach()
        _backward(pending)
        return Step(total, carries.detach(carry), call.terms, depth)


def _backward(pending: list[Tensor]) -> None:
    """One pass for all losses since the last cut: they share the graph."""
    if pending:
        differentiate([torch.stack(pending).sum()])
        pending.clear()


class _Amplify(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, state: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return state.view_as(state)

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * ctx.factor, None


def _amplifier(factor: float) -> Callable[[Tensor], Tensor]:
    def amplify(state: Tensor) -> Tensor:
        return _Amplify.apply(state, factor) if state.requires_grad else state

    return amplify

"""The gradient without any backward pass through time: the past is carried along as an influence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from bptt.errors import ArgumentError, ShapeError, optional, real
from bptt.gradients.chunks import count_terms, reduction_of, weigh_terms
from bptt.gradients.forward.lane_step import LaneStep
from bptt.gradients.forward.rules import (
    ElementWise,
    Exact,
    Influence,
    RankOne,
    Recorded,
    Rule,
    find_layer,
)
from bptt.gradients.step import (
    Estimator,
    Loss,
    Step,
    call_loss,
    check_call,
    check_generator,
    source_of,
)
from bptt.nn import carry as carries
from bptt.nn.carry import Carry
from bptt.nn.inputs import as_lengths, as_marks

METHODS = ("rtrl", "elementwise", "uoro")


class LiveCarry(NamedTuple):
    """A carry that brings its influence along: what :class:`ForwardMode` with ``online`` hands on.

    Attributes:
        state: the model's own carry.
        influence: how the parameters have acted on it; nested dicts of tensors, lane on axis 1, so
            that the functions of :mod:`bptt.carry` serve it too.
        age: number of steps behind it.
    """

    state: Carry
    influence: Influence
    age: int


@dataclass(frozen=True)
class ForwardMode(Estimator):
    """Real-time recurrent learning: S_t = J_t S_{t-1} + ∂s_t/∂θ goes forward beside the state.

    The gradient of the loss at step t is ∂ℓ_t/∂θ + (∂ℓ_t/∂s_{t-1}) S_{t-1}: there at once, so that the
    parameters can be updated after every step (:meth:`steps`), and with no window over the past.

    ``"rtrl"`` is exact for any model and needs n numbers a parameter and lane, n the size of a lane's
    state; in a model whose one recurrence is a :class:`bptt.nn.MinGRU` or :class:`bptt.nn.LRU` of one
    layer it takes the element-wise form by itself, which is as exact and needs one or two.
    ``"elementwise"`` insists on that form. ``"uoro"`` keeps one random rank-one matrix: unbiased, for
    the memory of the parameters, noisy.

    Dropout is drawn anew at every step, lane by lane; loss, Jacobians and state share its masks.

    Attributes:
        method: ``"rtrl"``, ``"elementwise"`` or ``"uoro"``.
        online: the influence goes on from call to call: ``step.carry`` is a :class:`LiveCarry`. A call
            that starts from a plain carry starts without influence.
        lane_axis: the lane's axis in every tensor of the carry. None: the carry is one state, whose
            size grows with B; for unbatched inputs, and for models that mix their lanes.
        vectorize: lanes together by ``torch.func.vmap``, otherwise one by one, for models that look at
            values as they run.
        generator: source of UORO's signs, on the CPU; default: seeded by one number a call out of
            torch's global generator.
        epsilon: UORO's ρ₀ and ρ₁ stay between ε and 1/ε.
        batch_first: whether time is axis 1 of the inputs.
        reduction: ``"mean"`` or ``"sum"``; default: what the loss says of itself, else a mean.

    Cost a step, with P parameters that act on the state: ``"rtrl"`` n backward passes through one
    step and B·n²·P multiply-adds, memory 2·B·n·P; element-wise 3 to 5 passes, memory B·P to 2·B·P
    (n more passes and B·n·P′ for the P′ before the layer); ``"uoro"`` four passes, memory 2·B·P. None
    of it grows with T.

    Example:
        >>> import torch, bptt
        >>> rnn = torch.nn.RNN(3, 5)
        >>> x, target = torch.randn(7, 2, 3), torch.randn(7, 2, 5)
        >>> step = ForwardMode().backward(rnn, x, target, loss=torch.nn.functional.mse_loss)
        >>> forward = rnn.weight_hh_l0.grad.clone()
        >>> rnn.zero_grad()
        >>> _ = bptt.gradients.Full().backward(rnn, x, target, loss=torch.nn.functional.mse_loss)
        >>> bool(torch.allclose(forward, rnn.weight_hh_l0.grad, atol=1e-6))
        True

    Source: R. J. Williams and D. Zipser, 1989, A learning algorithm for continually running fully
    recurrent neural networks; C. Tallec and Y. Ollivier, 2017, Unbiased online recurrent
    optimization; N. Zucchet et al., 2023, Online learning of long-range dependencies.
    """

    method: str = "rtrl"
    online: bool = False
    lane_axis: int | None = 1
    vectorize: bool = True
    generator: torch.Generator | None = None
    epsilon: float = 1e-7
    batch_first: bool = False
    reduction: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ArgumentError(
                f"a method among {', '.join(METHODS)}", repr(self.method), "name one of these"
            )
        object.__setattr__(self, "epsilon", real("epsilon", self.epsilon))
        object.__setattr__(self, "lane_axis", optional("lane_axis", self.lane_axis, None))
        if not 0 < self.epsilon < 1:
            raise ArgumentError("0 < epsilon < 1", f"{self.epsilon!r}", "give e.g. 1e-7")
        check_generator(self.generator)

    def backward(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        carry: Carry = None,
        loss: Loss | None = None,
        *,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Step:
        """See :meth:`Estimator.backward`. The model is called one step at a time."""
        axis = 1 if self.batch_first else 0
        loss = check_call(carry, loss, inputs, targets, axis)
        terms = count_terms(loss, targets)
        mean = reduction_of(loss, self.reduction) == "mean"
        share = weigh_terms(loss, targets) if mean else None
        total, depth, step = torch.zeros((), device=inputs.device), [], None
        for step in self._steps(model, inputs, targets, carry, loss, reset, lengths, share):
            total = total + step.loss
            depth.append(step.depth)
        # check_call has seen at least one time step
        return Step(total, cast(Step, step).carry, terms, torch.cat(depth))

    def steps(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        carry: Carry = None,
        loss: Loss | None = None,
        *,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Iterator[Step]:
        """Online learning: one :class:`Step` a time step, whose gradient was just added to ``.grad``.

        The loss of each is the one named, on that step alone. Update the parameters between two and
        clear their gradients; the influence then still holds the effect of the parameters as they
        were, which is the usual approximation of real-time recurrent learning, good while updates are
        small beside what the state forgets.

        Example:
            >>> import torch
            >>> rnn = torch.nn.RNN(3, 5)
            >>> sgd = torch.optim.SGD(rnn.parameters(), lr=0.01)
            >>> x, target = torch.randn(7, 2, 3), torch.randn(7, 2, 5)
            >>> loss = torch.nn.functional.mse_loss
            >>> for step in ForwardMode().steps(rnn, x, target, loss=loss):
            ...     sgd.step()
            ...     sgd.zero_grad()
        """
        loss = check_call(carry, loss, inputs, targets, 1 if self.batch_first else 0)
        reduction_of(loss, self.reduction)
        return self._steps(model, inputs, targets, carry, loss, reset, lengths, None)

    def _steps(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        carry: Carry,
        loss: Loss,
        reset: Tensor | None,
        lengths: Tensor | None,
        share: float | None,
    ) -> Iterator[Step]:
        axis = 1 if self.batch_first else 0
        lengths = None if lengths is None else as_lengths(lengths)
        reset = None if reset is None else as_marks("reset", reset)
        if self.lane_axis is not None and inputs.dim() < 2:
            raise ShapeError(
                "inputs with a lane axis",
                f"{tuple(inputs.shape)}",
                "set ForwardMode(lane_axis=None)",
            )
        lanes = 1 if self.lane_axis is None else inputs.shape[1 - axis]
        run = LaneStep(model, lanes, 1 - axis, self.lane_axis, self.vectorize)
        rule = self._rule(model)
        carry, influence, age = self._start(carry, rule)
        state = None if carry is None else run.flatten(carry).detach()
        _check_influence(influence, lanes)

        for t in range(inputs.shape[axis]):

            def now(value: Any, t: int = t) -> Any:
                return None if value is None else value.narrow(axis, t, 1)

            live = None if lengths is None else (lengths - t).clamp(0, 1)
            before = None if state is None else state.requires_grad_()
            with torch.enable_grad():
                output, after, each = run(now(inputs), before, now(reset), live)
                here = count_terms(loss, now(targets))
                weight = here if share is None else weigh_terms(loss, now(targets))
                value = torch.zeros((), device=inputs.device)
                if weight:
                    value = call_loss(loss, output, now(targets))
                    value = value if share is None else value * (weight / share)
                    self._collect(run, rule, influence, before, value)
            recorded = Recorded(before, after, each, self.vectorize)
            rule, influence = self._settle(rule, influence, recorded)
            influence = rule.advance(influence, recorded)
            state = after.detach()
            age += 1
            # Nothing of this step's graph may stay alive while the caller holds the generator.
            value = value.detach()
            del output, after, each, recorded
            plain = carries.detach(run.restore(state))
            handed = LiveCarry(plain, influence, age) if self.online else plain
            yield Step(value, handed, here, torch.tensor([age - 1], device="cpu"))

    def _rule(self, model: nn.Module) -> Rule:
        if self.method == "uoro":
            return RankOne(source_of(self.generator), self.epsilon)
        found = find_layer(model)
        if found is None and self.method == "elementwise":
            raise _not_elementwise("another model")
        return Exact() if found is None else ElementWise(*found)

    def _start(self, carry: Carry, rule: Rule) -> tuple[Carry, Influence, int]:
        if not isinstance(carry, LiveCarry):
            return carry, {}, 0
        if not self.online:
            raise ArgumentError(
                "a plain carry, since influence is not carried over",
                "a LiveCarry",
                "pass carry.state, or set ForwardMode(online=True)",
            )
        if bool(carry.influence) and ("parameters" in carry.influence) != isinstance(rule, RankOne):
            raise ArgumentError(
                f"an influence of method {self.method!r}",
                "one of another",
                "go on with the method that made it, or pass carry.state",
            )
        return carry

    def _settle(self, rule: Rule, influence: Influence, step: Recorded) -> tuple[Rule, Influence]:
        """Keep the element-wise form while it holds; the general one is as exact everywhere."""
        if not isinstance(rule, ElementWise):
            return rule, influence
        # An influence handed over from a call that had to leave the form is wider than it.
        wide = any(
            s.shape[0] != rule.parts and s.shape[0] == rule.size
            for name, s in influence.items()
            if name in rule.units
        )
        if not wide and rule.holds(step):
            return rule, influence
        if self.method == "elementwise":
            raise _not_elementwise("one that feeds its state back, or whose carry holds more")
        return Exact(), influence if wide else rule.expand(influence)

    @staticmethod
    def _collect(
        run: LaneStep, rule: Rule, influence: Influence, before: Tensor | None, value: Tensor
    ) -> None:
        """Add this step's gradient to ``.grad``: the direct part, and the past's through the state."""
        sources = [*run.parameters.values(), *([] if before is None else [before])]
        if not value.requires_grad:
            return
        found = list(torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True))
        dstate = found.pop() if before is not None else None
        past = {} if dstate is None else rule.gradient(influence, dstate)
        for (name, parameter), direct in zip(run.parameters.items(), found, strict=True):
            parts = [] if direct is None else [direct]
            if name in past:
                parts.append(past[name].reshape(parameter.shape))
            for part in parts:
                if parameter.grad is None:
                    parameter.grad = part.detach().clone()
                else:
                    parameter.grad += part.detach()


def _not_elementwise(received: str) -> ArgumentError:
    return ArgumentError(
        "a model whose one recurrence is a MinGRU or LRU of one layer, its state the whole carry",
        received,
        "take method='rtrl', which serves any model",
    )


def _check_influence(influence: Influence, lanes: int) -> None:
    for part in carries.tensors(influence):
        if part.shape[1] != lanes:
            raise ShapeError(
                f"an influence of {lanes} lanes",
                f"one of {part.shape[1]}",
                "go on with the batch it was made for",
            )

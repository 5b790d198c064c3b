"""The training step: the one place in this package where an optimiser moves weights.

Its order is always the same. Zero the gradients; take them by an estimator; let penalties add theirs;
add up over the processes, if there are several; look whether loss, states and gradient are finite; clip;
update. Where a number is not finite the update is not made: weights and optimiser stay as they were.

:func:`fit_step` makes one update, :func:`fit` one for each batch. The training command adds what a long
run needs around the same step: a session, checkpoints, and what to do about a number that is not finite
(``training/update.py``).

Limits: an optimiser that asks for the loss again on its own (L-BFGS) is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bptt.errors import ArgumentError
from bptt.gradients import Estimator, Full, Step
from bptt.gradients.step import Loss, call_loss
from bptt.nn import carry as carries
from bptt.nn.carry import Carry
from bptt.remedies import Clip, NoClip, Regularised, Regulariser
from bptt.remedies.clips import measure
from bptt.training.distributed import Group

# How a gradient is taken: by an estimator, or backwards from a loss that a function works out.
Gradients: TypeAlias = Estimator | Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Update:
    """What one update did.

    Attributes:
        loss: over the whole batch, and over all processes that train together.
        norm: of the gradient, penalties included, before clipping; NaN where the loss or a state was not
            finite, for then no norm was taken.
        norm_after: of the gradient that the optimiser was given; NaN where no update was made.
        clipped: whether the clip changed the gradient.
        terms: how many terms the loss has, over all processes; of a text, tokens. The loss of a function
            counts as one.
        carry: the state after the batch, detached: what the next batch of the same sequences begins with.
        sound: whether every number in the states is finite, in all processes.
        penalties: what each penalty saw and added, in this process.
    """

    loss: float
    norm: float
    norm_after: float
    clipped: bool
    terms: int
    carry: Carry
    sound: bool
    penalties: tuple[Regularised, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether all was finite; if not, the update was not made."""
        return self.sound and math.isfinite(self.loss) and math.isfinite(self.norm)


def fit_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    gradients: Gradients = Full(),  # noqa: B008 - a frozen value
    loss: Loss | None = None,
    *,
    penalties: Sequence[Regulariser] = (),
    clip: Clip | None = None,
    carry: Carry = None,
    group: Group = Group(),  # noqa: B008 - likewise
) -> Update:
    """Make one update.

    Args:
        model: what is trained; an estimator calls it as ``model(x, carry)``.
        optimizer: of the parameters to be moved. Those are the ones that are clipped; all gradients it
            holds are zeroed first, and stay after the update, to be looked at.
        batch: ``(inputs, targets)``, perhaps with ``lengths`` and ``reset`` as
            :class:`bptt.tasks.Batch` has them; for a function, whatever it takes.
        gradients: an estimator of :mod:`bptt.gradients`; or a function ``(model, batch) -> loss``, a
            scalar with its graph, where an estimator does not fit the model.
        loss: as :meth:`bptt.gradients.Estimator.backward` takes it; for a function, left out.
        penalties: of :mod:`bptt.remedies`; each adds its gradient to that of the loss.
        clip: of :mod:`bptt.remedies`; None measures the norm and changes nothing.
        carry: the state the batch begins with; None starts afresh.
        group: the processes that train together, each on lanes of its own.

    Returns:
        The :class:`Update`; its ``finite`` says whether the update was made.

    Raises:
        ArgumentError, ShapeError, DtypeError: what does not fit, and what to do.

    Cost: that of the gradient and of the optimiser; the norm is two reads of the gradient, and two more
    where the clip acted.

    Example:
        >>> import torch
        >>> from bptt.gradients import Truncated
        >>> from bptt.remedies import ClipNorm
        >>> gru = torch.nn.GRU(3, 5)
        >>> sgd = torch.optim.SGD(gru.parameters(), lr=0.1)
        >>> batch = torch.randn(20, 4, 3), torch.randn(20, 4, 5)
        >>> done = fit_step(
        ...     gru, sgd, batch, Truncated(k=10), torch.nn.functional.mse_loss, clip=ClipNorm(0.01)
        ... )
        >>> done.finite, done.clipped, done.terms, round(done.norm_after, 4)
        (True, True, 400, 0.01)
    """
    _check(model, optimizer, penalties, clip)
    optimizer.zero_grad()
    with ExitStack() as stack:
        seen = tuple(stack.enter_context(penalty.on(model)) for penalty in penalties)
        step = _take_gradient(model, batch, gradients, loss, carry)
    return apply_gradient(optimizer, step, clip=clip, group=group, penalties=seen)


def apply_gradient(
    optimizer: torch.optim.Optimizer,
    step: Step,
    *,
    clip: Clip | None = None,
    group: Group = Group(),  # noqa: B008 - a frozen value
    penalties: tuple[Regularised, ...] = (),
) -> Update:
    """The second half of :func:`fit_step`, for a gradient that was taken already: clip, look, update.

    Args:
        optimizer: the gradient stands in the ``.grad`` of its parameters.
        step: what the estimator that took it returned.
        clip, group: as :func:`fit_step` takes them.
        penalties: what added to the gradient.

    Returns:
        The :class:`Update`.

    Example: an update at every time step.
        >>> import torch
        >>> from bptt.gradients import ForwardMode
        >>> rnn = torch.nn.RNN(3, 5)
        >>> sgd = torch.optim.SGD(rnn.parameters(), lr=0.01)
        >>> x, target = torch.randn(7, 2, 3), torch.randn(7, 2, 5)
        >>> made = []
        >>> for step in ForwardMode().steps(rnn, x, target, loss=torch.nn.functional.mse_loss):
        ...     made.append(apply_gradient(sgd, step).finite)
        ...     sgd.zero_grad()
        >>> made == [True] * 7
        True
    """
    parameters = [p for held in optimizer.param_groups for p in held["params"]]
    loss, terms, sound = _of_all(group, step)
    if not (math.isfinite(loss) and sound):
        return Update(loss, math.nan, math.nan, False, terms, step.carry, sound, penalties)
    group.add_gradients(parameters, step.terms / max(terms, 1))
    if all(p.grad is None for p in parameters):
        raise ArgumentError(
            "a gradient for a parameter of the optimiser",
            "none",
            "give a batch with a target that is scored, and the optimiser this model's parameters "
            "(docs/mistakes.md#frozen-recurrent)",
        )
    seen = (clip or NoClip())(parameters)
    norm = after = seen.norm.item()
    if not math.isfinite(norm):
        return Update(loss, norm, math.nan, False, terms, step.carry, sound, penalties)
    clipped = seen.acted
    if clipped:
        after = measure(parameters)[1].item()
    optimizer.step()
    return Update(loss, norm, after, clipped, terms, step.carry, sound, penalties)


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Any],
    gradients: Gradients = Full(),  # noqa: B008 - a frozen value
    loss: Loss | None = None,
    *,
    penalties: Sequence[Regulariser] = (),
    clip: Clip | None = None,
    stateful: bool = False,
) -> Iterator[Update]:
    """Make an update for each batch, and yield it: the loop of :func:`fit_step`.

    Args:
        batches: as many as there are to be updates; each is taken just before its update.
        model, optimizer, gradients, loss, penalties, clip: as :func:`fit_step` takes them.
        stateful: each batch goes on where the one before ended, lane by lane, with the state carried
            over; after an update that was not made it starts afresh. False: all start afresh.

    Returns:
        The :class:`Update` of each batch. Nothing is done before it is asked for.

    Example:
        >>> import torch
        >>> from bptt.gradients import Truncated
        >>> gru = torch.nn.GRU(3, 5)
        >>> adam = torch.optim.Adam(gru.parameters(), lr=0.01)
        >>> batches = [(torch.randn(20, 4, 3), torch.zeros(20, 4, 5))] * 30
        >>> losses = [
        ...     done.loss
        ...     for done in fit(gru, adam, batches, Truncated(k=10), torch.nn.functional.mse_loss)
        ... ]
        >>> len(losses), losses[-1] < losses[0]
        (30, True)
    """
    if stateful and not isinstance(gradients, Estimator):
        raise ArgumentError(
            "an estimator beside stateful=True",
            "a function, which hands no state on",
            "pass e.g. Full(), or leave stateful out",
        )
    carry: Carry = None
    for batch in batches:
        done = fit_step(
            model, optimizer, batch, gradients, loss, penalties=penalties, clip=clip, carry=carry
        )
        carry = done.carry if stateful and done.finite else None
        yield done


def _check(model: Any, optimizer: Any, penalties: Any, clip: Any) -> None:
    """Refuse what could only fail later, after the gradients were zeroed."""
    if not isinstance(model, nn.Module):
        raise ArgumentError("a torch.nn.Module", type(model).__name__, "pass the model itself")
    if not isinstance(optimizer, torch.optim.Optimizer) or isinstance(optimizer, torch.optim.LBFGS):
        raise ArgumentError(
            "an optimiser of torch.optim that updates by a gradient it is given",
            type(optimizer).__name__,
            "pass e.g. torch.optim.Adam(model.parameters())",
        )
    if not (clip is None or callable(clip)):  # one of their own is as good
        raise ArgumentError(
            "a clip of bptt.remedies, or None",
            repr(clip),
            "pass e.g. ClipNorm(1.0), or bptt.remedies.build_clip('norm:1')",
        )
    found = penalties if isinstance(penalties, (list, tuple)) else [penalties]
    wrong = [p for p in found if not isinstance(p, Regulariser)]
    if wrong or found is not penalties:
        raise ArgumentError(
            "a list of penalties of bptt.remedies",
            repr(wrong[0] if wrong else penalties),
            "pass e.g. [bptt.remedies.build_regulariser('omega:1')], or leave it out",
        )


def _take_gradient(
    model: nn.Module, batch: Any, gradients: Gradients, loss: Loss | None, carry: Carry
) -> Step:
    if isinstance(gradients, Estimator):
        if not isinstance(batch, (tuple, list)) or not 2 <= len(batch) <= 4:
            size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            raise ArgumentError(
                "a batch (inputs, targets), perhaps with lengths and reset",
                f"{type(batch).__name__}{size}",
                "pass a pair of tensors, or a bptt.tasks.Batch",
            )
        inputs, targets, lengths, reset = (*batch, None, None)[:4]
        return gradients.backward(model, inputs, targets, carry, loss, reset=reset, lengths=lengths)
    if not callable(gradients):
        raise ArgumentError(
            "an estimator, or a function (model, batch) -> loss",
            repr(gradients),
            "pass e.g. Truncated(20), or bptt.gradients.build('truncated:20')",
        )
    if loss is not None or carry is not None:
        raise ArgumentError(
            "neither loss= nor carry= beside a function that works out the loss",
            "carry=" if loss is None else "loss=",
            "let the function use what it needs itself, or pass an estimator",
        )
    value = call_loss(
        lambda output, _: output, gradients(model, batch), torch.empty(0, device="cpu")
    )
    value.backward()
    return Step(value.detach(), None, 1, torch.empty(0, dtype=torch.int64, device="cpu"))


def _of_all(group: Group, step: Step) -> tuple[float, int, bool]:
    """The loss over the lanes of all processes, its terms, and whether every state is finite."""
    loss, terms = step.loss.item(), step.terms
    sound = all(bool(t.isfinite().all()) for t in carries.tensors(step.carry))
    if group.size == 1:
        return loss, terms, sound
    nats, scored, broken = group.total([loss * terms, terms, float(not sound)])
    return nats / max(scored, 1), int(scored), broken == 0

"""What every task has in common: batches by a seeded generator, a loss, a score, and what they are worth.

Inputs are ``(T, B, I)`` floats, symbols among them one-hot. A model answers at every step, ``(T, B, O)``;
a step that is not scored has the target -100, or NaN where targets are numbers. So one loss serves
every estimator of :mod:`bptt.gradients`, whether a task scores one step or all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.choices import IGNORED
from bptt.errors import ArgumentError, ShapeError, real, whole

HELD_OUT_SEED = 2**40 + 7  # far from the seeds that people give to a run
HELD_OUT = 512


class Batch(NamedTuple):
    """Sequences side by side.

    Attributes:
        inputs: ``(T, B, I)``.
        targets: ``(T, B)`` int64, or ``(T, B, O)`` float.
        lengths: ``(B,)`` int64, where lanes differ in length; None: all T.
        reset: ``(T, B)`` bool, where sequences follow each other in a lane; None: nowhere.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    reset: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        inputs, targets, *marks = self
        moved = (None if mark is None else mark.to(device) for mark in marks)
        return Batch(inputs.to(device), targets.to(device), *moved)


@dataclass(frozen=True)
class Task(ABC):
    """A problem whose difficulty is a distance; instances are values.

    Attributes:
        name: as the command line calls it.
        metric: what :meth:`score` measures.
        rises: whether more of it is better.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    rises: ClassVar[bool]

    @property
    @abstractmethod
    def inputs(self) -> int:
        """I."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """O: classes, or numbers."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """The score of the best answer that looks at no input."""

    @property
    @abstractmethod
    def best(self) -> float:
        """The best possible score."""

    @property
    @abstractmethod
    def goal(self) -> float:
        """The score from which on the task counts as solved."""

    @property
    @abstractmethod
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """``loss(output, targets) -> scalar``, for any estimator."""

    @abstractmethod
    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """``size`` training sequences; the same generator state gives the same ones."""

    def held_out(self) -> Batch:
        """What a model is scored on: fixed, and never drawn in training by a seed below 2⁴⁰."""
        return self.batch(torch.Generator("cpu").manual_seed(HELD_OUT_SEED), HELD_OUT)

    @abstractmethod
    def score(self, output: Tensor, targets: Tensor) -> float:
        """How good an output is, over the steps that are scored."""

    def solved(self, score: float) -> bool:
        """Whether a score reaches the goal; a NaN does not."""
        return score >= self.goal if self.rises else score <= self.goal


def class_loss(output: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the scored targets."""
    return F.cross_entropy(output.flatten(0, -2), targets.flatten(), ignore_index=IGNORED)


@dataclass(frozen=True)
class ClassTask(Task):
    """A task whose answers are classes; the score is the share of right ones."""

    metric: ClassVar[str] = "accuracy"
    rises: ClassVar[bool] = True

    @property
    def best(self) -> float:
        """Everything right."""
        return 1.0

    @property
    def goal(self) -> float:
        """99 %."""
        return 0.99

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Mean cross-entropy in nats."""
        return class_loss

    def score(self, output: Tensor, targets: Tensor) -> float:
        """Share of the scored targets ``(T, B)`` that have the largest logit of ``(T, B, O)``."""
        check_answer(output, targets, targets.dim() + 1)
        here = targets != IGNORED
        return float((output.argmax(-1)[here] == targets[here]).double().mean())


@dataclass(frozen=True)
class SquaredError:
    """Mean of (output - target)² over the targets that are not NaN, ``terms`` of them in each lane.

    A sum divided by a constant: pieces of a sequence add up to the whole.
    """

    terms: int
    reduction: ClassVar[str] = "sum"

    def __call__(self, output: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar."""
        there = ~targets.isnan()
        error = torch.where(there, output - targets.nan_to_num(), 0.0)
        return error.square().sum() / (self.terms * targets.shape[1])


@dataclass(frozen=True)
class ValueTask(Task):
    """A task whose answers are numbers; the score is the mean squared error."""

    metric: ClassVar[str] = "squared error"
    rises: ClassVar[bool] = False

    @property
    def best(self) -> float:
        """No error."""
        return 0.0

    def score(self, output: Tensor, targets: Tensor) -> float:
        """Mean squared error over the targets that are not NaN."""
        check_answer(output, targets, targets.dim())
        there = ~targets.isnan()
        return float((output - targets)[there].double().square().mean())


def check_answer(output: Tensor, targets: Tensor, axes: int) -> None:
    """Refuse an output that would be broadcast against the targets."""
    if output.dim() != axes or output.shape[:2] != targets.shape[:2]:
        raise ShapeError(
            f"an output of {axes} axes that begin with {tuple(targets.shape[:2])}",
            f"{tuple(output.shape)}",
            "answer at every step: (T, B, O)",
        )


def at_least(task: Task, **least: int) -> None:
    """Refuse sizes below their least; those that will do are kept as int."""
    for name, low in least.items():
        try:
            size = whole(name, getattr(task, name), low)
        except ArgumentError as error:
            expected = f"{error.expected} for {task.name}"
            raise type(error)(expected, error.received, error.remedy) from None
        object.__setattr__(task, name, size)  # a task is frozen once it is made


def symbols(values: Tensor, count: int) -> Tensor:
    """One-hot float vectors, ``(…, count)``."""
    return F.one_hot(values, count).to(torch.get_default_dtype())


def only_last(labels: Tensor, steps: int) -> Tensor:
    """Targets ``(T, B)`` that score the last step alone."""
    targets = torch.full((steps, labels.shape[0]), IGNORED)
    targets[-1] = labels
    return targets


# Influence balancing: a task on which a truncated gradient has the wrong sign, with the model it is posed
# to. A parameter acts on every unit of a linear chain, on the near ones with plus, on the far ones, which
# are more, with minus. What it does to the first unit soon is the opposite of what it does in the end.


class InfluenceBalancing(nn.Module):
    """h_t = A h_{t-1} + θ·s, A = ½ I + ½ superdiagonal, s = (+1, …, +1, -1, …, -1); y_t = first unit.

    At rest h = (I - A)⁻¹ s θ, and (I - A)⁻¹ is 2 on and above the diagonal: the first unit is
    2·(plus - minus)·θ. Its target 1 is met by θ = 1/(2·(plus - minus)), which is -1/6 for 10 plus and
    13 minus. Within K steps only the first K + 1 units act on the first: up to K = 9 θ moves it up.

    Args:
        plus: units with sign +, the first ones.
        minus: units with sign -.
        start: initial θ.

    Example:
        >>> import torch
        >>> model = InfluenceBalancing()
        >>> round(model.optimum, 4)
        -0.1667
        >>> x, target = influence_batch(steps=3)
        >>> y, carry = model(x)
        >>> y.shape, carry.shape
        (torch.Size([3, 1, 1]), torch.Size([1, 1, 23]))

    Source: C. Tallec and Y. Ollivier, 2017, Unbiased online recurrent optimization.
    """

    matrix: Tensor
    signs: Tensor

    def __init__(self, plus: int = 10, minus: int = 13, start: float = 0.0) -> None:
        super().__init__()
        plus, minus = whole("plus", plus, 0), whole("minus", minus, 0)
        if plus == minus:
            raise ArgumentError(
                "plus and minus not equal",
                f"plus={plus}, minus={minus}",
                "take 10 and 13, as in the paper",
            )
        n = plus + minus
        self.optimum = 1 / (2 * (plus - minus))
        self.theta = nn.Parameter(torch.tensor(real("start", start), dtype=torch.float64))
        chain = 0.5 * torch.eye(n, dtype=torch.float64)
        chain += 0.5 * torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
        self.register_buffer("matrix", chain, persistent=False)
        signs = torch.ones(n, dtype=torch.float64)
        signs[plus:] = -1
        self.register_buffer("signs", signs, persistent=False)

    def forward(self, x: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run as many steps as ``x (T, B, 1)`` has; its values are not read.

        Returns:
            y ``(T, B, 1)`` and the carry ``(1, B, n)``.
        """
        h = x.new_zeros(x.shape[1], len(self.signs)) if carry is None else carry[0]
        outputs = []
        for _ in range(x.shape[0]):
            h = h @ self.matrix.T + self.theta * self.signs
            outputs.append(h[:, :1])
        return torch.stack(outputs), h.unsqueeze(0)


def influence_batch(steps: int, lanes: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs (zeros, not read) and targets (ones), each ``(T, B, 1)`` float64."""
    shape = (whole("steps", steps), whole("lanes", lanes), 1)
    return torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)


def half_square(output: Tensor, target: Tensor) -> Tensor:
    """The task's loss, ½ (y - target)², summed; name ``reduction="sum"`` to an estimator.

    Example:
        >>> import torch
        >>> half_square(torch.tensor([3.0]), torch.tensor([1.0]))
        tensor(2.)
    """
    return 0.5 * (output - target).square().sum()

"""What a model makes of a text, symbol by symbol: which earlier ones a prediction depends on, and what a
unit follows.

The connectivity of the prediction at t to the symbol at s is ‖∂ℓ_t/∂x_s‖: the norm of the gradient of
that one loss by the vector that stands for the symbol. It is exact, and taken by ordinary backward
passes: one for a block of predictions, each on a lane of its own.

Limits: the model is run in evaluation mode, from a fresh state; dropout is not in the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.choices import IGNORED
from bptt.errors import ArgumentError, ShapeError, whole
from bptt.recurrence import Recurrence

# Numbers of the input that one backward pass holds copies of, at most, so that memory stays bounded.
BLOCK = 1 << 21
# A unit follows what it correlates with at least so much; so many units are shown, the closest first.
LEAST, UNITS, FEWEST = 0.3, 4, 2

# Losses of n predictions, ``(n,)``: given vectors ``(T, n, I)``, a lane each, and their places ``(n,)``.
Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Unit:
    """What one unit of the top layer does on a text.

    Attributes:
        number: of the unit, from 0.
        follows: what it correlates with the most; ``"variance"`` where it was chosen for that.
        correlation: with it, over all symbols that were read; NaN with ``"variance"``.
        values: ``(T,)`` what it puts out at each symbol of the reading.
    """

    number: int
    follows: str
    correlation: float
    values: Tensor


@dataclass(frozen=True, eq=False)
class Reading:
    """A text as a model reads it.

    Attributes:
        symbols: T + 1 of them: those read, and the one the last prediction is of.
        losses: ``(T,)`` nats: of the symbol that came next; NaN where none is scored.
        connectivity: ``(T, T)``: row t is ‖∂ℓ_t/∂x_s‖ of the prediction at t by s, 0 for s > t.
        units: that follow something, see :func:`telling_units`.
    """

    symbols: tuple[str, ...]
    losses: Tensor
    connectivity: Tensor
    units: tuple[Unit, ...] = ()

    @property
    def reach(self) -> Tensor:
        """``(T,)``: how many steps back a prediction looks on average, weighed by its connectivity."""
        steps = torch.arange(len(self.losses), dtype=torch.float64, device="cpu")
        weights = self.connectivity.double()
        back = (steps[:, None] - steps).clamp(min=0)
        return (weights * back).sum(1) / weights.sum(1).clamp(min=torch.finfo(torch.float64).tiny)

    def farthest(self) -> int:
        """The prediction in the second half of the text that looks back the farthest on average."""
        half = len(self.losses) // 2
        return half + int(self.reach[half:].argmax())

    def row(self, at: int) -> Tensor:
        """``(at + 1,)``: the connectivity of one prediction to the symbols up to it.

        Raises:
            ArgumentError: there is no such prediction.
        """
        last = len(self.losses) - 1
        at = whole("at", at, 0, f"pick a prediction, 0 to {last}")
        if at > last:
            raise ArgumentError(f"a prediction from 0 to {last}", str(at), "pick an earlier one")
        return self.connectivity[at, : at + 1]


def connectivity(predict: Predict, vectors: Tensor) -> Tensor:
    """The gradient of every prediction of a sequence by every vector it has read, as norms.

    Args:
        predict: the losses of n predictions. It is given the vectors of n lanes, cut off behind the last
            place, and the place of each lane's prediction.
        vectors: ``(T, I)``: what is read.

    Returns:
        ``(T, T)``: row t is ‖∂ℓ_t/∂x_s‖, 0 for s > t.

    Cost: T lanes of the model, forward and backward, in blocks; half of it where later lanes are longer.

    Example:
        >>> import torch
        >>> weights = torch.tensor([[1.0], [2.0], [4.0]])
        >>> def predict(x, at):
        ...     return (x * weights[: len(x), None]).sum((0, 2))
        >>> connectivity(predict, torch.ones(3, 1))
        tensor([[1., 0., 0.],
                [1., 2., 0.],
                [1., 2., 4.]])

    Source: A. Madsen, 2019, Visualizing memorization in RNNs, Distill.
    """
    if vectors.dim() != 2:
        raise ShapeError("vectors (T, I)", f"{tuple(vectors.shape)}", "read one sequence at a time")
    steps = len(vectors)
    found = torch.zeros(steps, steps, dtype=vectors.dtype, device="cpu")
    lanes = max(1, BLOCK // max(1, vectors.numel()))
    for places in torch.arange(steps, device="cpu").split(lanes):
        read = vectors[: int(places[-1]) + 1].detach()
        lane = read.unsqueeze(1).repeat(1, len(places), 1).requires_grad_()
        with torch.enable_grad():
            total = predict(lane, places.to(vectors.device)).sum()
            (gradient,) = torch.autograd.grad(total, lane, allow_unused=True)
        if gradient is not None:
            norms = torch.linalg.vector_norm(gradient, dim=2).t().cpu()
            found[places, : len(read)] = norms.tril(int(places[0]))
    return found


def read_text(
    model: nn.Module,
    tokens: Tensor,
    symbols: Sequence[str],
    *,
    steps: int | None = None,
    reset: Tensor | None = None,
) -> Reading:
    """Read a text with a language model: its connectivity, and what its units do.

    Args:
        model: with ``embedding``, ``recurrent`` and ``output``, as
            :class:`bptt.models.LanguageModel` has them.
        tokens: ``(S + 1,)`` int64: the text, and the token after it.
        symbols: what each of them is shown as.
        steps: T, the first so many tokens are pictured, S by default; what a unit follows is told from
            all of them.
        reset: ``(S + 1,)`` bool: a new document begins with this token.

    Raises:
        ArgumentError: the model is another, or the text is shorter than two tokens.

    Cost: T lanes of T steps, forward and backward.

    Example:
        >>> import torch, bptt
        >>> model = bptt.models.LanguageModel(3, hidden=4)
        >>> reading = read_text(model, torch.tensor([0, 1, 2, 0]), list("abca"))
        >>> reading.connectivity.shape, reading.row(1).shape
        (torch.Size([3, 3]), torch.Size([2]))
    """
    own: Any = model
    if not all(hasattr(model, n) for n in ("embedding", "recurrent", "output")):
        raise ArgumentError(
            "a language model with embedding, recurrent and output", type(model).__name__,
            "use bptt.probes.connectivity with a function of your own",
        )  # fmt: skip
    if tokens.dim() != 1 or len(tokens) < 2 or len(symbols) != len(tokens):
        raise ArgumentError(
            "two tokens or more, and a symbol for each",
            f"{tuple(tokens.shape)} tokens and {len(symbols)} symbols",
            "read a longer text",
        )
    length = len(tokens) - 1
    steps = min(length, whole("steps", length if steps is None else steps, remedy="count tokens"))
    targets = tokens[1:].clone()
    if reset is not None:
        targets[reset[1:]] = IGNORED  # nothing before a document tells how it begins

    def run(x: Tensor) -> Tensor:
        marks = None if reset is None else reset[: len(x), None].expand(x.shape[:2])
        h: Tensor = own.recurrent(x, **({} if marks is None else {"reset": marks}))[0]
        return h

    def predict(x: Tensor, at: Tensor) -> Tensor:
        # Logits of the places asked for alone: those of all would not fit a large vocabulary.
        h = run(x)[at, torch.arange(x.shape[1], device=x.device)]
        return F.cross_entropy(own.output(h), targets[at], reduction="none")

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            vectors = own.embedding(tokens[:-1])
            h = run(vectors.unsqueeze(1))[:, 0]
            losses = F.cross_entropy(own.output(h[:steps]), targets[:steps], reduction="none")
        found = connectivity(predict, vectors[:steps])
    finally:
        model.train(training)
    losses = losses.masked_fill(targets[:steps] == IGNORED, float("nan")).cpu()
    units = telling_units(h, symbols[:-1])
    shown = tuple(replace(unit, values=unit.values[:steps]) for unit in units)
    return Reading(tuple(symbols[: steps + 1]), losses, found, shown)


# What a unit follows.


def features(symbols: Sequence[str]) -> dict[str, Tensor]:
    """What can be told of each symbol of a text by reading it, as numbers ``(T,)``.

    Example:
        >>> features(["a", " ", "1"])["a digit"].tolist()
        [0.0, 0.0, 1.0]
    """
    column, quoted, depth = 0, False, 0
    columns, inside, deep = [], [], []
    for symbol in symbols:
        columns.append(float(column))
        column = 0 if "\n" in symbol else column + len(symbol)
        quoted ^= symbol.count('"') % 2 == 1
        depth = max(0, depth + sum(map(symbol.count, "([{")) - sum(map(symbol.count, ")]}")))
        inside.append(float(quoted))
        deep.append(float(depth))
    kinds: dict[str, Callable[[str], bool]] = {
        "a space": str.isspace, "a digit": str.isdigit, "a capital letter": str.isupper,
        "a vowel": lambda s: s.lower() in "aeiou" and bool(s),
        "punctuation": lambda s: bool(s) and not s.isspace() and not any(map(str.isalnum, s)),
    }  # fmt: skip
    found = {name: [float(kind(s)) for s in symbols] for name, kind in kinds.items()}
    found |= {
        "the place in the line": columns,
        "being quoted": inside,
        "the depth of brackets": deep,
    }
    return {
        name: torch.tensor(values, dtype=torch.float64, device="cpu")
        for name, values in found.items()
    }


def telling_units(values: Tensor, symbols: Sequence[str]) -> tuple[Unit, ...]:
    """The units whose activation follows something a reader can see.

    For each of :func:`features` the unit with the largest correlation, if that is at least 0.3; of those
    the four closest, no unit twice. Where fewer than two are found, those of the largest variance.

    Args:
        values: ``(T, H)`` what the units put out.
        symbols: T of them.
    """
    values = values.detach().double().cpu()
    if len(values) != len(symbols):
        raise ArgumentError(
            f"a symbol for each of {len(values)} steps", str(len(symbols)), "cut the text to them"
        )
    centred = values - values.mean(0)
    spread = centred.square().sum(0).sqrt()
    closest: list[tuple[float, int, str]] = []
    for name, feature in features(symbols).items():
        away = feature - feature.mean()
        size = away.square().sum().sqrt()
        if not float(size) > 0:
            continue
        found = (centred * away[:, None]).sum(0) / (spread * size)
        found = torch.where(found.isfinite(), found, 0)
        unit = int(found.abs().argmax())
        if abs(float(found[unit])) >= LEAST:
            closest.append((float(found[unit]), unit, name))
    chosen: dict[int, Unit] = {}
    for correlation, unit, name in sorted(closest, key=lambda one: -abs(one[0])):
        if unit not in chosen and len(chosen) < UNITS:
            chosen[unit] = Unit(unit, name, correlation, values[:, unit])
    for unit in map(int, spread.argsort(descending=True)):
        if len(chosen) < min(FEWEST, values.shape[1]) and unit not in chosen:
            chosen[unit] = Unit(unit, "variance", float("nan"), values[:, unit])
    return tuple(chosen.values())


# The same of a watched step, whatever its model: the loss at one step by the inputs of its recurrence.


def input_gradients(
    recurrence: Recurrence, direct: tuple[Tensor, ...], lane: int, at: int
) -> Tensor:
    """‖∂ℓ_t/∂x_s‖ for one lane: ℓ_t is what the loss asks of the states at step t, directly.

    Args:
        recurrence, direct: as it ran, and δ⁰.
        lane: which.
        at: t.

    Returns:
        ``(at + 1,)``: by s.

    Raises:
        ArgumentError: the inputs are no vectors, or there is no such lane or step.

    Cost: a step of the recurrence, forward and backward, for each s.
    """
    inputs = recurrence.inputs
    if not inputs or not inputs[0].is_floating_point():
        raise ArgumentError(
            "a recurrence that is given vectors",
            "none" if not inputs else str(inputs[0].dtype),
            "watch a model whose embedding stands before its recurrence",
        )
    live = recurrence.steps if recurrence.live is None else int(recurrence.live[:, lane].sum())
    if not 0 <= at < live:
        raise ArgumentError(f"a step from 0 to {live - 1}", str(at), "pick another prediction")
    found = torch.zeros(at + 1, dtype=torch.float64, device="cpu")
    delta = [d[at, lane : lane + 1] for d in direct]
    for s in range(at, -1, -1):
        x = inputs[0][s, lane : lane + 1].detach().requires_grad_()
        rest = tuple(i[s, lane : lane + 1] for i in inputs[1:])
        before = tuple(b[s, lane : lane + 1].detach().requires_grad_() for b in recurrence.before)
        with torch.enable_grad():
            after = recurrence.step((x, *rest), before)
        pairs = [(a, d) for a, d in zip(after, delta, strict=True) if a.requires_grad]
        dx, *passed = torch.autograd.grad(
            [a for a, _ in pairs], [x, *before], [d for _, d in pairs], allow_unused=True
        )
        found[s] = 0.0 if dx is None else float(dx.double().norm())
        if not bool(recurrence.link[s, lane]):
            break
        delta = [
            torch.zeros_like(b) if p is None else p for b, p in zip(before, passed, strict=True)
        ]
    return found

"""The contests with torch: whole sequences, single steps, and a character model's update."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from bptt.experiments.benchmark.contest import (
    TORCH,
    Case,
    Contest,
    Results,
    Side,
    check,
    side,
    tolerance,
)
from bptt.gradients import Full
from bptt.models import LanguageModel, token_loss
from bptt.models.stream import Stream
from bptt.remedies import ClipNorm
from bptt.training.fit import fit

# Whole sequences through a layer: training, inference, packed, with resets; beside torch's layer.

EPISODE = 20  # steps between resets, on average


def train(case: Case) -> Contest:
    """Forward and backward, gradients of all weights and of x."""
    x, dy = _sequence(case)
    mine, theirs = case.layers()
    return Contest(
        side(learner(mine, x, dy)),
        side(learner(theirs, x, dy)),
        flops=3 * case.step_flops * case.steps * case.lanes,
        terms=max(case.steps * case.lanes, case.hidden),
    )


def infer(case: Case) -> Contest:
    """Forward without gradient."""
    x, _ = _sequence(case)
    mine, theirs = case.layers()

    def forward(layer: nn.Module) -> Callable[[], Results]:
        def run() -> Results:
            with torch.no_grad():
                return named(layer(x))

        return run

    return Contest(
        side(forward(mine)),
        side(forward(theirs)),
        flops=case.step_flops * case.steps * case.lanes,
        terms=2 * case.hidden,
    )


def packed(case: Case) -> Contest:
    """Training on lengths from T/2 to T, packed; and our layer on the whole padded batch.

    And, in between, our layer on the padded batch with ``lengths=``, which spares the packing.
    """
    random = case.random()
    x = case.input(random)
    least = (case.steps + 1) // 2
    lengths = torch.randint(least, case.steps + 1, (case.lanes,), generator=random)
    packing = pack_padded_sequence(x, lengths, enforce_sorted=False)
    dy = torch.randn(packing.data.shape, generator=random)
    mine, theirs = case.layers()
    _, whole = _sequence(case)
    return Contest(
        side(learner(mine, packing, dy)),
        side(learner(theirs, packing, dy)),
        flops=3 * case.step_flops * int(lengths.sum()),
        terms=max(int(lengths.sum()), case.hidden),
        controls={
            "padded": learner(mine, x, whole),
            "lengths": learner(mine, x, whole, lengths=lengths),
        },
        extras={"filled": int(lengths.sum()) / (case.steps * case.lanes)},
        describe=lambda ours_over: {
            "ratio_to_padded": 1 / ours_over["padded"],
            "lengths_ratio_to_padded": ours_over["lengths"] / ours_over["padded"],
        },
    )


def reset(case: Case) -> Contest:
    """Training with resets inside the batch, against torch's layer called step by step."""
    x, dy = _sequence(case)
    random = case.random()
    marks = torch.rand(case.steps, case.lanes, generator=random) < 1 / EPISODE
    keep = (~marks).to(x.dtype)[:, None, :, None]
    mine, theirs = case.layers()

    def loop(x: Tensor):
        """What recurrent reinforcement learning does where the layer knows no resets."""
        state: Any = None
        outputs = []
        for t in range(case.steps):
            if isinstance(state, tuple):
                state = tuple(s * keep[t] for s in state)
            elif state is not None:
                state = state * keep[t]
            y, state = theirs(x[t : t + 1], state)
            outputs.append(y)
        return torch.cat(outputs), state

    return Contest(
        side(learner(mine, x, dy, reset=marks)),
        side(learner(theirs, x, dy, call=loop)),
        flops=3 * case.step_flops * case.steps * case.lanes,
        terms=max(case.steps * case.lanes, case.hidden),
        controls={"plain": learner(mine, x, dy)},
        extras={"resets": int(marks.sum())},
        describe=lambda ours_over: {"overhead": ours_over["plain"] - 1},
    )


def learner(
    layer: nn.RNNBase,
    x: Tensor | PackedSequence,
    dy: Tensor,
    call: Callable[..., Any] | None = None,
    **marks: Tensor,
) -> Callable[[], Results]:
    """One forward and backward: output, final state, gradients of x and of every weight.

    Args:
        layer: whose weights are learnt.
        x: input.
        dy: gradient of the loss on the output.
        call: what runs instead of the layer's own forward.
        marks: ``reset`` or ``lengths``.
    """
    names, weights = zip(*layer.named_parameters(), strict=True)
    given: Tensor | PackedSequence
    if isinstance(x, PackedSequence):
        leaf = x.data.detach().clone().requires_grad_()
        given = PackedSequence(leaf, *x[1:])
    else:
        given = leaf = x.detach().clone().requires_grad_()
    forward = layer if call is None else call

    def run() -> Results:
        result = named(forward(given, **marks))
        gradients = torch.autograd.grad(result["y"], (leaf, *weights), dy)
        for name, gradient in zip(("x", *names), gradients, strict=True):
            result[f"gradient of {name}"] = gradient
        return result

    return run


def named(returned: tuple[Any, Any]) -> Results:
    """What a layer returned, by name."""
    y, state = returned
    finals = state if isinstance(state, tuple) else (state,)
    y = y.data if isinstance(y, PackedSequence) else y
    return {"y": y, **dict(zip(("h", "c"), finals, strict=False))}


def _sequence(case: Case) -> tuple[Tensor, Tensor]:
    """x and the gradient on the output, both ``(T, B, H)``."""
    random = case.random()
    x = case.input(random)
    return x, torch.randn(case.steps, case.lanes, case.hidden, generator=random)


# One step at a time, one lane: :class:`bptt.streaming.Stream` beside torch's layer.


def ours(case: Case) -> tuple[Side, list[torch.Tensor]]:
    """T calls of ``Stream.step``, and the inputs ``(1, I)`` they take."""
    steps = list(case.input(case.random()).unbind())
    stream = Stream(case.layers()[0])

    def run() -> None:
        for x in steps:
            stream.step(x)

    def results() -> Results:
        stream.reset()
        outputs = [stream.step(x).clone() for x in steps]
        return {"y": torch.stack(outputs)}

    return Side(run, results), steps


def stream(case: Case) -> Contest:
    """T calls, each of one step, the state handed from one to the next."""
    mine, steps = ours(case)
    layer = case.layers()[1]
    inputs = [x.unsqueeze(0) for x in steps]

    def run() -> None:
        state: Any = None
        with torch.no_grad():
            for x in inputs:
                _, state = layer(x, state)

    def results() -> Results:
        state: Any = None
        outputs = []
        with torch.no_grad():
            for x in inputs:
                y, state = layer(x, state)
                outputs.append(y[0])
        return {"y": torch.stack(outputs)}

    return Contest(mine, Side(run, results), case.step_flops * case.steps, terms=2 * case.hidden)


# A character model's whole update: loss, gradients, clipping, AdamW; ours beside plain torch.

SYMBOLS = 96
CLIP = 1.0
RATE = 1e-3
CURVE = 10  # updates whose losses are compared
CHUNKS = 4
Updates = Callable[[nn.Module, Iterator], Iterator[float]]  # the loss of each


class PlainModel(nn.Module):
    """The model of every tutorial: embedding, torch's layer, linear."""

    def __init__(self, cell: str, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, hidden)
        self.recurrent = TORCH[cell](hidden, hidden)
        self.output = nn.Linear(hidden, SYMBOLS)

    def forward(self, tokens: Tensor) -> tuple[Tensor, object]:
        """Logits ``(T, B, V)`` and the final state."""
        y, state = self.recurrent(self.embedding(tokens))
        return self.output(y), state


def models(case: Case) -> tuple[nn.Module, nn.Module]:
    """Ours and the plain one, with the same weights."""
    random = case.random()
    plain = PlainModel(case.cell, case.hidden)
    with torch.no_grad():
        # An output layer that starts at zero, as LanguageModel's does, would hand a gradient of
        # zero to everything below it, and comparing zeros shows nothing.
        for weight in plain.parameters():
            weight.uniform_(-(case.hidden**-0.5), case.hidden**-0.5, generator=random)
        plain.embedding.weight.normal_(generator=random)
    mine = LanguageModel(SYMBOLS, case.cell, case.hidden)
    mine.load_state_dict(plain.state_dict())
    return mine, plain


def model(case: Case) -> Contest:
    """One update on a chunk of T·B characters."""
    random = case.random()
    shape = (CHUNKS, case.steps + 1, case.batch)
    text = torch.randint(SYMBOLS, shape, generator=random)
    # Neighbours agree more often than chance, so that there is something to learn.
    text[:, 1::2] = text[:, : (case.steps + 1) // 2 * 2 : 2]
    chunks = [(chunk[:-1], chunk[1:]) for chunk in text]
    mine, plain = models(case)
    limit = tolerance(case.steps * case.batch)
    # The losses of ten updates, not the weights after them: where a gradient is near zero AdamW
    # moves a weight by the sign of a rounding error, and the loss does not mind.
    curves = [
        _curve(copy.deepcopy(net), update, chunks)
        for net, update in ((mine, _our_updates), (plain, _plain_updates))
    ]
    curve_error = check({"loss curve": curves[0]}, {"loss curve": curves[1]}, limit, "torch")
    return Contest(
        _side(mine, token_loss, _our_updates, chunks),
        _side(plain, _plain_loss, _plain_updates, chunks),
        flops=_flops(case),
        terms=max(case.steps * case.batch, case.hidden),
        extras={"curve_error": curve_error, "symbols": SYMBOLS},
    )


def _flops(case: Case) -> float:
    """The products that have to be made: the input's once a symbol, the others once a character."""
    characters = case.steps * case.batch
    square = case.step_flops / 2  # of W_ih alone, and of W_hh alone
    output = 2 * case.hidden * SYMBOLS
    return 3 * (square * min(SYMBOLS, characters) + (square + output) * characters)


def _side(net: nn.Module, loss: Callable, update: Updates, chunks: list) -> Side:
    """Update after update on one copy; results of the first from another one."""
    untouched = copy.deepcopy(net)

    def results() -> Results:
        inputs, targets = chunks[0]
        untouched.zero_grad()
        logits = untouched(inputs)[0]
        value = loss(logits, targets)
        value.backward()
        gradients = {f"gradient of {n}": p.grad for n, p in untouched.named_parameters()}
        return {"logits": logits, "loss": value, **gradients}

    updates = update(net, cycle(chunks))
    return Side(lambda: next(updates), results)


def _curve(net: nn.Module, update: Updates, chunks: list) -> Tensor:
    updates = update(net, cycle(chunks))
    return torch.tensor([next(updates) for _ in range(CURVE)])


def _our_updates(net: nn.Module, chunks: Iterator) -> Iterator[float]:
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, fused=True)
    for done in fit(net, optimizer, chunks, Full(), token_loss, clip=ClipNorm(CLIP)):
        yield done.loss


def _plain_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.view(-1, SYMBOLS), targets.reshape(-1))


def _plain_updates(net: nn.Module, chunks: Iterator) -> Iterator[float]:
    """The loop of every tutorial, which ours is measured beside: it shares nothing with it."""
    weights = list(net.parameters())
    optimizer = torch.optim.AdamW(weights, lr=RATE, fused=True)
    for inputs, targets in chunks:
        logits, _ = net(inputs)
        value = _plain_loss(logits, targets)
        value.backward()
        nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        yield value.item()

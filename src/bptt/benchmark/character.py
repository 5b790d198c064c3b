"""A character model's whole update: loss, gradients, clipping, AdamW; ours beside plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.benchmark.case import TORCH, Case
from bptt.benchmark.contest import Contest, Results, Side
from bptt.benchmark.equality import check, tolerance
from bptt.models import LanguageModel, token_loss
from bptt.remedies import clip_norm

SYMBOLS = 96
CLIP = 1.0
RATE = 1e-3
CURVE = 10  # updates whose losses are compared
CHUNKS = 4


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

    def plain_loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.view(-1, SYMBOLS), targets.reshape(-1))

    def plain_clip(weights: list[Tensor]) -> None:
        nn.utils.clip_grad_norm_(weights, CLIP)

    def our_clip(weights: list[Tensor]) -> None:
        clip_norm(weights, CLIP)

    # The losses of ten updates, not the weights after them: where a gradient is near zero AdamW
    # moves a weight by the sign of a rounding error, and the loss does not mind.
    curves = [
        _curve(copy.deepcopy(net), loss, clip, chunks)
        for net, loss, clip in ((mine, token_loss, our_clip), (plain, plain_loss, plain_clip))
    ]
    curve_error = check({"loss curve": curves[0]}, {"loss curve": curves[1]}, limit, "torch")
    return Contest(
        _side(mine, token_loss, our_clip, chunks),
        _side(plain, plain_loss, plain_clip, chunks),
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


def _side(net: nn.Module, loss: Callable, clip: Callable, chunks: list) -> Side:
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

    updates = _updates(net, loss, clip, cycle(chunks))
    return Side(lambda: next(updates), results)


def _curve(net: nn.Module, loss: Callable, clip: Callable, chunks: list) -> Tensor:
    updates = _updates(net, loss, clip, cycle(chunks))
    return torch.tensor([next(updates) for _ in range(CURVE)])


def _updates(net: nn.Module, loss: Callable, clip: Callable, chunks: Iterator) -> Iterator[float]:
    weights = list(net.parameters())
    optimizer = torch.optim.AdamW(weights, lr=RATE, fused=True)
    for inputs, targets in chunks:
        logits, _ = net(inputs)
        value = loss(logits, targets)
        value.backward()
        clip(weights)
        optimizer.step()
        optimizer.zero_grad()
        yield value.item()

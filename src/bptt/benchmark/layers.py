"""Whole sequences through a layer: training, inference, packed, with resets; beside torch's layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from bptt.benchmark.case import Case
from bptt.benchmark.contest import Contest, Results, side

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

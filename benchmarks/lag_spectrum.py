"""What the gradient by lag costs, in passes of BPTT; and watching a training run, in percent.

.venv/bin/python benchmarks/lag_spectrum.py [--hidden 128] [--steps 256] [--batch 32] [--threads 2]

Interleaved medians: the probe over all lags against torch.nn's own forward and backward pass, equality
with autograd checked first; and steps of training with and without one that ``watch`` measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

import bptt
from bptt.probes import lag_spectrum
from bptt.recurrence import trace

EVERY = 50  # one step in so many is measured
OFTEN = 5  # and here, so that there are enough of them; odd, to stand in both places of a pair


@dataclass(frozen=True)
class Sizes:
    """What to measure."""

    hidden: int = 128
    steps: int = 256
    batch: int = 32
    threads: int = 2
    rounds: int = 5
    cells: tuple[str, ...] = ("RNN", "GRU", "LSTM")


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


def seconds(function: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(rounds: int, *functions: Callable[[], object]) -> list[float]:
    """Median seconds of each, run in turn so that a slow moment of the machine meets them all."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for kept, function in zip(times, functions, strict=True):
            kept.append(seconds(function))
    return [median(kept) for kept in times]


def long_memory(cell: str, size: Sizes) -> torch.nn.RNNBase:
    """A layer whose gradient lasts: no lag falls below rounding, so that none is saved."""
    module = getattr(torch.nn, cell)(size.hidden, size.hidden)
    with torch.no_grad():
        if cell == "RNN":
            torch.nn.init.orthogonal_(module.weight_hh_l0)
            module.weight_ih_l0.mul_(0.1)
        else:  # the update gate, the forget gate
            module.bias_hh_l0[size.hidden : 2 * size.hidden] += 4.0
    return module


def probe(cell: str, size: Sizes) -> None:
    """One row: all lags against passes of BPTT."""
    module = long_memory(cell, size)
    x = torch.randn(size.steps, size.batch, size.hidden)
    weight = torch.randn(size.steps, size.batch, size.hidden)

    def train() -> None:
        module.zero_grad()
        (module(x)[0] * weight).mean().backward()

    train()
    (recurrence,) = trace(module, x)
    direct = tuple(torch.zeros_like(a) for a in recurrence.after)
    direct[0].copy_(weight / weight.numel())
    spectrum = lag_spectrum(recurrence, direct)
    norm = sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None)
    error = abs(spectrum.gradient_norm / norm**0.5 - 1)
    if error > 1e-5:
        raise SystemExit(f"{cell}: the lags do not add up to autograd's gradient, {error:.1e}")
    passes, probed = interleaved(size.rounds, train, lambda: lag_spectrum(recurrence, direct))
    print(
        f"| {cell} | {len(spectrum.norms)} | {len(spectrum.truncations)} | {spectrum.horizon()} "
        f"| {probed / passes:.1f} | {error:.0e} |",
        flush=True,
    )


def watched(cell: str, size: Sizes, turns: int) -> None:
    """One row: two models alike, trained on the default text in turn, one of them watched.

    What one measurement adds and what any other step adds, medians of the differences; and from
    both, what watching every fiftieth adds to fifty steps. How many lags a measurement follows, and
    so what it costs, depends on what the model learns; the last one's number stands beside it.
    """
    text = bptt.data.default_text()
    vocabulary = bptt.data.CharVocabulary.from_text(text)
    tokens = vocabulary.encode(text)

    def trained() -> tuple[torch.nn.Module, Callable[[], None]]:
        torch.manual_seed(0)
        model = bptt.models.LanguageModel(vocabulary.size, cell.lower(), size.hidden)
        optimizer = torch.optim.Adam(model.parameters())
        chunks = bptt.data.RandomChunks(tokens, [0], batch=size.batch, chunk=size.steps, seed=0)

        def step() -> None:
            chunk = chunks.take()
            optimizer.zero_grad()
            logits, _ = model(torch.as_tensor(chunk.inputs).long())
            target = torch.as_tensor(chunk.targets).long()
            bptt.models.token_loss(logits, target).backward()
            optimizer.step()

        return model, step

    (_, plain), (model, observed) = trained(), trained()
    for _ in range(50):  # so that there is something learned to look at
        plain()
        observed()
    alone, measured, passed = [], [], []
    with bptt.watch(model, every=OFTEN) as flow:
        for turn in range(turns):
            pair = (plain, observed) if turn % 4 < 2 else (observed, plain)
            times = {function: seconds(function) for function in pair}
            alone.append(times[plain])
            kept = passed if turn % OFTEN else measured
            kept.append(times[observed] - times[plain])
    own, other = median(measured), median(passed)
    share = (own + (EVERY - 1) * other) / (EVERY * median(alone))
    print(
        f"| {cell} | {size.steps} | {1e3 * median(alone):.1f} ms | {1e3 * own:.1f} ms "
        f"| {int((flow.spectrum.norms > 0).sum())} | {1e6 * other:.0f} µs | {100 * share:.1f} % |",
        flush=True,
    )


def main(size: Sizes) -> None:
    """Print both tables."""
    torch.manual_seed(0)
    torch.set_num_threads(size.threads)
    print(f"torch {torch.__version__}, {size}\n")
    print("| cell | lags | K | horizon | passes of BPTT | error |\n|---|--:|--:|--:|--:|--:|")
    for cell in size.cells:
        probe(cell, size)
    heads = ("model", "T", "a step", "a measurement", "lags", "another step", "of every 50th step")
    print(f"\n| {' | '.join(heads)} |\n|---{'|--:' * 6}|")
    for steps in sorted({min(size.steps, 64), size.steps}):
        for cell in size.cells:
            watched(cell, Sizes(**{**vars(size), "steps": steps}), 120 * size.rounds)


if __name__ == "__main__":
    main(tyro.cli(Sizes))

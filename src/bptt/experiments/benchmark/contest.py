"""Two sides of a measurement of one case: equal results first, then times taken in turns."""

from __future__ import annotations

import gc
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bptt import nn as ours
from bptt.errors import BpttError
from bptt.ops.cells import BY_NAME

# The machine: its name, and the rate its matrix product reaches.

SIZE = 1024


def machine_name() -> str:
    """Processor, cores this process may use, operating system and torch, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}"
    return f"{_processor()}, {cores} cores, {system}, torch {torch.__version__}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text("utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or "unknown processor"


def matmul_rate(seconds: float) -> float:
    """float32 operations a second of torch's 1024³ matrix product, on the threads that are set.

    Args:
        seconds: to spend on it; the median is taken of three products at least.
    """
    a, b = torch.ones(SIZE, SIZE), torch.ones(SIZE, SIZE)
    out = torch.empty(SIZE, SIZE)
    torch.mm(a, b, out=out)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        taken.append(time.perf_counter() - began)
    return 2 * SIZE**3 / statistics.median(taken)


# What one row measures: a cell at one size in one mode against one peer, and its inputs.

OURS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": ours.RNN, "gru": ours.GRU, "lstm": ours.LSTM}
TORCH: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@dataclass(frozen=True)
class Case:
    """One row to be.

    Attributes:
        cell: ``"rnn"`` (tanh), ``"gru"`` or ``"lstm"``.
        hidden: H, and the input size I as well.
        batch: B; a stream has one lane whatever this says.
        steps: T.
        mode: ``"train"``, ``"infer"``, ``"packed"``, ``"reset"``, ``"stream"`` or ``"model"``.
        peer: ``"torch"``, ``"jax"``, ``"onnxruntime"`` or ``"openvino"``.
        seed: of weights and inputs.
        seconds: time budget of the measurement.
    """

    cell: str
    hidden: int
    batch: int
    steps: int
    mode: str
    peer: str = "torch"
    seed: int = 0
    seconds: float = 2.0

    @property
    def lanes(self) -> int:
        """B of what really runs."""
        return 1 if self.mode == "stream" else self.batch

    @property
    def step_flops(self) -> int:
        """Floating-point operations of the layer's matrix products, forward, for one step of one lane.

        2·G·H·(I + H) with I = H; a training step takes three times as many.
        """
        return 2 * BY_NAME[self.cell].gates * self.hidden * 2 * self.hidden

    def random(self) -> torch.Generator:
        """A fresh generator: the same case has the same inputs, whatever ran before it."""
        return torch.Generator().manual_seed(self.seed)

    def input(self, random: torch.Generator) -> Tensor:
        """x ``(T, B, I)``."""
        return torch.randn(self.steps, self.lanes, self.hidden, generator=random)

    def layers(self) -> tuple[nn.RNNBase, nn.RNNBase]:
        """Our layer and torch's, with the same weights as torch draws them."""
        random = self.random()
        theirs = TORCH[self.cell](self.hidden, self.hidden)
        with torch.no_grad():
            for weight in theirs.parameters():
                weight.uniform_(-(self.hidden**-0.5), self.hidden**-0.5, generator=random)
        mine = OURS[self.cell](self.hidden, self.hidden)
        mine.load_state_dict(theirs.state_dict())
        return mine, theirs


# Two sides of a measurement. What is timed is what is compared.

Results: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Side:
    """One competitor.

    Attributes:
        run: the work that is timed.
        results: the same work, its results handed over by name; untimed.
    """

    run: Callable[[], Any]
    results: Callable[[], Results]


@dataclass(frozen=True)
class Contest:
    """Two sides that must agree before they are timed.

    Attributes:
        ours, peer: the sides.
        flops: of the matrix products in one run.
        terms: the longest sum behind one number of the results, in products; sets the tolerance.
        controls: our own variants, timed in the same rounds, by name.
        extras: what else the row says, known without timing.
        describe: from the median of our time over each control's to keys of the row.
    """

    ours: Side
    peer: Side
    flops: float
    terms: int
    controls: dict[str, Callable[[], Any]] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    describe: Callable[[dict[str, float]], dict[str, float]] = lambda ratios: {}


def side(run: Callable[[], Results]) -> Side:
    """A side whose run hands its results over by itself."""
    return Side(run, run)


# Equal results first: the check without which no figure is printed.


class UnequalError(BpttError, ArithmeticError):
    """Two implementations that should agree do not; nothing they took may be reported."""


def tolerance(terms: int) -> float:
    """The largest error that float32 explains, relative to a tensor's largest magnitude.

    Every number compared is a sum of at most ``terms`` products, added up in another order by either
    side. Rounding errors of such sums grow like a random walk, ε·√terms with ε = 2⁻²³; the steps
    behind it (H products each) shrink the errors they inherit, as weights drawn from ±1/√H do.
    A factor of 16 covers the deviation of the largest among a million entries (about five), tanh and
    sigmoid good to a few ulp, and a sum that cancels to a part of its terms. A gradient with one
    term missing, or with one step out of place, is off by 10⁻² and more.
    """
    return 16 * torch.finfo(torch.float32).eps * math.sqrt(terms)


def error(ours: torch.Tensor, peer: torch.Tensor) -> float:
    """max |ours − peer| / max |peer|, in float64; infinite where it cannot be told.

    Where the peer is zero throughout (the gradient of W_hh when every sequence has one step), so
    must ours be.
    """
    if ours.shape != peer.shape:
        return math.inf
    ours, peer = ours.detach().double(), peer.detach().double()
    scale = peer.abs().max().item()
    worst = (ours - peer).abs().max().item()
    if worst == 0:
        return 0.0
    return worst / scale if scale and math.isfinite(worst) else math.inf


def check(ours: Results, peer: Results, limit: float, peer_name: str) -> float:
    """Compare all results by name.

    Returns:
        The largest of their errors.

    Raises:
        UnequalError: a result is missing on one side, is not finite, or is further from the peer's
            than ``limit``.
    """
    if ours.keys() != peer.keys() or not ours:
        raise UnequalError(
            f"the results that {peer_name} has: {', '.join(peer)}",
            ", ".join(ours) or "none",
            "compare the same quantities on both sides",
        )
    errors = {name: error(ours[name], peer[name]) for name in ours}
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= limit:
        raise UnequalError(
            f"{worst} equal to {peer_name}'s within {limit:.1e} of its largest magnitude",
            f"an error of {errors[worst]:.1e}",
            "no time is reported for unequal results; run the tests, and report this",
        )
    return errors[worst]


# Times taken in turns, so that whatever slows the machine down slows every competitor down.

LEAST = 3  # rounds, however small the budget


@dataclass(frozen=True)
class Times:
    """Seconds of every competitor in every round.

    Attributes:
        rounds: ``rounds[r][i]``, competitor i in round r.
    """

    rounds: list[list[float]]

    def median(self, i: int) -> float:
        """Seconds of competitor i."""
        return statistics.median(each[i] for each in self.rounds)

    def ratios(self, above: int, below: int) -> list[float]:
        """Time of one competitor over that of another, round by round."""
        return [each[above] / each[below] for each in self.rounds]


def take_turns(competitors: list[Callable[[], Any]], seconds: float) -> Times:
    """Run the competitors one after the other, again and again, until the time is used up.

    The order alternates, so that none always runs in the caches another one left. A tenth of the
    time, one round at least, is warm-up. The garbage collector is off meanwhile.
    """
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        warm = 0
        rounds: list[list[float]] = []
        while warm < 1 or time.perf_counter() - began < seconds / 10:
            _round(competitors, backwards=False)
            warm += 1
        began = time.perf_counter()
        while len(rounds) < LEAST or time.perf_counter() - began < seconds:
            rounds.append(_round(competitors, backwards=len(rounds) % 2 == 1))
    finally:
        if collecting:
            gc.enable()
    return Times(rounds)


def _round(competitors: list[Callable[[], Any]], backwards: bool) -> list[float]:
    order = range(len(competitors))
    taken = [0.0] * len(competitors)
    for i in reversed(order) if backwards else order:
        began = time.perf_counter()
        competitors[i]()
        taken[i] = time.perf_counter() - began
    return taken


def quartiles(values: list[float]) -> list[float]:
    """The first and the third."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]

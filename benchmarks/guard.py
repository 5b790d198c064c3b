"""What a guard finds, what it says in vain, and what it costs.

.venv/bin/python benchmarks/guard.py [--seconds 20]

First the loops of tests/faulty_loops.py, healthy_loops.py and tutorial_loops.py: recall is the share of
mistakes that were named with the right code, precision the share of findings that were right. Then a
training step with the guard beside the same without it, in turns of 12 updates whose median counts; equal
losses first, then CPU time, one thread. The guard looks closely at the first 64 updates and at 8 of each
512 after that, and rests at all others: each has a column, and the last one is their mean over 512. The
row "none" is the same pair without any guard: what the machine adds.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch import nn
from torch.nn.utils import clip_grad_norm_

import bptt
from bptt.experiments.benchmark.contest import quartiles
from bptt.probes.guard.observe import BURST, CYCLE, FIRST

VOCABULARY, HIDDEN, LANES, STEPS, TURN = 64, 128, 16, 64, 12


@dataclass(frozen=True)
class Asked:
    """What to run."""

    seconds: float = 20.0
    """Time for each row."""
    loops: bool = True
    """Run the loops too."""


class Model(nn.Module):
    """Tokens to logits."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(VOCABULARY, 32), layer(32, HIDDEN, batch_first=True)
        self.out = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, x, h):
        """Logits and the state."""
        y, h = self.rnn(self.embed(x), h)
        return self.out(y), h


class Run:
    """A model in training on a text."""

    def __init__(self, layer: type[nn.RNNBase], guarded: bool, clip: bool = True) -> None:
        torch.manual_seed(0)
        self.model, self.h, self.i, self.clip = Model(layer), None, 0, clip
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)
        self.text = torch.randint(VOCABULARY, (LANES, 200 * STEPS + 1))
        self.guard = bptt.guard(self.model, self.optimizer, measure_every=None) if guarded else None

    def turn(self) -> tuple[list[float], float]:
        """A few updates: losses, and the median CPU time of one."""
        losses, times = [], []
        if self.guard is not None:
            self.guard.__enter__()
        for _ in range(TURN):
            a = self.i % 200 * STEPS
            x, y = self.text[:, a : a + STEPS], self.text[:, a + 1 : a + STEPS + 1]
            before = time.process_time()
            self.optimizer.zero_grad()
            logits, h = self.model(x, self.h)
            self.h = tuple(s.detach() for s in h) if isinstance(h, tuple) else h.detach()
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            loss.backward()
            if self.clip:
                clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimizer.step()
            times.append(time.process_time() - before)
            losses.append(loss.item())
            self.i += 1
        if self.guard is not None:
            self.guard.__exit__(None, None, None)
        return losses, statistics.median(times)


def found() -> None:
    """Print precision and recall over both lists of loops."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import faulty_loops
    import healthy_loops
    import tutorial_loops

    with_one = faulty_loops.LOOPS | tutorial_loops.FAULTY
    without = healthy_loops.LOOPS | tutorial_loops.HEALTHY
    named = said = right = 0
    for entry in with_one.values():
        codes = _codes(entry.run, entry.setting())
        named += entry.code in codes
        right += codes.count(entry.code)
        said += len(codes)
    false = sum(len(_codes(run, setting())) for run, setting in without.values())
    faulty, healthy = len(with_one), len(without)
    print(f"{faulty} faulty loops: {named} named, recall {named / faulty:.3f}")
    print(
        f"{healthy} healthy loops: {false} findings, precision {right / max(said + false, 1):.3f}\n"
    )


def _codes(run, setting) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with bptt.guard(setting.model, setting.optimizer) as guard:
                setting.guard = guard
                run(setting)
        except RuntimeError:
            pass  # torch's own last word about some mistakes
    return [finding.code for finding in guard.findings]


PAIRS: dict[str, tuple[type[nn.RNNBase], bool, bool]] = {
    "none": (bptt.nn.GRU, False, True),
    "bptt.nn.RNN": (bptt.nn.RNN, True, True),
    "bptt.nn.GRU": (bptt.nn.GRU, True, True),
    "bptt.nn.LSTM": (bptt.nn.LSTM, True, True),
    "torch.nn.LSTM": (nn.LSTM, True, True),
    "bptt.nn.RNN, not clipped": (bptt.nn.RNN, True, False),
}
"""Layer, whether there is a guard, whether the loop clips."""


def main(asked: Asked) -> None:
    """Print precision, recall, and one row a pair."""
    torch.set_num_threads(1)
    if asked.loops:
        found()
    print(f"torch {torch.__version__}, 1 thread, H={HIDDEN}, B={LANES}, T={STEPS}, "
          f"{bptt.ops.backend().setting}\n")  # fmt: skip
    print("| layer | step, ms | looked at closely | at rest | quartiles | turns | mean of 512 |\n"
          "|---|--:|--:|--:|---|--:|--:|")  # fmt: skip
    for name, (layer, guarded, clip) in PAIRS.items():
        runs = [Run(layer, False, clip), Run(layer, guarded, clip)]
        pair(runs)  # what is loaded on the first calls
        close = statistics.median(pair(runs)[0] for _ in range(FIRST // TURN - 1))
        pair(runs)
        ratios, times = [], []
        end = time.monotonic() + asked.seconds
        while time.monotonic() < end or len(ratios) < 3:
            ratio, one = pair(runs, swap=len(ratios) % 2 == 1)
            ratios.append(ratio)
            times.append(one)
        (low, high), rest = quartiles(ratios), statistics.median(ratios)
        mean = rest + (close - rest) * BURST / CYCLE
        print(f"| {name} | {1e3 * statistics.median(times):.2f} | {close:.3f} | {rest:.3f} | "
              f"{low:.3f} … {high:.3f} | {len(ratios)} | {mean:.3f} |", flush=True)  # fmt: skip


def pair(runs: list[Run], swap: bool = False) -> tuple[float, float]:
    """A turn of each: the ratio of their times, and the first's."""
    order = (1, 0) if swap else (0, 1)
    done = {place: runs[place].turn() for place in order}
    if done[0][0] != done[1][0]:
        raise SystemExit("the guard changed a loss")
    return done[1][1] / done[0][1], done[0][1]


if __name__ == "__main__":
    main(tyro.cli(Asked))

"""On a GPU: are the results right, and what do they cost beside others'? Under eight minutes.

    TRITON_INTERPRET=0 python benchmarks/gpu.py [--hidden 64 256] [--batch 64] [--steps 256] [--minutes 7]

First every way a layer may be run on CUDA is compared with the same layer in float64 on the CPU, which
answers to the NumPy reference: outputs, final states and every gradient, with and without marks. A way
that is off is not timed. Then a forward and a backward pass are timed by the GPU's own clock, in turns,
beside torch's layer (cuDNN), a scan that torch compiled and, where they are installed, FlashRNN and
TorchRL's Triton kernels, which are compared with ours first. One table. TF32 is off for all of them.

A peer that cannot be run is a row that says why. Without a GPU the script ends in one line.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import bptt
from bptt import ops
from bptt.errors import BpttError
from bptt.ops import eager, split, triton

MODES = {"RNN": "RNN_TANH", "GRU": "GRU", "LSTM": "LSTM"}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
MARKS = ("none", "lengths and reset", "cut")
# float32 sums of some hundred terms; bfloat16 rounds a state before each product.
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 6e-2}
WARM_UPS, REPEATS, LEAST = 3, 30, 0.15  # calls, calls, and seconds of a measurement
# What another package may raise where it does not run here.
FAILURES = (RuntimeError, ImportError, NotImplementedError, TypeError, ValueError, AttributeError)
Run = Callable[[], list[Tensor]]


@dataclass
class Problem:
    """One layer, its input and its marks, on one device."""

    cell: str
    hidden: int
    batch: int
    steps: int
    marks: str
    dtype: torch.dtype
    device: torch.device

    def __post_init__(self) -> None:
        source = torch.Generator("cpu").manual_seed(0)
        H, B, T = self.hidden, self.batch, self.steps

        def drawn(*shape: int, scale: float = 1.0) -> Tensor:
            value = torch.randn(*shape, generator=source, dtype=torch.float64) * scale
            return value.to(self.device, self.dtype).requires_grad_()

        rows = GATES[self.cell] * H
        self.x = drawn(T, B, H)
        self.weights = [
            drawn(rows, H, scale=H**-0.5),
            drawn(rows, H, scale=H**-0.5),
            drawn(rows),
            drawn(rows),
        ]
        self.state = tuple(drawn(B, H) for _ in range(1 + (self.cell == "LSTM")))
        self.dy = drawn(T, B, H).detach()
        lengths = torch.randint(1, T + 1, (B,), generator=source)
        marked = torch.rand(T, B, generator=source) < 4 / T
        self.given: dict[str, Tensor] = {}
        if self.marks == "lengths and reset":
            self.given = {"lengths": lengths.to(self.device), "reset": marked.to(self.device)}
        elif self.marks == "cut":
            self.given = {"cut": marked.to(self.device)}

    @property
    def leaves(self) -> list[Tensor]:
        """What is differentiated."""
        return [self.x, *self.state, *self.weights]

    def differentiated(
        self, y: Tensor, final: tuple[Tensor, ...], leaves: list[Tensor]
    ) -> list[Tensor]:
        """Outputs and gradients of one loss."""
        loss = (y * self.dy).sum() + sum(s.sum() for s in final)
        return [y.detach(), *(s.detach() for s in final), *torch.autograd.grad(loss, leaves)]

    def on(self, device: str, dtype: torch.dtype) -> Problem:
        """The same numbers elsewhere."""
        made = replace(self, dtype=dtype, device=torch.device(device))
        for mine, other in zip(self.leaves, made.leaves, strict=True):
            other.data.copy_(mine.detach())
        made.dy.copy_(self.dy)
        return made


def by(run: Callable[..., Any], problem: Problem) -> Run:
    """One of our ways to run a layer, forward and backward."""

    def once() -> list[Tensor]:
        mode = MODES[problem.cell]
        y, final = run(mode, problem.x, problem.state, tuple(problem.weights), **problem.given)
        return problem.differentiated(y, tuple(final), problem.leaves)

    return once


def in_a_layer(problem: Problem, package: Any = torch.nn) -> Run:
    """torch's own layer, or ours, with the same weights."""
    layer = getattr(package, problem.cell)(problem.hidden, problem.hidden)
    layer = layer.to(problem.device, problem.dtype)
    with torch.no_grad():
        for mine, other in zip(layer.parameters(), problem.weights, strict=True):
            mine.copy_(other)
    leaves = [problem.x, *problem.state, *layer.parameters()]

    def once() -> list[Tensor]:
        states = tuple(s.unsqueeze(0) for s in problem.state)
        y, final = layer(
            problem.x, states if problem.cell == "LSTM" else states[0], **problem.given
        )
        ended = final if isinstance(final, tuple) else (final,)
        return problem.differentiated(y, tuple(s[0] for s in ended), leaves)

    return once


def in_a_compiled_scan(problem: Problem) -> Run:
    """torch's scan over our step, compiled."""
    from torch._higher_order_ops.scan import scan

    w_ih, w_hh, b_ih, b_hh = problem.weights
    step = eager._STEPS[MODES[problem.cell]](w_hh, b_hh)

    def combine(state: tuple[Tensor, ...], xp: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        new = step(xp, state)
        return new, new[0].clone()

    @torch.compile(fullgraph=True)
    def forward(x: Tensor, state: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        return scan(combine, state, torch.nn.functional.linear(x, w_ih, b_ih))

    def once() -> list[Tensor]:
        final, y = forward(problem.x, problem.state)
        return problem.differentiated(y, final, problem.leaves)

    return once


def in_torchrl(problem: Problem) -> Run:
    """TorchRL's Triton kernels, which reset too; batch first."""
    from torchrl.modules.tensordict_module import _rnn_triton

    function = {"GRU": _rnn_triton.gru_triton, "LSTM": _rnn_triton.lstm_triton}[problem.cell]
    reset = problem.given.get("reset")
    T, B = problem.x.shape[:2]

    def once() -> list[Tensor]:
        first = (
            torch.zeros(B, T, dtype=torch.bool, device=problem.device)
            if reset is None
            else reset.t()
        )
        # A state for each step, of which the first is read, and the others where a sequence begins.
        states = [
            torch.cat([s.unsqueeze(1), s.new_zeros(B, T - 1, s.shape[1])], 1) for s in problem.state
        ]
        found = function(
            problem.x.transpose(0, 1).contiguous(), *states, *problem.weights, first.contiguous(),
            input_precision="ieee",
        )  # fmt: skip
        final = found[1:] if problem.cell == "GRU" else found[-2:]
        return problem.differentiated(found[0].transpose(0, 1), tuple(final), problem.leaves)

    return once


def in_flashrnn(problem: Problem) -> Iterator[Run]:
    """FlashRNN, with the input's product outside it; its order of gates and axes is found by trying."""
    from flashrnn import flashrnn

    w_ih, w_hh, b_ih, b_hh = problem.weights
    gates, H = GATES[problem.cell], problem.hidden
    function = {"RNN": "elman", "LSTM": "lstm"}[problem.cell]  # its GRU gates another product
    T, B = problem.x.shape[:2]
    for order, flipped in itertools.product(itertools.permutations(range(gates)), (False, True)):

        def once(order: tuple[int, ...] = order, flipped: bool = flipped) -> list[Tensor]:
            xp = torch.nn.functional.linear(problem.x, w_ih, b_ih)
            xp = xp.view(T, B, gates, 1, H).transpose(0, 1)[:, :, list(order)].contiguous()
            square = w_hh.view(gates, 1, H, H)[list(order)]
            square = square.transpose(2, 3).contiguous() if flipped else square.contiguous()
            begin = torch.stack([s.view(B, 1, 1, H) for s in problem.state])
            bias = b_hh.view(gates, 1, H)[list(order)].contiguous()
            states, last = flashrnn(
                xp, square, bias, states=begin, function=function, backend="cuda_fused"
            )
            y = states[0].reshape(B, T, H).transpose(0, 1)
            return problem.differentiated(y, tuple(s.reshape(B, H) for s in last), problem.leaves)

        yield once


def ours(problem: Problem) -> dict[str, Run]:
    """Every way in which this package may run the problem, and what `auto` takes."""
    found = {"auto": in_a_layer(problem, bptt.nn)}
    mode, weights = MODES[problem.cell], tuple(problem.weights)
    if triton.covers(mode, problem.x, problem.state, weights) is None:
        held = triton.holds(mode, problem.weights[1], problem.x.shape[0] * problem.x.shape[1])
        found[f"triton, {'one launch' if held else 'step by step'}"] = by(triton.recur, problem)
    if problem.given and "cut" not in problem.given:
        found["lanes split, torch's layer"] = by(split.recur, problem)
    return found


def peers(problem: Problem) -> dict[str, Callable[[], Iterator[Run]]]:
    """Others that compute the same, by name; what makes one may raise."""

    def one(make: Callable[[Problem], Run]) -> Callable[[], Iterator[Run]]:
        return lambda: iter([make(problem)])

    found: dict[str, Callable[[], Iterator[Run]]] = {}
    if not problem.given:
        found["torch's layer (cuDNN)"] = one(in_a_layer)
        found["torch.compile'd scan"] = one(in_a_compiled_scan)
        if problem.cell != "GRU":
            found["FlashRNN"] = lambda: in_flashrnn(problem)
    if problem.cell != "RNN" and set(problem.given) <= {"reset"}:
        found["TorchRL, triton"] = one(in_torchrl)
    return found


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest error, in units of each array's own largest number."""
    errors = []
    for mine, other in zip(found, expected, strict=True):
        other = other.detach().double().cpu()
        error = (mine.detach().double().cpu() - other).abs().max()
        errors.append(float(error / other.abs().max().clamp(min=0.1)))
    return max(errors) if all(e == e for e in errors) else float("nan")


def milliseconds(run: Run) -> float:
    """Median of a pass, by the GPU's clock."""
    for _ in range(WARM_UPS):
        run()
    torch.cuda.synchronize()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < REPEATS and (len(times) < 5 or time.perf_counter() - began < LEAST):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def line(problem: Problem, name: str, error: str, took: str, note: str = "") -> str:
    """A row of the table."""
    sizes = f"{problem.cell:4} {problem.hidden:5} {str(problem.dtype)[6:]:9}{problem.marks:18}"
    return f"{sizes} {name:28} {error:>9} {took:>9}  {note}".rstrip()


def compare(problem: Problem, clock: Callable[[Run], float], end: float) -> Iterator[str]:
    """Check every way and every peer, and time those that are right."""
    limit = TOLERANCE[problem.dtype]
    exact = problem.on("cpu", torch.float64)
    expected = by(eager.recur, exact)()
    base: float | None = None
    for name, run in ours(problem).items():
        if time.perf_counter() > end:
            yield line(problem, name, "-", "-", "not run: the time is up")
            continue
        error = worst(run(), expected)
        ran = f"ran on {ops.backend().runs}" if name == "auto" else ""
        if not error <= limit:
            yield line(problem, name, f"{error:.1e}", "-", f"WRONG: more than {limit:g}")
            continue
        took = clock(run)
        base = took if name == "auto" else base
        yield line(problem, name, f"{error:.1e}", f"{took:.3f}", ran)
    for name, make in peers(problem).items():
        if time.perf_counter() > end:
            yield line(problem, name, "-", "-", "not run: the time is up")
            continue
        try:
            right = next((run for run in make() if worst(run(), expected) <= limit), None)
            if right is None:
                yield line(problem, name, "-", "-", "not timed: its results are others")
                continue
            error, took = worst(right(), expected), clock(right)
        except FAILURES as reason:
            said = str(reason).partition("\n")[0][:80] or type(reason).__name__
            yield line(problem, name, "-", "-", f"not run: {type(reason).__name__}: {said}")
            continue
        ratio = "" if base is None else f"{took / base:.2f} of ours"
        yield line(problem, name, f"{error:.1e}", f"{took:.3f}", ratio)


def problems(asked: argparse.Namespace, device: torch.device) -> Iterator[Problem]:
    """The grid: small and large states, three cells, three kinds of marks, two dtypes."""
    for hidden in asked.hidden:
        for cell, marks in itertools.product(MODES, MARKS):
            yield Problem(cell, hidden, asked.batch, asked.steps, marks, torch.float32, device)
    for cell in MODES:
        yield Problem(
            cell, asked.hidden[0], asked.batch, asked.steps, "none", torch.bfloat16, device
        )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--minutes", type=float, default=7.0)
    asked = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        print(
            "gpu.py: expected Triton's compiler, received TRITON_INTERPRET=1: unset it",
            file=sys.stderr,
        )
        return 1
    try:
        device = ops.device.choose("cuda")
    except BpttError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 1
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    end = time.perf_counter() + 60 * asked.minutes
    print(
        f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, bptt {bptt.__version__}"
    )
    print(f"B={asked.batch}, T={asked.steps}, I=H; forward and backward, ms; error against float64")
    wrong = False
    for problem in problems(asked, device):
        for row in compare(problem, milliseconds, end):
            wrong |= "WRONG" in row
            print(row, flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())

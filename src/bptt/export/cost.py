"""What an export costs: in exactness by quantisation, and in flash, RAM and instructions on a board."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.errors import ArgumentError, DependencyError, RunError
from bptt.export.c import Export
from bptt.export.quantise import UNIT_BITS, QLinear, QNetwork, QRecurrent, Simulator, q_input

# What quantisation costs: the integer network beside the float one on the same data, never reset.

_CHUNK = 1000


@dataclass(frozen=True)
class Cost:
    """The integer network against the float one, one stream, the states of both never reset.

    Attributes:
        steps: time steps compared.
        float_bits, int8_bits: mean bits per token of predicting the next token; None for
            other networks.
        agreement: share of steps at which both have the same largest output (1 for one output).
        largest_output_error: over all steps and outputs, in real units.
        largest_state_error: over all steps and units of h, in real units.
        early_error, late_error: root mean square of the state's error over the first and the last
            tenth of the steps. A state that drifts has a late error far above the early one.
    """

    steps: int
    float_bits: float | None
    int8_bits: float | None
    agreement: float
    largest_output_error: float
    largest_state_error: float
    early_error: float
    late_error: float

    @property
    def more_bits(self) -> float | None:
        """Bits per token more than float, as a share: 0.01 is one per cent."""
        if self.float_bits is None or self.int8_bits is None:
            return None
        return self.int8_bits / self.float_bits - 1.0

    @property
    def drifts(self) -> bool:
        """Whether the state's error at the end is over twice that at the beginning."""
        return self.late_error > 2.0 * self.early_error + 2.0**-UNIT_BITS

    def as_dict(self) -> dict[str, float | bool | None]:
        """What ``bptt export --json`` prints."""
        return {**asdict(self), "more_bits": self.more_bits, "drifts": self.drifts}


def measure_cost(q: QNetwork, inputs: NDArray[Any]) -> Cost:
    """Run both networks over one stream.

    Args:
        q: the integer network; it knows the float one.
        inputs: (T, I) reals or (T,) tokens, at least 20 steps. The state is zero before the first.

    Raises:
        ArgumentError: fewer than 20 steps.

    Cost: T steps of both in NumPy, about 0.2 ms each at H = 128.
    """
    steps = len(inputs) - (1 if q.network.tokens else 0)
    if steps < 20:
        raise ArgumentError("at least 20 steps to compare", str(steps), "give a longer stretch")
    predicts = q.network.tokens == q.network.output_size
    final = q.layers[-1]
    relative = isinstance(final, QLinear) and final.relative
    simulator, states = Simulator(q), q.network.zeros(1)
    units = [2.0**-r.state_shift for r in q.layers if isinstance(r, QRecurrent)]
    nats = np.zeros(2)
    same, worst_output, worst_state = 0, 0.0, 0.0
    squares = np.zeros(steps)
    for start in range(0, steps, _CHUNK):
        x = inputs[start : min(start + _CHUNK, steps)]
        taken = x[:, None] if q.network.tokens else q_input(q, x)[:, None]
        trace = q.network.run(x[:, None], states)
        states = trace.states
        exact = [
            values[:, 0]
            for layer, values in zip(q.network.layers, trace.layers, strict=True)
            if layer in q.network.recurrent
        ]
        outputs = np.empty_like(trace.output[:, 0])
        for t, value in enumerate(taken):
            outputs[t] = simulator.step(value)[0] * 2.0**-q.output_shift
            errors = [
                s[0][0] * unit - h[t]
                for s, unit, h in zip(simulator.states, units, exact, strict=True)
            ]
            squares[start + t] = np.mean([np.mean(e**2) for e in errors])
            worst_state = max(worst_state, *(float(np.abs(e).max()) for e in errors))
        wanted = trace.output[:, 0]
        if relative:
            # Both less their largest, and what int8 cannot show left out of the error, not the bits.
            outputs -= 127 * 2.0**-q.output_shift
            shown = np.maximum(wanted - wanted.max(1, keepdims=True), -255 * 2.0**-q.output_shift)
        else:
            shown = wanted
        worst_output = max(worst_output, float(np.abs(outputs - shown).max()))
        same += int((outputs.argmax(1) == wanted.argmax(1)).sum())
        if predicts:
            targets = inputs[start + 1 : start + 1 + len(x)]
            nats += [_nats(wanted, targets), _nats(outputs, targets)]
    tenth = steps // 10
    bits = nats / steps / math.log(2)
    return Cost(
        steps,
        float(bits[0]) if predicts else None,
        float(bits[1]) if predicts else None,
        same / steps,
        worst_output,
        worst_state,
        float(np.sqrt(squares[:tenth].mean())),
        float(np.sqrt(squares[-tenth:].mean())),
    )


def _nats(logits: NDArray[np.float64], targets: NDArray[np.generic]) -> float:
    """Summed negative log-likelihood."""
    top = logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    return float((log_sum - logits[np.arange(len(targets)), targets]).sum())


# What an exported network takes on an emulated Cortex-M: flash, RAM, instructions a step.
#
# Limits: works in a checkout only, which has ``examples/device`` with the Makefile, the start-up code and
# the program that counts; needs make, gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm.

EXAMPLES = Path(__file__).parents[3] / "examples" / "device"
PROGRAMS = ("make", "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
# QEMU's mps2-an386 and microbit run at these clocks; SysTick counts them.
CLOCKS = {"cortex-m4f": 25e6, "cortex-m0": 16e6}
_NANOSECONDS = 1e9  # one a second an instruction, under -icount shift=0


@dataclass(frozen=True)
class BoardCost:
    """What one network takes on one board.

    Attributes:
        flash: bytes of code and weights, without a C library.
        state, stack: bytes of RAM.
        instructions: of one step. A core takes a cycle for most of them and more for loads, branches
            and divisions.
        clock: of the board, in Hz.
    """

    flash: int
    state: int
    stack: int
    instructions: int
    clock: float

    @property
    def milliseconds(self) -> float:
        """Of a step at one instruction a cycle: no core of this kind is faster."""
        return 1e3 * self.instructions / self.clock


def missing_tools() -> list[str]:
    """What :func:`measure_on_board` needs and does not find here."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    return lacking if EXAMPLES.is_dir() else [*lacking, "examples/device of the repository"]


def make(*words: str) -> str:
    """Call the Makefile of ``examples/device``; what it printed.

    Raises:
        DependencyError: a tool is missing.
        RunError: it failed; with the last line it said.
    """
    if lacking := missing_tools():
        raise DependencyError(
            "a compiler and an emulator for Cortex-M", f"no {', '.join(lacking)}",
            "apt-get install make gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
        )  # fmt: skip
    command = ["make", "-s", "-C", str(EXAMPLES), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise RunError("the program to build and run", said, "see the message of make")
    return done.stdout


def measure_on_board(export: Export, board: str, build: Path) -> BoardCost:
    """Build an exported network for a board, check it there, and count.

    The network's own example runs first and must agree with Python.

    Args:
        export: written to a folder.
        board: ``"cortex-m4f"`` or ``"cortex-m0"``.
        build: a folder for what is built.

    Raises:
        ArgumentError: an unknown board, or an export without a folder.
        DependencyError: a tool is missing; see :func:`missing_tools`.
        RunError: it does not fit the board, or does not compute there what Python computes.

    Cost: two programs built and run, a few seconds.

    Counted by SysTick around 100 steps under ``qemu-system-arm -icount shift=0``, an instruction a
    nanosecond (``examples/device/measure.c``).
    """
    if board not in CLOCKS:
        raise ArgumentError(f"a board among {', '.join(CLOCKS)}", repr(board), "pick one of them")
    if export.folder is None:
        raise ArgumentError("an export in a folder", "one in memory", "pass out= to export_c")
    name, network, quantised = export.name, export.network, export.quantised
    settings = [f"MODEL={export.folder.resolve()}", f"NAME={name}", f"BOARD={board}"]
    here = f"BUILD={build.resolve() / board}"
    said = make("run", *settings, here)
    if not said.startswith("ok"):
        raise RunError("the same outputs as in Python", said.strip(), "report it: this is a defect")
    flash = make("size", *settings, here).splitlines()[1].split()[0]
    names = {
        "HEADER": f'\\"{name}.h\\"',
        "NAME": name,
        "INPUT_TYPE": "float" if quantised is None else "int8_t",
        "OUTPUT_TYPE": "float" if quantised is None else f"int{quantised.output_bits}_t",
        "INPUT": network.input_size,
        "OUTPUT": network.output_size,
    } | ({"TOKENS": f"{network.tokens}U"} if network.tokens else {})
    defines = "DEFINES=" + " ".join(f"-D{key}={value}" for key, value in names.items())
    program = f"PROGRAM={EXAMPLES / 'measure.c'}"
    counted = make("run", *settings, f"{here}-count", program, defines)
    ticks, steps = _numbers(r"(\d+) ticks for (\d+)", counted)
    header = str(export.files[f"{name}.h"])
    (state,), (stack,) = _numbers(r"\(RAM\)\s+(\d+)", header), _numbers(r"about (\d+)", header)
    clock = CLOCKS[board]
    return BoardCost(int(flash), state, stack, round(ticks * _NANOSECONDS / clock / steps), clock)


def _numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    if found is None:
        raise RunError(f"a text with {pattern!r}", text[:200], "report it: this is a defect")
    return [int(group) for group in found.groups()]

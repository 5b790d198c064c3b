"""What an exported network takes on an emulated Cortex-M: flash, RAM, instructions a step.

Limits: works in a checkout only, which has ``examples/device`` with the Makefile, the start-up code and
the program that counts; needs make, gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bptt.errors import ArgumentError, DependencyError, RunError
from bptt.export.c import Export

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

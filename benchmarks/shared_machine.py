"""How fast ``bptt train`` is on a machine that others use too, by its threads; prints a Markdown table.

.venv/bin/python benchmarks/shared_machine.py [--cells rnn] [--minutes 0.2] [--repeats 3] [--quota 1.5]
.venv/bin/python benchmarks/shared_machine.py --layers lstm gru [--seconds 3] [--repeats 5]

The second is about layers in a program of one's own, ours and torch's, on all processors, with no word to
OpenMP about how to wait: how much of the rate that they have alone is left beside foreign processes.

Each run is a process of its own, as from the command line, beside so many foreign processes that do
nothing but count. The last column of each table is the rate of ``--threads auto`` over that of the best
fixed number, medians over the repeats. "others" is what the rest of the machine took meanwhile, in
processors, which should be near 0: the figures say little where it is not.

A quota is the kernel's own, as a container's is, where this process may make a control group; elsewhere
it is emulated: the processor time of all threads is counted in periods of a tenth of a second, and where
that is used up the process is stopped (SIGSTOP) until the period ends. The table says which. Linux alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

PERIOD, LOOK = 0.1, 0.004  # seconds: of a quota, and between two looks at what is left of it


@dataclass(frozen=True)
class Asked:
    """What to run."""

    cells: tuple[str, ...] = ("rnn",)
    """Cells, at the default settings otherwise."""
    layers: tuple[str, ...] = ()
    """Layers instead of runs of bptt train: rnn, gru or lstm, of 128 units, trained on B=64, T=50."""
    seconds: float = 3.0
    """Of each measurement of a layer."""
    minutes: float = 0.2
    """Of each run."""
    foreign: tuple[int, ...] = (0, 1, 2)
    """Numbers of foreign busy processes."""
    repeats: int = 3
    """Runs of each kind, in turns."""
    quota: float | None = None
    """Processors that a run may use; default: all."""
    wait: tuple[str, ...] = ("",)
    """How threads wait: "" leaves it to bptt train; active or passive is OMP_WAIT_POLICY, a number
    GOMP_SPINCOUNT, whose default is 300000."""
    patience: float = 0.0
    """Seconds to wait before each run, at most, for other programs to leave the machine."""


def busy() -> float:
    """Seconds that the machine's processors have worked since it was started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    idle = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields)) - idle) / os.sysconf("SC_CLK_TCK")


def used(pid: int) -> float:
    """Seconds of processor time that a process has had, all of its threads."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total


GROUP = Path("/sys/fs/cgroup/cpu") / f"shared-machine-{os.getpid()}"


@contextlib.contextmanager
def group_of(quota: float | None) -> Iterator[Path | None]:
    """A control group whose processes may use so many processors; None where none can be made."""
    if quota is None or not GROUP.parent.is_dir():
        yield None
        return
    try:
        GROUP.mkdir()
    except OSError:
        yield None
        return
    try:
        (GROUP / "cpu.cfs_period_us").write_text(f"{PERIOD * 1e6:.0f}")
        (GROUP / "cpu.cfs_quota_us").write_text(f"{quota * PERIOD * 1e6:.0f}")
        yield GROUP
    finally:
        GROUP.rmdir()


def hold(pid: int, quota: float, ended: threading.Event) -> None:
    """Let a process use so many processors and no more."""
    with contextlib.suppress(OSError):  # it has ended
        while not ended.is_set():
            began, before = time.monotonic(), used(pid)
            while time.monotonic() - began < PERIOD and not ended.is_set():
                if used(pid) - before >= quota * PERIOD:
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(max(0.0, began + PERIOD - time.monotonic()))
                    os.kill(pid, signal.SIGCONT)
                    break
                time.sleep(LOOK)


@contextlib.contextmanager
def crowd(foreign: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that count for as long as the block runs."""
    counting = [sys.executable, "-c", "n = 0\nwhile True: n += 1"]
    processes = [subprocess.Popen(counting) for _ in range(foreign)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def leave_in_peace(patience: float) -> None:
    """Wait until other programs use less than a tenth of a processor, or patience ends."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        before = busy()
        time.sleep(0.5)
        if busy() - before < 0.05:
            return


def measure(
    cell: str, threads: str, foreign: int, wait: str, asked: Asked, group: Path | None
) -> tuple[float, float]:
    """Tokens in a second, and the processors that the rest of the machine used meanwhile."""
    ours = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    if wait:
        environment["GOMP_SPINCOUNT" if wait.isdigit() else "OMP_WAIT_POLICY"] = wait
    leave_in_peace(asked.patience)
    with tempfile.TemporaryDirectory() as folder, crowd(foreign) as others:
        began, before = time.monotonic(), busy()
        words = ["train", "--cell", cell, "--minutes", str(asked.minutes), "--threads", threads]
        run = subprocess.Popen(
            [sys.executable, "-m", "bptt", *words, "--out", f"{folder}/run", "--json"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        ended = threading.Event()
        if group is not None:
            (group / "cgroup.procs").write_text(str(run.pid))
        elif asked.quota is not None:
            threading.Thread(target=hold, args=(run.pid, asked.quota, ended), daemon=True).start()
        assert run.stdout is not None
        said = run.stdout.read()
        counted = sum(used(process.pid) for process in others)
        _, status, own = os.wait4(run.pid, 0)
        ended.set()
        run.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        rest = busy() - before - own.ru_utime - own.ru_stime - counted
    return json.loads(said)["tokens_per_second"], rest / seconds


LAYER = """
import sys, time, torch, bptt
kind, side, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
layer = getattr(bptt.nn if side == "ours" else torch.nn, kind.upper())(128, 128)
x, calls, began = torch.randn(50, 64, 128), 0, None
while began is None or time.monotonic() - began < seconds:
    layer(x)[0].square().mean().backward()
    calls += 1
    if began is None and calls == 5:
        calls, began = 0, time.monotonic()
print(calls / (time.monotonic() - began))
"""


def measure_layer(kind: str, side: str, foreign: int, asked: Asked) -> tuple[float, float]:
    """Updates in a second, and the processors that the rest of the machine used meanwhile."""
    leave_in_peace(asked.patience)
    with crowd(foreign) as others:
        began, before = time.monotonic(), busy()
        words = [sys.executable, "-c", LAYER, kind, side, str(asked.seconds)]
        run = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert run.stdout is not None
        said = run.stdout.read()
        counted = sum(used(process.pid) for process in others)
        _, status, own = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
        rest = busy() - before - own.ru_utime - own.ru_stime - counted
        return float(said), rest / (time.monotonic() - began)


def show_layers(asked: Asked) -> None:
    """Print what is left of a layer's own rate, ours beside torch's."""
    found: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for _, kind, foreign, side in itertools.product(
        range(asked.repeats), asked.layers, asked.foreign, ("ours", "torch")
    ):
        one = measure_layer(kind, side, foreign, asked)
        found.setdefault((kind, side, foreign), []).append(one)
    print("| layer | foreign | ours, updates/s | of alone | torch, updates/s | of alone | others |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for kind in asked.layers:
        rate = {
            (side, n): statistics.median(r for r, _ in found[kind, side, n])
            for side in ("ours", "torch")
            for n in asked.foreign
        }
        for n in asked.foreign:
            both = [
                (rate[side, n], rate[side, n] / rate[side, asked.foreign[0]])
                for side in ("ours", "torch")
            ]
            cells = " | ".join(f"{own:.1f} | **{share:.2f}**" for own, share in both)
            rest = statistics.median(
                o for side in ("ours", "torch") for _, o in found[kind, side, n]
            )
            print(f"| {kind} | {n} | {cells} | {rest:.2f} |", flush=True)


def main(asked: Asked) -> None:
    """Print a table for each cell and way of waiting, or one of layers."""
    if asked.layers:
        show_layers(asked)
        return
    cores = len(os.sched_getaffinity(0))
    fixed = (
        [str(n) for n in range(1, cores + 1)] if cores <= 4 else ["1", str(cores // 2), str(cores)]
    )
    columns = [*fixed, "auto"]
    kinds = [(cell, wait) for cell in asked.cells for wait in asked.wait]
    found: dict[tuple[str, str, int, str], list[tuple[float, float]]] = {}
    with group_of(asked.quota) as group:
        for _, (cell, wait), foreign, threads in itertools.product(
            range(asked.repeats), kinds, asked.foreign, columns
        ):
            one = measure(cell, threads, foreign, wait, asked, group)
            found.setdefault((cell, wait, foreign, threads), []).append(one)
    by = "a control group" if group is not None else "SIGSTOP"
    for cell, wait in kinds:
        quota = "" if asked.quota is None else f", {asked.quota} processors' quota by {by}"
        waits = wait or "as bptt train has it"
        print(f"\n{cell}, {cores} cores{quota}, waiting {waits}; tokens in a second\n")
        heads = [f"{threads} threads" for threads in fixed]
        print(f"| foreign processes | {' | '.join(heads)} | auto | others | auto / best fixed |")
        print("|---|" + "--:|" * (len(columns) + 2))
        for foreign in asked.foreign:
            runs = [found[cell, wait, foreign, threads] for threads in columns]
            rates = [statistics.median(rate for rate, _ in some) for some in runs]
            rest = statistics.median(other for some in runs for _, other in some)
            cells = " | ".join(f"{rate:,.0f}" for rate in rates)
            print(
                f"| {foreign} | {cells} | {rest:.2f} | **{rates[-1] / max(rates[:-1]):.2f}** |",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Asked))

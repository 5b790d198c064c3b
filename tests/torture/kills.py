"""SIGKILL, as a crash, the kernel short of memory, or a cluster's scheduler sends it.

A run is killed again and again, each time resumed, until it is done; then it must be, bit for bit, the
run that was never killed. A third of the kills come at random times. Those seldom meet a checkpoint,
which takes milliseconds; the others strike before or after one of the system calls that change the
disk, or in the middle of a write. (No kill takes away what was written and not yet flushed: that the
flushes come in the right order is tested in tests/training/test_checkpoint.py.)
"""

import os
import random
import shutil
import signal
import time
from pathlib import Path

from bptt.files.folder import Folder
from bptt.training import RunFolder
from bptt.training.restore import load_model
from torture.runs import VARIANTS, assert_same_run, begin_or_go_on, child, ended, settings

CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
KINDS = ("time", "call", "write")
PER_RUN = 10  # kills, at most, before a run is left to finish


def torture(folder: Path, *, kills: int, seed: int) -> str:
    """Kill so many times; return what was done."""
    chance = random.Random(seed)
    wholes, count, runs = {}, dict.fromkeys(KINDS, 0), 0
    while (left := kills - sum(count.values())) > 0:
        variant = runs % len(VARIANTS)
        if variant not in wholes:
            wholes[variant] = _Whole(folder, variant)
        whole, chosen = wholes[variant], settings(folder, f"run-{runs}", **VARIANTS[variant])
        for _ in range(min(PER_RUN, left)):
            kind = chance.choice(KINDS)
            if not whole.kill(chosen, kind, chance):
                break
            count[kind] += 1
            if Path(chosen.out).exists():
                load_model(chosen.out)  # whoever reads at any moment finds a whole model
        log = folder / "log"
        assert ended(child(lambda chosen=chosen: begin_or_go_on(chosen), log), log) == 0
        assert "damaged" not in log.read_text(), "a kill damages nothing"
        assert_same_run(Path(chosen.out), whole.path)
        shutil.rmtree(chosen.out)
        runs += 1
    kinds = ", ".join(f"{number} by {kind}" for kind, number in count.items())
    return f"{sum(count.values())} kills of {runs} runs ({kinds}), each run as if never killed"


class _Whole:
    """A run that is never killed: what the others must equal, and how many places there are to strike."""

    def __init__(self, folder, variant):
        chosen = settings(folder, f"whole-{variant}", **VARIANTS[variant])
        self.path, self._log = Path(chosen.out), folder / "log"
        self.places = {}
        for kind in ("call", "write"):
            shutil.rmtree(chosen.out, ignore_errors=True)
            begin = time.monotonic()
            strike = _Strike(kind)
            assert ended(child(lambda s=strike: s.run(chosen), self._log), self._log) == 0
            self.places[kind] = int(self._log.read_text().split()[-1])
            self.seconds = time.monotonic() - begin

    def kill(self, chosen, kind, chance):
        """Begin or go on with a run, and kill it; False if it was done before."""
        if kind == "time":
            pid = child(lambda: begin_or_go_on(chosen), self._log)
            time.sleep(chance.uniform(0, 0.7 * self.seconds))
            os.kill(pid, signal.SIGKILL)
        else:
            # In the first third of the places, so that a run has several kills before it is done.
            strike = _Strike(kind, chance.randint(1, self.places[kind] // 3), chance.random() < 0.5)
            pid = child(lambda: strike.run(chosen), self._log)
        return ended(pid, self._log) != 0


class _Strike:
    """Kill this process at the n-th call that changes the disk, or halfway through the n-th write."""

    def __init__(self, kind, at=None, after=False):
        self.kind, self.at, self.after, self.met = kind, at, after, 0

    def run(self, chosen):
        if self.kind == "call":
            for name in CALLS:
                setattr(os, name, self._around(getattr(os, name)))
        else:
            Folder.write, whole = self._halfway(Folder.write), RunFolder.append_metrics
            RunFolder.append_metrics = self._torn_line(whole)
        begin_or_go_on(chosen)
        print(self.met)

    def _now(self):
        self.met += 1
        return self.met == self.at

    def _around(self, call):
        def struck(*arguments, **options):
            now = self._now()
            if now and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **options)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return struck

    def _halfway(self, write):
        def struck(folder, name, data):
            if self._now():
                write(folder, name, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            write(folder, name, data)

        return struck

    def _torn_line(self, append):
        def struck(run, record):
            if self._now():
                append(run, record)
                os.truncate(run.metrics, run.metrics.stat().st_size - 7)
                os.kill(os.getpid(), signal.SIGKILL)
            append(run, record)

        return struck

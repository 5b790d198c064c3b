"""SIGHUP, as a closed terminal sends it: twice or thrice, with the terminal gone or by itself.

A run is hung up on again and again, each time resumed, until it is done; then it must be, bit for bit,
the run that nobody disturbed. Whenever the signal comes, the newest checkpoint is of the last update that
was made: not one is trained again.
"""

import fcntl
import os
import pty
import random
import shutil
import signal
import struct
import termios
import time
from collections import Counter
from pathlib import Path

from bptt.training import RunFolder, train
from bptt.training import checkpoint as checkpoints
from bptt.training.progress import TerminalReporter
from torture.runs import VARIANTS, assert_same_run, child, settings

PER_RUN = 8  # hangups, at most, before a run is left to finish


def torture(folder: Path, *, hangups: int, seed: int) -> str:
    """Hang up so many times; return what was done."""
    chance, count, wholes, runs = random.Random(seed), Counter(), {}, 0
    while (left := hangups - count["all"]) > 0:
        variant = runs % len(VARIANTS)
        if variant not in wholes:
            begin = time.monotonic()
            wholes[variant] = settings(folder, f"whole-{variant}", **VARIANTS[variant])
            run = _Run(wholes[variant], folder)
            run.begin()
            assert run.ended() == 0
            seconds = time.monotonic() - begin
        chosen = settings(folder, f"run-{runs}", **VARIANTS[variant])
        run = _Run(chosen, folder)
        for _ in range(min(PER_RUN, left)):
            run.begin(terminal=chance.random() < 0.5)
            # Mostly among the updates. Before and after there is nothing to lose, and a signal acts as
            # it always does.
            if chance.random() < 0.8:
                run.watch(until=lambda run=run: run.updates() > 0)
            run.watch(chance.uniform(0, 0.2 * seconds))
            again = chance.randint(0, 3)
            run.hang_up(again, chance)
            count["all"] += 1
            count["trained"] += run.updates() > 0
            count["terminals"] += run.terminal is not None
            count["again"] += again > 0
            run.check()
            if run.done():
                break
        run.begin()
        assert run.ended() == 0, run.log.read_text()
        assert_same_run(Path(chosen.out), Path(wholes[variant].out), interrupted=True)
        shutil.rmtree(chosen.out)
        runs += 1
    return (
        f"{count['all']} hangups of {runs} runs ({count['terminals']} closed terminals, {count['again']} "
        f"told more than once, {count['trained']} after an update): no update lost, each run as if never "
        "disturbed"
    )


class _Run:
    """A run in a process of its own, which notes every update before it is logged or saved."""

    def __init__(self, chosen, folder):
        self.chosen, self.log, self._note = chosen, folder / "log", folder / "note"
        self.terminal = None

    def begin(self, terminal=False):
        self._note.write_bytes(b"")
        ours, theirs = pty.openpty() if terminal else (None, None)
        self.terminal = ours

        def work():
            if terminal:
                os.close(ours)
                os.setsid()
                fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
                os.dup2(theirs, 0)
                os.dup2(theirs, 1)  # what goes wrong is written to the log
            self._train(terminal)

        self.pid = child(work, self.log)
        if terminal:
            os.close(theirs)
            os.set_blocking(ours, False)

    def _train(self, terminal):
        note = os.open(self._note, os.O_WRONLY)

        def on_step(session):
            os.pwrite(note, struct.pack("<q", session.progress.step), 0)

        out = Path(self.chosen.out)
        go_on = {"resume": out} if out.exists() else {}
        with TerminalReporter() as reporter:
            train(self.chosen, on_step=on_step, reporter=reporter if terminal else None, **go_on)

    def watch(self, seconds=60.0, until=lambda: False):
        """Read what it says to its terminal, for so long, or until something has happened or it ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            if self.terminal is not None:
                try:
                    while os.read(self.terminal, 1 << 16):
                        pass
                except BlockingIOError:
                    pass
                except OSError:  # it has ended, and closed its side
                    return
            time.sleep(0.002)

    def hang_up(self, again, chance):
        """Close its terminal, or send what that would; then once more. Its exit status."""
        if self.terminal is not None:
            os.close(self.terminal)
        else:
            os.kill(self.pid, signal.SIGHUP)
        for _ in range(again):
            time.sleep(chance.uniform(0, 0.02))
            os.kill(self.pid, chance.choice((signal.SIGHUP, signal.SIGTERM, signal.SIGINT)))
        return self.ended()

    def ended(self):
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        # 70: the KeyboardInterrupt of a second signal, after the run was saved.
        deaths = [-n for n in (signal.SIGHUP, signal.SIGTERM)]
        said = self.log.read_text(errors="replace")
        assert status in (0, *deaths) or "KeyboardInterrupt" in said, said
        return status

    def updates(self):
        """The last one that this process made; 0 before its first."""
        note = self._note.read_bytes()
        return struct.unpack("<q", note)[0] if note else 0

    def check(self):
        made, out = self.updates(), Path(self.chosen.out)
        if made:
            newest = checkpoints.newest(RunFolder(out).checkpoints).state["step"]
            assert newest == made, f"update {made} was made, {newest} is kept"

    def done(self):
        out = Path(self.chosen.out)
        if not out.exists():
            return False
        newest = checkpoints.newest(RunFolder(out).checkpoints).state["step"]
        return newest == self.chosen.steps

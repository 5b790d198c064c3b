"""A disk that fills up, and one that turns read-only, while a run trains or writes a checkpoint.

The full disk is a real one where this process may mount (a tmpfs of so many kilobytes, in a mount
namespace of its own, so that nothing else sees it); everywhere it is a limit on the size of a file too,
which makes the same writes fail. The read-only disk is a read-only mount where that is allowed, and
everywhere a folder without the right to write (as another user, if this is root).
"""

import contextlib
import ctypes
import functools
import io
import os
import resource
import shutil
import subprocess
from pathlib import Path

from bptt import report
from bptt.cli import main
from bptt.files.folder import Folder
from bptt.training import RunFolder, loop
from bptt.training import checkpoint as checkpoints
from torture.runs import TEXT, assert_same_run, child, ended

CLONE_NEWNS = 0x00020000  # linux/sched.h
NOBODY = 65534
SIZES = (24, 64, 100, 150, 220, 400)  # kilobytes; the run asks for some 800
TRAIN = [
    *("train", "text.txt", "--out", "run", "--hidden", "6", "--batch", "3", "--k", "8"),
    *("--clip", "auto:20", "--steps", "96", "--eval-every", "4", "--log-every", "1"),
    *("--keep", "99", "--threads", "1", "--sample", "0"),
]
RESUME = ["train", "--resume", "run", "--sample", "0"]


def torture(folder: Path) -> str:
    """Fill and forbid; return what was done."""
    whole = folder / "whole"
    _child(whole, lambda: _expect(0, TRAIN))
    mounting, done = _may_mount(), []
    for limit in _limits(whole / "run"):
        _child(folder / f"limit-{limit}", lambda limit=limit: _limited(whole, limit))
        done.append(f"files of {limit} bytes at most")
    if mounting:
        for kilobytes in SIZES:
            _child(folder / f"disk-{kilobytes}", lambda size=kilobytes: _full(whole, size))
            done.append(f"a disk of {kilobytes} kB")
    for number, forbidding in enumerate([_Rights, _Mount][: 1 + mounting]):
        for moment in ("step", "checkpoint"):
            work = functools.partial(_read_only, whole, forbidding, moment)
            _child(folder / f"read-only-{number}-{moment}", work)
            done.append(f"read-only by {forbidding.how} in a {moment}")
    return "; ".join(done)


def _child(place, work):
    """Work in a folder of its own that has the text, in a process of its own."""
    place.mkdir()
    (place / "text.txt").write_text(TEXT, encoding="utf-8")

    def there():
        os.chdir(place)
        report.write_run_report = lambda run: None  # pictures take longer than all the rest
        work()

    log = place.with_suffix(".log")
    assert ended(child(there, log), log) == 0, log.read_text()


def _expect(status, words):
    """Run a command: this exit status and, where it fails, one line that says what to do."""
    with contextlib.redirect_stderr(io.StringIO()) as err:
        found = main(list(words))
    err = err.getvalue()
    assert found == status, f"{words}: {found}, {err}"
    if status:
        assert err.count("\n") == 1, err
        assert err.startswith(f"bptt {words[0]}: expected "), err
    return err


def _assert_intact():
    """What was written before the disk refused is whole, and nothing lies about that counts."""
    run = RunFolder("run")
    if not run.path.exists():
        assert list(Path().glob(".run*")) == []
        return
    found = checkpoints.steps(run.checkpoints)
    assert found, "a run folder always has a checkpoint"
    assert [s for s in found if checkpoints.damage(run.checkpoints, s) is not None] == []
    assert {p.name for p in run.checkpoints.iterdir()} == {f"step-{s}" for s in found}


def _go_on(whole):
    _expect(0, RESUME if Path("run").exists() else TRAIN)
    assert_same_run(Path("run"), whole / "run")


def _limits(run):
    """So that the first checkpoint with moments does not fit; so that the metrics at some line do not."""
    first, last = (sorted((run / f"checkpoints/step-{n}").iterdir()) for n in (4, 96))
    large = max(p.stat().st_size for p in last)
    assert large < RunFolder(run).metrics.stat().st_size, "train longer, or the metrics always fit"
    return max(p.stat().st_size for p in first) - 1, large


def _limited(whole, limit):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    assert "File too large" in _expect(2, TRAIN)
    _assert_intact()
    assert "File too large" in _expect(2, RESUME)
    _assert_intact()
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    _go_on(whole)


def _full(whole, kilobytes):
    _own_namespace()
    Path("disk").mkdir()
    _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", "disk")
    shutil.copy("text.txt", "disk")
    os.chdir("disk")
    assert "No space left on device" in _expect(2, TRAIN)
    _assert_intact()
    if Path("run").exists():
        _expect(0, ["eval", "run"])
        assert "No space left on device" in _expect(2, RESUME)
        _assert_intact()
    _mount("-o", "remount,size=20m", ".")
    _go_on(whole)


def _read_only(whole, forbidding, moment):
    forbid = forbidding(Path("run"))

    def turn(session):
        if session.progress.step == 9:
            forbid()

    if moment == "step":
        loop.train, train = functools.partial(loop.train, on_step=turn), loop.train
    else:
        # Calls 1 to 9 make the folder and its first checkpoint, 10 says who holds it; then 4 each.
        Folder.write, write = _at_call(16, forbid, Folder.write), Folder.write
    refused = _expect(2, TRAIN)
    if moment == "step":
        loop.train = train
    else:
        Folder.write = write
    before = _contents(Path("run"))
    assert checkpoints.steps(Path("run/checkpoints"))[-1] >= 4, refused
    _expect(2, RESUME)
    _expect(2, [*TRAIN, "--out", "run/inner"])
    _expect(0, ["eval", "run"])  # reading asks for no right to write
    assert _contents(Path("run")) == before
    forbid.no_more()
    _go_on(whole)


def _at_call(number, act, function):
    calls = 0

    def counted(*arguments):
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return function(*arguments)

    return counted


def _contents(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


class _Mount:
    """A read-only mount over the run folder."""

    how = "mount"

    def __init__(self, run):
        self._run = str(run)
        _own_namespace()

    def __call__(self):
        _mount("--bind", self._run, self._run)
        _mount("-o", "remount,bind,ro", self._run)

    def no_more(self):
        subprocess.run(["umount", self._run], check=True)


class _Rights:
    """The right to write taken from the run folder."""

    how = "rights"

    def __init__(self, run):
        self._run, self._user = run, os.geteuid()
        if self._user == 0:  # root may write everywhere, so it becomes somebody else
            # What is imported on the way may lie out of its reach.
            _expect(0, [*TRAIN, "--out", "before", "--steps", "4"])
            _expect(0, ["eval", "before"])
            Path.cwd().parent.chmod(0o755)  # the way there
            os.chown(".", NOBODY, NOBODY)
            os.seteuid(NOBODY)

    def _change(self, folders, files):
        for path in [self._run, *self._run.rglob("*")]:
            path.chmod(folders if path.is_dir() else files)

    def __call__(self):
        self._change(0o555, 0o444)

    def no_more(self):
        os.seteuid(self._user)
        self._change(0o755, 0o644)


def _may_mount():
    """Whether a process may make a namespace and mount in it."""
    asked = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "/mnt"]
    try:
        return subprocess.run(asked, capture_output=True).returncode == 0
    except OSError:
        return False


def _own_namespace():
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    _mount("--make-rprivate", "/")


def _mount(*words):
    subprocess.run(["mount", *words], check=True)

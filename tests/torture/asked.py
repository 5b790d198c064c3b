"""What commands answer about a run whose text they read again, for comparison with what they answered."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from unittest import mock

from bptt.cli import main

SMALL = [
    *("--hidden", "5", "--batch", "3", "--k", "8", "--steps", "6", "--eval-every", "3"),
    *("--threads", "1", "--sample", "0", "--horizon-every", "0", "--json"),
]
# Every command that reads the text of a run again, and how that text is given under another name.
COMMANDS = {
    "eval": (["eval", "RUN", "--json"], ["--text"]),
    "diagnose": (
        ["diagnose", "RUN", "--json", "--try-for", "0", "--steps", "12", "--lanes", "2"],
        ["--text"],
    ),
    "export": (
        ["export", "RUN", "--to", "c", "--precision", "int8", "--calibration", "1000", "--out", "OUT",
         "--json"],
        ["--text"],
    ),
    "train": (["train", "--resume", "RUN", "--steps", "9", "--sample", "0", "--json"], []),
}  # fmt: skip


def begin(words: list[str]) -> None:
    """Train a run, with words beside the common ones."""
    status, _, said = _called(["train", *words, *SMALL])
    assert status == 0, said


def ask(name: str, run: str, out: Path, files: tuple[str, ...] = ()) -> tuple[int, object, str]:
    """Ask a command about a run: its exit status, what it answered, and what it said on stderr.

    Args:
        name: of the command.
        run: the folder, as it is typed.
        out: a folder that does not exist, for what the command writes.
        files: where the text is now; none to let the command find it.
    """
    words, flag = COMMANDS[name]
    words = [{"RUN": run, "OUT": str(out)}.get(word, word) for word in words]
    words += [*flag, *files] if files else []
    status, printed, said = _called(words)
    assert "Traceback" not in said, said
    if status:
        assert status == 2, said
        assert said.count("\n") == 1, said
        assert said.startswith(f"bptt {name}: expected "), said
        assert not out.exists(), "nothing half-written"
        return status, None, said
    shutil.rmtree(out, ignore_errors=True)
    answer = json.loads(printed)
    answer.pop("next", None)  # a command with the names that run and text have now
    told = {key: answer[key] for key in ("cost", "valid") if key in answer}
    return status, told or answer, said


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run folder, but for whose it is meanwhile."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name[:1] != ".")
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def _called(words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("bptt.report.write_run_report"),  # pictures take longer than all the rest
    ):
        status = main(words)
    return status, out.getvalue(), err.getvalue()

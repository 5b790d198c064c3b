"""A text of gigabytes is trained on, and the memory that takes is measured.

The process trains twice with the same settings, first on a text of a megabyte: what that takes is
the model's own, torch included. Then on the large one; what comes on top must not grow with the
text. Random chunks from all over it touch more of its pages than the bound allows to be held, so
a run that kept them, or read the file into memory, would not pass.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from bptt.data import default_text
from processes import interpreter

LANES = 256
PROGRAM = """
import json, sys
from pathlib import Path
from bptt.training.loop import train
from bptt.training.settings import Settings

def peak():  # of this program's memory, pages of mapped files among it
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l)
    return int(line.split()[1]) * 1024

def run(name):
    options = json.loads(sys.argv[2])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    outcome = train(Settings(files=(str(folder / f"{name}.txt"),), out=str(folder / f"{name}-run"),
                             hidden=16, layers=1, log_every=1000, horizon_every=0, **options))
    return peak(), len(outcome.corpus.train.tokens)

folder = Path(sys.argv[1])
own, _ = run("small")
whole, tokens = run("large")
print(json.dumps({"own": own, "whole": whole, "tokens": tokens}))
"""


@dataclass(frozen=True)
class Found:
    """Bytes: of the text, of the process on a small text, and on the large one at its peak."""

    text: int
    own: int
    whole: int
    tokens: int

    @property
    def above(self) -> int:
        """Resident memory above the model's own."""
        return self.whole - self.own


def write_text(path: Path, size: int) -> None:
    """At least ``size`` bytes of UTF-8, of characters of one to four bytes, no two blocks equal."""
    block = default_text() + "größe ☃ 😀\n"
    with path.open("wb") as file:
        number = 0
        while file.tell() < size:
            cut = number * 997 % len(block)
            file.write(f"{number}\n{block[cut:]}{block[:cut]}".encode())
            number += 1


def measured(folder: Path, size: int, *, steps: int, **options: object) -> Found:
    """Train on a text of so many bytes in a process of its own."""
    write_text(folder / "small.txt", 1 << 20)
    write_text(folder / "large.txt", size)
    # What is held out is scored whole at the end, in one lane: 40 kB of 4 GB are enough here.
    settings = {"partition": "random", "batch": LANES, "k": 16, "valid_fraction": 1e-5}
    settings |= {"steps": steps, "eval_every": steps, "lr": 1e-3, **options}
    command = [*interpreter(), "-c", PROGRAM, str(folder), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    return Found((folder / "large.txt").stat().st_size, **found)


def torture(folder: Path, gigabytes: float = 4.0, limit: float = 1.5) -> str:
    """Train on a large text; AssertionError where that takes ``limit`` GB beside the model.

    Needs twice the text's size on the disk.
    """
    lines = []
    for options in ({}, {"bytes": True, "partition": "lanes"}):
        begin = time.monotonic()
        found = measured(folder, int(gigabytes * 1e9), steps=200, **options)
        line = (
            f"{found.text / 1e9:.2f} GB of text, {found.tokens / 1e9:.2f}e9 tokens, "
            f"{options or 'characters, random chunks'}: {found.above / 1e6:.0f} MB above the "
            f"model's own {found.own / 1e6:.0f} MB, {time.monotonic() - begin:.0f} s"
        )
        print(line, flush=True)
        assert found.above < limit * 1e9, line
        lines.append(line)
        for path in folder.glob("*-run"):
            path.rename(folder / f"done-{len(lines)}-{path.name}")
    return "; ".join(lines)


def main(folder: Path, gigabytes: float = 4.0, limit: float = 1.5) -> None:
    """Train on a text of gigabytes in a new folder, and print how much memory that took."""
    folder.mkdir()
    torture(folder, gigabytes, limit)


if __name__ == "__main__":
    tyro.cli(main)

"""A large text never lies in memory, neither while it is encoded nor afterwards."""

from __future__ import annotations

import json
import subprocess

import pytest

from processes import interpreter

MEGABYTE = 1 << 20

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from bptt.data import Corpus

def peak():
    # Of this program's own memory map: unlike getrusage, not inherited from who started it.
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l)
    return int(line.split()[1]) * 1024

Path("/proc/self/clear_refs").write_text("5")  # forget the peak of importing
before = peak()
corpus = Corpus.open(sys.argv[1], cache=sys.argv[2], bytes_mode=sys.argv[3] == "bytes")
growth = peak() - before
tail = corpus.vocabulary.decode(np.asarray(corpus.valid.tokens[-12:]))
print(json.dumps({"growth": growth, "tokens": len(corpus.train.tokens), "tail": tail}))
"""


@pytest.mark.parametrize("mode", ["characters", "bytes"])
def test_memory_stays_flat(tmp_path, mode):
    path = tmp_path / "large.txt"
    line = "the größe of a text ☃ is not the größe of memory\n"
    piece = (line * (MEGABYTE // len(line.encode()))).encode()
    with path.open("wb") as file:
        for _ in range(100):
            file.write(piece)
        file.write("memory of ☃\n".encode())
    size = path.stat().st_size
    assert size > 99 * MEGABYTE
    done = subprocess.run(
        [*interpreter(), "-c", PROGRAM, str(path), str(tmp_path / "cache"), mode],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["tail"] == "memory of ☃\n" if mode == "characters" else "mory of ☃\n"
    assert found["growth"] < 32 * MEGABYTE  # a third of the text; as one Python string it takes 200
    if mode == "bytes":
        assert found["tokens"] == int(0.9 * size)

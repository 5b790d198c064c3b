"""The short forms of what ``tests/torture`` does at length: same functions, smaller numbers."""

from __future__ import annotations

import pytest

from torture import fuzz, large_text, malformed

# A thousand inputs over all readers; slow ones (files, commands) get a few each.
INPUTS = {
    "command_line": 60,
    "export_inputs": 30,
    "text_cache": 20,
    "checkpoint": 60,
    "run_folder": 60,
}


@pytest.mark.parametrize("name", fuzz.READERS)
def test_a_reader_succeeds_or_says_why_not(name):
    with fuzz.prepared() as folder:
        for number in range(INPUTS.get(name, 300)):
            fuzz.one(name, number, folder)


def test_most_inputs_get_past_the_first_check():
    """A fuzzer whose inputs are all refused at the door would find nothing behind it."""
    from random import Random

    from bptt.errors import BpttError

    for name in ("text_file", "vocabulary", "configuration", "metrics", "compare_results"):
        good = 0
        with fuzz.prepared() as folder:
            for number in range(100):
                try:
                    fuzz.READERS[name].read(Random(number), folder)
                    good += 1
                except BpttError:
                    pass
        assert good >= 5, f"{name}: {good} of 100 inputs are read"


def test_a_reader_that_hangs_or_raises_is_noticed(monkeypatch):
    def endless(random, folder):
        while True:
            pass

    def broken(random, folder):
        raise KeyError("missing")

    monkeypatch.setattr(fuzz, "PATIENCE", 0.1)
    with fuzz.prepared() as folder:
        monkeypatch.setitem(fuzz.READERS, "made", fuzz.Reader(endless, 1))
        with pytest.raises(AssertionError, match="made 7: Hung"):
            fuzz.one("made", 7, folder)
        monkeypatch.setitem(fuzz.READERS, "made", fuzz.Reader(broken, 1))
        with pytest.raises(AssertionError, match="made 8: KeyError"):
            fuzz.one("made", 8, folder)


def test_malformed_calls():
    said = malformed.torture(count=500, seed=0)
    assert said.startswith("500 calls")


def test_a_crash_of_a_call_is_noticed(monkeypatch):
    crash = (
        "import sys, ctypes; open(sys.argv[3], 'w').write('17'); "
        "ctypes.string_at(0)"
    )  # fmt: skip
    monkeypatch.setattr(malformed, "CRASH", crash)
    with pytest.raises(AssertionError, match="call 17 ended the process with status -11"):
        malformed.torture(count=1)


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["random", "lanes"])
def test_a_large_text_trains_in_little_memory(tmp_path, partition):
    # 1.5 GB for 4 GB, scaled: 40 MB for 107. Read into memory the text alone takes 107, and 120 steps
    # of 64 random chunks touch nearly all of its pages: a map whose pages are kept takes as much.
    # With 14 to 27 MB measured, in 5 steps as in 120.
    options = {"partition": partition, "bytes": True, "batch": 64}
    found = large_text.measured(tmp_path, 107 << 20, steps=120, **options)
    assert found.tokens > 0.99 * found.text
    assert found.above < 40 << 20

"""The one pool of processes: one thread each, errors kept apart, nothing begun for nobody."""

from __future__ import annotations

import time
from concurrent.futures.process import BrokenProcessPool

from bptt.experiments import run_in_processes

# The items are Python here, and the work is to run them: it has to be found in a fresh process.
THREADS = "__import__('torch').get_num_threads()"


def test_every_item_has_its_outcome_and_one_thread() -> None:
    items = [THREADS, "1 / 0", "6 * 7"]
    found = dict(run_in_processes(eval, items, 2))
    assert set(found) == set(items)
    assert (found[THREADS], found["6 * 7"]) == (1, 42)
    assert isinstance(found["1 / 0"], ZeroDivisionError)


def test_a_process_that_dies_is_an_outcome() -> None:
    dies = "__import__('os')._exit(3)"
    assert isinstance(dict(run_in_processes(eval, [dies], 1))[dies], BrokenProcessPool)


def test_who_stops_listening_cancels_the_rest(tmp_path) -> None:
    """After an interrupt, say: what has not begun never does."""
    touch = "__import__('time').sleep(0.1) or __import__('pathlib').Path({!r}).touch()"
    items = [touch.format(str(tmp_path / str(n))) for n in range(30)]
    outcomes = run_in_processes(eval, items, 1)
    next(outcomes)
    outcomes.close()
    time.sleep(1.5)  # what has begun ends within a tenth of a second
    assert 1 <= len(list(tmp_path.iterdir())) < 10

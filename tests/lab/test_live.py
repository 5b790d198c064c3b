"""Work in front of the reader: it runs through as a script, stops within a second, disturbs nobody."""

import threading
import time

import pytest
import torch

from bptt.errors import ArgumentError
from bptt.experiments.compare.job import build_model
from bptt.lab.live import APART, Tick, Work, drawn_from
from bptt.tasks import RememberFirst


def count(until, pause=0.0, seen=None):
    """A tick for every number, slowly."""
    for n in range(1, until + 1):
        time.sleep(pause)
        if seen is not None:
            seen.append(n)
        yield Tick(n, until, n)


def told(text):
    return getattr(text, "text", text)


def test_as_a_script_it_runs_through_and_shows_the_end():
    work, got = Work(), []
    text = told(work.show(lambda: count(7), lambda n: f"<p>frame {n}</p>", done=got.append))
    assert "frame 7" in text
    assert "update 7 of 7" in text
    assert got == [7]
    assert work.state == "done"


def test_without_its_button_nothing_begins_and_what_was_there_stays():
    work = Work()
    begun = []

    def make():
        begun.append(1)
        yield from count(3)

    assert "first words" in told(work.show(make, str, when=False, idle="first words"))
    assert not begun
    work.show(make, lambda n: f"<p>frame {n}</p>")
    again = told(work.show(make, str, when=False, idle="first words"))
    assert "frame 3" in again
    assert "first words" not in again
    assert len(begun) == 1


def test_an_error_of_ours_is_said_and_another_is_raised():
    def ours():
        yield Tick(1, 2, 1)
        raise ArgumentError("a rate above 0", "0", "raise it")

    def other():
        yield Tick(1, 2, 1)
        raise ZeroDivisionError

    work, got = Work(), []
    assert "expected a rate above 0" in told(work.show(ours, str, done=got.append))
    assert work.state == "failed"
    assert not got
    with pytest.raises(ZeroDivisionError):
        work.show(other, str)
    assert work.state == "failed"


@pytest.mark.timing
def test_stop_ends_it_at_the_next_tick_and_pictures_are_few():
    """The part that runs in a page's thread, with a stop from another one."""
    work, seen, halt = Work(), [], threading.Event()
    timer = threading.Timer(0.6, halt.set)
    timer.start()
    begin = time.monotonic()
    pieces = list(work._pieces(lambda: count(10_000, 0.005, seen), str, None, halt.is_set, APART))
    took = time.monotonic() - begin
    assert work.state == "stopped"
    # 0.6 s until the stop; what is left is one tick, however loaded the machine.
    assert took < 1.6
    assert 1 < len(seen) < 10_000
    # One picture in APART seconds, and the first and the last.
    assert len(pieces) <= took / APART + 2
    assert f"{seen[-1]} of 10000" in pieces[-1]


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "mingru", "lru"])
@pytest.mark.parametrize("start", ["default", "orthogonal", "small+radius:0.9"])
def test_layers_begin_as_after_a_seed_without_touching_it(cell, start):
    if cell in ("mingru", "lru"):
        start = "default"  # they have no recurrent matrix
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with drawn_from(5):
        one = build_model(RememberFirst(9), cell, 7, start)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    other = build_model(RememberFirst(9), cell, 7, start)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_two_threads_draw_each_from_its_own():
    """Interleaved by force: a barrier between every two layers."""
    barrier, found = threading.Barrier(2), {}

    def build(seed):
        with drawn_from(seed):
            layers = []
            for _ in range(5):
                barrier.wait()
                layers.append(torch.nn.Linear(3, 4).weight.detach())
            found[seed] = torch.stack(layers)

    threads = [threading.Thread(target=build, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        torch.manual_seed(seed)
        alone = torch.stack([torch.nn.Linear(3, 4).weight.detach() for _ in range(5)])
        assert torch.equal(found[seed], alone)

"""The number of threads of a run by the clock: near the best there is, whatever the machine does."""

import os
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from bptt import cli
from bptt.training import RunFolder, threads, train
from bptt.training.threads import Threads, counts
from processes import interpreter
from small_runs import small

TEXT = "the quick brown fox jumps over the lazy dog; the lazy dog sleeps on.\n" * 40

# Relative speed by number of threads.
QUIET = {1: 1.0, 2: 1.7}
SPINNING = {1: 1.0, 2: 0.01}  # one foreign process, and threads that spin while they wait
PASSIVE = {1: 1.0, 2: 0.8}
CROWDED = {1: 0.6, 2: 0.65}
QUOTA = {1: 1.0, 2: 1.2}
EVEN = {1: 1.0, 2: 1.0}
MANY = {1: 1.0, 2: 1.9, 4: 3.5, 8: 6.0, 16: 8.0, 32: 6.0, 64: 3.0}
MANY_BUSY = {1: 1.0, 2: 1.6, 4: 1.2, 8: 0.5, 16: 0.2, 32: 0.1, 64: 0.05}
ODD = {1: 1.0, 2: 1.9, 4: 3.0, 6: 3.4}


def run(speed_at, seconds, update=0.01, noise=0.0, seed=0):
    """Tokens made in so many seconds, where an update of one token takes ``update`` at speed 1."""
    now, tokens, held, draw = 0.0, 0, [], random.Random(seed)
    most = max(speed_at(0.0))
    chosen = Threads(most, held.append)
    held.append(most)
    while now < seconds:
        took = update / speed_at(now)[held[-1]] * (1 + noise * draw.uniform(-1, 1))
        now += took
        tokens += 1
        chosen.note(1, took)
    return tokens, chosen


MACHINES = {
    name: machine
    for name, machine in globals().items()
    if name.isupper() and isinstance(machine, dict) and 1 in machine
}


@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize("update", [0.005, 0.02, 0.3])
@pytest.mark.parametrize("name", MACHINES)
def test_a_run_is_nearly_as_fast_as_with_the_best_fixed_number(name, update, noise):
    machine = MACHINES[name]
    tokens, _ = run(lambda now: machine, 60, update, noise)
    best = 60 / update * max(machine.values())
    # A slow update at a bad number cannot be stopped: one of 30 s at the slowest of these.
    spared = 0.9 if update < 0.3 or min(machine.values()) > 0.1 else 0.25
    assert tokens > spared * best


@pytest.mark.parametrize("first", MACHINES)
@pytest.mark.parametrize("then", MACHINES)
def test_it_follows_a_machine_that_changes(first, then):
    first, then = MACHINES[first], MACHINES[then]
    if max(first) != max(then):
        return
    tokens, chosen = run(lambda now: first if now < 60 else then, 180)
    best = 6000 * max(first.values()) + 12000 * max(then.values())
    assert tokens > 0.85 * best
    assert then[chosen.count] > 0.9 * max(then.values())


def test_one_core_leaves_no_choice():
    held = []
    chosen = Threads(1, held.append)
    for _ in range(100):
        chosen.note(1, 0.1)
    assert held == []
    assert chosen.count == 1


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 8, 64, 100])
def test_the_numbers_rise_from_one_to_the_most(most):
    found = counts(most)
    assert found[0] == 1
    assert found[-1] == most
    assert found == sorted(set(found))


@pytest.fixture
def numbers(monkeypatch):
    """The numbers that torch is given."""
    given, put = [], torch.set_num_threads
    before = torch.get_num_threads()
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (given.append(n), put(n)))
    put(2)
    yield given
    put(before)


@pytest.mark.parametrize("budget", [{"steps": 30}, {"epochs": 0.5}])
def test_a_run_by_steps_or_epochs_keeps_its_number(budget, text, tmp_path, numbers):
    settings = small(text, tmp_path, threads="auto", **{"steps": None, **budget})
    seen = set()
    done = train(settings, on_step=lambda session: seen.add(torch.get_num_threads()))
    assert seen == {2}
    assert numbers == []
    assert not any("threads" in line for line in RunFolder(done.run).read_metrics())


def test_a_run_by_the_clock_tries_and_tells_and_gives_back(text, tmp_path, numbers, monkeypatch):
    monkeypatch.setattr(threads, "WINDOW", 0.0)  # every update is a turn
    done = train(small(text, tmp_path, threads="auto", steps=None, minutes=0.02))
    assert 1 in numbers
    assert torch.get_num_threads() == 2
    told = {line["threads"] for line in RunFolder(done.run).read_metrics() if "loss" in line}
    assert told <= {1, 2}


def test_a_number_is_kept(text, tmp_path, numbers):
    train(small(text, tmp_path, threads=1, steps=None, minutes=0.01))
    assert set(numbers) == {1}


WAITING = """
import os, sys
from bptt.cli import main
{before}
sys.platform = "{platform}"
main(["train", "--threads", "nobody"])  # refused once torch is there
print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("platform", "given", "before", "then"),
    [
        ("linux", {}, "", "None None"),  # the kernels notice where waiting harms
        ("darwin", {}, "", "passive None"),
        ("darwin", {"OMP_WAIT_POLICY": "active"}, "", "active None"),
        ("darwin", {"GOMP_SPINCOUNT": "7"}, "", "None 7"),
        ("darwin", {}, "import torch", "None None"),  # it was read already
    ],
)
def test_threads_wait_asleep_unless_somebody_has_said_how(platform, given, before, then):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {k: v for k, v in os.environ.items() if k not in names} | given
    done = subprocess.run(
        [*interpreter(), "-c", WAITING.format(before=before, platform=platform)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == then
    assert "a whole number or auto for --threads, received 'nobody'" in done.stderr


@pytest.mark.parametrize(
    ("file", "noticed"), [(b"..libgomp.so.1..", True), (b"..libomp.so.5..", False), (None, False)]
)
def test_kernels_notice_where_they_run_on_gccs_openmp(file, noticed, tmp_path, monkeypatch):
    place = tmp_path / "_native.so"
    if file is not None:
        place.write_bytes(file)
    found = None if file is None else SimpleNamespace(origin=str(place))
    monkeypatch.setattr(cli, "find_spec", lambda name: found)
    monkeypatch.setattr(sys, "platform", "linux")
    assert cli._kernels_notice() == noticed
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not cli._kernels_notice()

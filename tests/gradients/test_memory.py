"""Memory as the peak of what the allocator has handed out, or of the whole process; and its price."""

import gc
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

import bptt
from bptt.gradients import Checkpointed, Full, Truncated, Windowed

CLASSES = 16


class Model(nn.Module):
    """Single precision, a readout to a few classes."""

    def __init__(self, layer, inputs, hidden):
        super().__init__()
        self.layer = layer(inputs, hidden)
        self.out = nn.Linear(hidden, CLASSES)

    def forward(self, x, carry=None):
        h, carry = self.layer(x, carry)
        return self.out(h), carry


def loss(output, target):
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def problem(layer, steps, lanes, inputs, hidden):
    x, target = torch.randn(steps, lanes, inputs), torch.randint(CLASSES, (steps, lanes))
    return Model(layer, inputs, hidden), x, target


def peak(call):
    """Most bytes that stood allocated at once during a call, beyond those before it."""
    call()  # gradients and caches are there already
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    assert most > 0
    return most


LAYERS = [bptt.nn.GRU, bptt.nn.RNN, nn.RNN]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_checkpointed_takes_five_percent_of_the_memory(layer):
    model, x, target = problem(layer, 1000, 16, 32, 64)
    full, checkpointed = (
        peak(lambda e=e: e.backward(model, x, target, loss=loss)) for e in (Full(), Checkpointed())
    )
    # All of it, not only what is kept for backward: gradients in flight, kept states, one segment.
    assert checkpointed <= 0.05 * full
    fewer = peak(lambda: Checkpointed(64, 8).backward(model, x, target, loss=loss))
    assert fewer <= 0.035 * full


@pytest.mark.timing
@pytest.mark.parametrize(("layer", "lanes"), [(bptt.nn.GRU, 64), (bptt.nn.RNN, 128)])
def test_checkpointed_takes_little_more_time(layer, lanes):
    """Large enough that a segment's work is milliseconds, beside which the call itself does not count."""
    model, x, target = problem(layer, 1000, lanes, 64, 128)
    times = {Full(): [], Checkpointed(): []}
    for _ in range(6):  # in turns; the least of each, since whatever disturbs only adds
        for estimator, taken in times.items():
            began = time.process_time()
            estimator.backward(model, x, target, loss=loss)
            taken.append(time.process_time() - began)
    full, checkpointed = (min(taken) for taken in times.values())
    assert checkpointed <= 1.4 * full


SCRIPT = r"""
import re, torch, bptt
from pathlib import Path
import torch.nn.functional as F
from bptt.gradients import Checkpointed
torch.set_num_threads(1)
torch.manual_seed(0)
model = bptt.nn.GRU(4, 64)
x, target = torch.randn(100_000, 16, 4), torch.zeros(100_000, 16, 1)
def loss(y, wanted):
    return (y.mean(-1, keepdim=True) - wanted).square().mean()
step = Checkpointed().backward(model, x, target, loss=loss)
assert int(step.depth[-1]) == 99_999
assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
# Not getrusage: on Linux its maximum is handed down from the process that started this one.
status = Path("/proc/self/status")
if status.exists():
    print(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])
else:
    import resource
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)  # bytes outside Linux
"""


def test_a_hundred_thousand_steps_in_less_than_a_gigabyte():
    flags = ["-S"] if sys.flags.no_site else []  # find the package where this process found it
    done = subprocess.run([sys.executable, *flags, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1_000_000  # kilobytes, the interpreter and torch included

    # Full's peak grows by the step: two short runs say what all of them would take.
    model = bptt.nn.GRU(4, 64)

    def full(steps):
        x, target = torch.randn(steps, 16, 4), torch.zeros(steps, 16, 64)
        return peak(lambda: Full().backward(model, x, target, loss=F.mse_loss))

    each = (full(600) - full(300)) / 300
    assert 100_000 * each > 3e9


class Saved:
    """A tensor that some graph holds on to, counted while it does."""

    live = 0

    def __init__(self, tensor):
        self.tensor, self.size = tensor, tensor.nbytes
        Saved.live += self.size

    def __del__(self):
        Saved.live -= self.size


@pytest.mark.parametrize(
    ("estimator", "layer"),
    [(Truncated(4), nn.RNN), (Windowed(4, 10), bptt.nn.GRU)],
    ids=repr,
)
def test_memory_is_flat_over_a_thousand_chunks(estimator, layer):
    model, x, target = problem(layer, 4000, 2, 3, 5)
    saved, tensors = [], []

    def noting(output, wanted):
        value = loss(output, wanted)
        saved.append(Saved.live)
        if len(saved) % 100 == 50:
            gc.collect()
            tensors.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))
        return value

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda s: s.tensor):
        estimator.backward(model, x, target, loss=noting)
    assert len(saved) >= 1000
    early, late = saved[20:100], saved[-80:]
    assert max(late) == max(early) > 0  # held for backward
    assert max(tensors[5:]) <= max(tensors[:5])  # held by Python, the snapshots among them
    assert Saved.live == 0


def test_full_is_not_flat():
    """What the test above counts grows where it should."""
    model, x, target = problem(bptt.nn.GRU, 400, 2, 3, 5)
    live = []

    def noting(output, wanted):
        live.append(Saved.live)
        return loss(output, wanted)

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda s: s.tensor):
        Full(segments=100).backward(model, x, target, loss=noting)
    assert live[-1] > 10 * live[5]

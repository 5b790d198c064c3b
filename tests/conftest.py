"""Settings every test runs under."""

import os

# Before anybody imports Triton, which decides then: its kernels are tried on the CPU, line by line.
os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import pytest
import torch

import over_triton

# The test runner starts one process per core; more threads inside each would only fight for them.
torch.set_num_threads(1)

hypothesis.settings.register_profile("bptt", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("triton", deadline=None, max_examples=2, derandomize=True)
hypothesis.settings.load_profile("triton" if over_triton.ASKED else "bptt")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=over_triton.ASKED)
def _over_triton(request, monkeypatch):
    over_triton.install(monkeypatch, request.node.nodeid)


def pytest_terminal_summary(terminalreporter):
    if over_triton.ASKED:
        count, tests = over_triton.ran["calls"], len(over_triton.ran["tests"])
        terminalreporter.write_line(
            f"over Triton's kernels: {tests} tests, {count} calls of a layer"
        )

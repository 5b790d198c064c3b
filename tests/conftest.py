"""Settings every test runs under."""

import os

# Before anybody imports Triton, which decides then: its kernels are tried on the CPU, line by line.
os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import pytest
import torch

# The test runner starts one process per core; more threads inside each would only fight for them.
torch.set_num_threads(1)

hypothesis.settings.register_profile("bptt", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.load_profile("bptt")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)

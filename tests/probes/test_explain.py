"""What is said of a gradient that reaches as far as the sequence is long."""

from __future__ import annotations

import pytest
import torch

from bptt.probes import LagSpectrum, lag_spectrum
from bptt.probes.flow import explain
from bptt.recurrence import trace


def remembering(steps: int, at) -> LagSpectrum:
    """A loss on the last state, of a network that forgets nothing."""
    rnn = torch.nn.RNN(3, 4, nonlinearity="relu").double()
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.eye(4))
        rnn.weight_ih_l0.zero_()
        rnn.bias_ih_l0.fill_(0.01)  # open, and small enough for all steps to count alike
        rnn.bias_hh_l0.zero_()
    (one,) = trace(rnn, torch.randn(steps, 2, 3, dtype=torch.float64))
    direct = torch.zeros(steps, 2, 4, dtype=torch.float64)
    direct[-1] = 1
    return lag_spectrum(one, (direct,), at=at)


@pytest.mark.parametrize(
    ("steps", "at", "said"),
    [
        (1, None, "It has one step, and so nothing to truncate."),
        (30, [30], "No truncation of its 30 steps was measured."),
        (
            30,
            [4, 10],
            "Truncated to 10 steps of 30, the longest truncation measured, it is still off",
        ),
        (3, None, "Truncated to 2 steps of 3, the longest"),
    ],
)
def test_only_what_was_measured_is_said(steps: int, at, said: str) -> None:
    spectrum = remembering(steps, at)
    assert spectrum.horizon() == steps
    assert said in explain(spectrum)
    assert "any truncation" not in explain(spectrum)


def test_a_sample_is_named() -> None:
    torch.manual_seed(0)
    (one,) = trace(torch.nn.RNN(3, 4), torch.randn(30, 6, 3))
    sample = lag_spectrum(one, (torch.ones(30, 6, 4),), lanes=2, sources=10)
    assert "Measured on 2 of 6 lanes and the losses of 10 of 30 steps: the biases" in explain(
        sample
    )
    sample = lag_spectrum(one, (torch.ones(30, 6, 4),), lanes=2)
    assert "Measured on 2 of 6 lanes: the biases" in explain(sample)

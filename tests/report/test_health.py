"""Each rule says its word where it applies, and none where nothing is amiss."""

import pytest

from bptt.report.advice import health
from bptt.training import Settings


def lines(norm=0.5, clipped=0.1, horizon=None, grid=(1, 16, 64), bias=(0.9, 0.02, 0.0)):
    record = {"step": 1, "norm": norm, "clipped": clipped}
    if horizon is not None:
        record |= {"horizon": horizon, "spectrum": {"truncations": grid, "bias": bias}}
    return [{"step": 0, "norm": 50.0, "clipped": 1.0}] * 5 + [record] * 5


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ({}, []),
        ({"clipped": 0.95}, ["always clipped"]),
        ({"norm": 5e-4}, ["norm near zero"]),
        ({"horizon": 16}, []),
        # What the horizon says of k is the verdict's to say: one update's two lanes do not.
        ({"horizon": 60}, []),
        ({"horizon": 4, "grid": (1, 4, 64), "bias": (0.9, 0.009, 0.0)}, []),
        ({"horizon": 4, "grid": (1, 4, 64), "bias": (0.9, None, 0.0)}, []),
    ],
)
def test_rules(options, rules):
    assert [advice.rule for advice in health(lines(**options), Settings(k=64))] == rules


def test_a_run_without_lines_has_nothing_to_say():
    assert health([], Settings()) == ()
    assert health([{"step": 3, "valid": {}}], Settings()) == ()

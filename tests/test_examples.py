"""The examples run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_recurrent_ppo():
    """A policy that nobody here wrote, watched during a real training run."""
    done = subprocess.run(
        [
            sys.executable,
            *(["-S"] if sys.flags.no_site else []),
            EXAMPLES / "recurrent_ppo.py",
            "384",
        ],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    updates = re.findall(r"^update (\d+): (.*)$", done.stdout, re.M)
    # 384 steps are 3 rollouts of 128; each is 4 epochs of 2 batches; every fourth update is measured.
    assert [int(number) for number, _ in updates] == [0, 4, 8, 12, 16, 20]
    for _, modules in updates:
        # Actor and critic each have an LSTM. An episode is 6 steps: no gradient reaches beyond.
        horizons = re.findall(r"lstm_(?:actor|critic): horizon (\d+)", modules)
        assert len(horizons) == 2
        assert all(1 <= int(horizon) <= 6 for horizon in horizons)
    assert "The gradient is" in done.stdout

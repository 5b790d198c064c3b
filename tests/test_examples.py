"""The examples run as they stand there, and find what their pages say."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
VOICES = Path(os.environ.get("BPTT_SOUNDS", "/usr/share/asterisk/sounds"))


def run(name, *arguments):
    """What an example prints."""
    words = [sys.executable, *(["-S"] if sys.flags.no_site else []), EXAMPLES / f"{name}.py"]
    done = subprocess.run(
        [*words, *map(str, arguments)], capture_output=True, text=True, env=os.environ, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_recurrent_ppo():
    """A policy that nobody here wrote, watched during a real training run."""
    printed = run("recurrent_ppo", 384)
    updates = re.findall(r"^update (\d+): (.*)$", printed, re.M)
    # 384 steps are 3 rollouts of 128; each is 4 epochs of 2 batches; every fourth update is measured.
    assert [int(number) for number, _ in updates] == [0, 4, 8, 12, 16, 20]
    for _, modules in updates:
        # Actor and critic each have an LSTM. An episode is 6 steps: no gradient reaches beyond.
        horizons = re.findall(r"lstm_(?:actor|critic): horizon (\d+)", modules)
        assert len(horizons) == 2
        assert all(1 <= int(horizon) <= 6 for horizon in horizons)
    assert re.search(r"^longest horizon [1-6]: an episode is 6 steps", printed, re.M)
    assert "The gradient is" in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recurrent_sb3", "recurrent_torchrl"])
def test_a_recurrent_policy_earns_the_same_converted(name):
    """Real training runs of both libraries, with and without us, at one seed."""
    printed = run(name, *((1536,) if name == "recurrent_sb3" else (8,)))
    lines = re.findall(
        r"^(as it is|converted): ([\d,]+) frames .*; returns ([\d. ]+)$", printed, re.M
    )
    assert [which for which, *_ in lines] == ["as it is", "converted"]
    assert len(lines[0][2].split()) >= 3
    assert lines[0][2] == lines[1][2]
    if name == "recurrent_sb3":
        assert "loaded again: the LSTM is bptt's, the action is the same" in printed


@pytest.mark.slow
def test_windowed_loop():
    printed = run("windowed_loop")
    right = dict(re.findall(r"^(\w+) +([\d.]+)% of the characters", printed, re.M))
    off = dict(re.findall(r"^(\w+) +off by +([\d.]+)%", printed, re.M))
    # Nothing before a chunk of 8 is seen in the zeroed loop: two of eight targets lie within it, and
    # the score is over all that can be named. Chance is 25.
    assert float(right["zeroed"]) < 45
    # The order is the example's point; it came out with gaps of 26 points, so that 10 leave room for
    # another machine's rounding.
    assert float(right["windowed"]) > float(right["detached"]) + 10 > float(right["zeroed"]) + 15
    assert float(off["windowed"]) < float(off["detached"]) < float(off["zeroed"])


@pytest.mark.slow
def test_diagnose_lstm():
    printed = run("diagnose_lstm")
    before, after = printed.split("start_chrono(model, 60)")
    assert "The gradient is vanishing" in before
    assert "The gradient is healthy" in after
    horizon = [int(re.search(r"horizon (\d+) of 60", part)[1]) for part in (before, after)]
    assert horizon[0] < 15 < 40 < horizon[1]
    score = [float(re.search(r"([\d.]+)% right", part)[1]) for part in (before, after)]
    # 500 sequences, chance 25 %: four standard errors of a guess are 8 points.
    assert score[0] < 33
    assert score[1] > 90


@pytest.mark.slow
def test_lightning_horizon():
    printed = run("lightning_horizon")
    horizons = [int(n) for n in re.findall(r"horizon (\d+) of 40", printed)]
    assert len(horizons) >= 6
    assert horizons[0] < 20 < horizons[-1]  # it grows while the sum is learned
    before, after = re.search(r"error ([\d.]+) in .*, ([\d.]+) in", printed).groups()
    assert float(after) < 0.05 < float(before)  # always saying 1 costs 0.167


@pytest.mark.slow
def test_forecast_co2(tmp_path):
    """On a series made like the real one: a rising trend, a season, noise of a tenth of a ppm."""
    noise = iter(range(1, 10_000))
    lines = []
    for week in range(2284):
        season = 3 * math.sin(2 * math.pi * week / 52.18) + math.sin(4 * math.pi * week / 52.18)
        ppm = 315 + 0.015 * week + 6e-6 * week**2 + season + 0.1 * math.sin(next(noise) ** 2)
        lines.append(f"{week},{ppm:.2f}")
    (tmp_path / "co2.csv").write_text("date,co2\n" + "\n".join(lines) + "\n")
    printed = run("forecast_co2", tmp_path)
    now, year, gru = (float(n) for n in re.findall(r"([\d.]+)$", printed, re.M)[-3:])
    assert year < now  # the season is there
    assert gru < now / 2  # the task's goal


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("forecast_co2", [], "bptt data fetch co2"),
        ("keyword_spotting", ["none"], "apt-get install"),
    ],
)
def test_an_example_without_its_data_says_so_in_a_line(name, words, said, tmp_path):
    """Nothing to fetch from either: pip is told to ask nobody."""
    done = subprocess.run(
        [sys.executable, *(["-S"] if sys.flags.no_site else []), EXAMPLES / f"{name}.py", *words],
        capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False,
        env={**os.environ, "PIP_NO_INDEX": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert said in lines[0]
    assert len(lines) <= 2  # what is fetched, and why that failed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.device
def test_keyword_spotting():
    """On the recordings that .ci/run installs; BPTT_SOUNDS names another folder."""
    assert (VOICES / "it_IT_f_Menardi").is_dir(), (
        "expected Debian's asterisk-prompt-it-menardi-wav and asterisk-core-sounds-it-wav: install them, "
        "or say -m 'not device'"
    )
    printed = run("keyword_spotting", VOICES)
    seen, unseen = (int(n) for n in re.findall(r": (\d+)% of the digits", printed))
    assert seen >= 90
    # Ten digits of a speaker never heard; by chance one of eleven answers is right. Four of ten or
    # more happen by guessing once in a hundred.
    assert unseen >= 40
    assert re.findall(r"^C, (\w+): agrees with Python", printed, re.M) == ["float32", "int8"]


def test_every_example_is_on_the_page():
    page = (ROOT / "docs" / "examples.md").read_text("utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f"examples/{path.name}" in page

"""The short forms of the tortures; ``./run torture`` runs the long ones.

In an interpreter of their own: they fork, and the one that runs the tests has threads by now.
"""

import subprocess

import pytest

from processes import interpreter, same_path
from torture import changed_texts, damage, extended, moved_directories


def torture(*words):
    """Run one as ``./run torture`` does; return what it says it did."""
    command = [*interpreter(), "-m", "torture", *words]
    done = subprocess.run(command, env=same_path(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_killed_and_resumed_a_run_is_the_run_that_was_never_killed():
    assert "6 kills of" in torture("kills", "--kills", "6", "--seed", "1")


@pytest.mark.slow
def test_a_run_that_loses_its_terminal_loses_no_update():
    assert torture("hangups", "--hangups", "8", "--seed", "1").startswith("hangups: 8 hangups of ")


def test_a_run_that_is_given_more_ends_with_the_score_of_its_own_weights(tmp_path):
    done = extended.torture(tmp_path, rounds=5, seed=3)
    assert done.startswith("5 runs extended (")
    assert ", each with the score of its own last weights" in done


@pytest.mark.slow
def test_a_full_or_read_only_disk_ends_a_run_with_a_line_and_loses_nothing():
    done = torture("disk")
    assert done.count("bytes at most") == 2
    assert done.count("read-only by rights") == 2


@pytest.mark.slow
def test_a_damaged_file_is_refused_or_passed_over_and_named(tmp_path):
    done = damage.torture(tmp_path, damages=500, seed=0)
    assert done.startswith("500 damages")
    counted = [int(word) for word in done.split() if word.isdigit()]
    assert min(counted) > 50, "each kind of outcome was met"


@pytest.mark.slow
def test_folders_from_somebody_else_touch_nothing_outside():
    done = torture("hostile", "--hostile", "24", "--seed", "3")
    assert "24 rounds" in done
    assert done.count("refused") == done.count("harmless") == 2, "each kind of outcome was met"


def test_damage_in_short(tmp_path):
    assert damage.torture(tmp_path, damages=40, seed=7).startswith("40 damages")


def test_texts_changed_in_short(tmp_path):
    done = changed_texts.torture(tmp_path, rounds=28, seed=3)
    assert done.startswith("28 changed texts")
    assert min(int(word) for word in done.split() if word.isdigit()) > 0, "each outcome was met"


def test_directories_moved_in_short(tmp_path):
    done = moved_directories.torture(tmp_path, rounds=24, seed=3)
    assert done.startswith("24 moved directories")
    assert min(int(word) for word in done.split() if word.isdigit()) > 0, "each outcome was met"


def test_no_control_character_reaches_a_reader_in_short():
    assert torture("shown", "--shown", "1", "--seed", "3").startswith("shown: 1 rounds")


@pytest.mark.slow
def test_no_control_character_reaches_a_reader():
    done = torture("shown", "--shown", "20", "--seed", "1")
    numbers = [int(word) for word in done.split() if word.isdigit()]
    assert min(numbers[:5]) >= 20, "pipes, terminals, refusals and escapes were all met: " + done

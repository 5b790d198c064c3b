"""Tasks on real data: read from small files written here, in the form the real ones have."""

import math

import pytest
import torch

from bptt.errors import ArgumentError, DataError
from bptt.tasks import CO2, Digits, JapaneseVowels
from bptt.tasks.task import IGNORED
from compare import assert_close, assert_equal


def draw(task, size=7):
    return task.batch(torch.Generator().manual_seed(0), size)


@pytest.fixture
def digits(tmp_path):
    """Ten lines: image n is n everywhere, labelled n."""
    rows = [",".join([str(n)] * 64 + [str(n)]) for n in range(10)]
    (tmp_path / "digits.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_digits_by_pixel_and_by_row(digits):
    for by, shape in (("pixel", (64, 1)), ("row", (8, 8))):
        task = Digits(by, digits)
        batch = draw(task)
        assert batch.inputs.shape == (shape[0], 7, shape[1])
        assert_close(batch.inputs[0, :, 0] * 16, batch.targets[-1].float(), 0.0)
        assert bool((batch.targets[:-1] == IGNORED).all())
    train = set(draw(task, 500).targets[-1].tolist())
    test = set(task.held_out().targets[-1].tolist())
    assert len(test) == 2
    assert train == set(range(10)) - test
    assert task.chance == 0.5
    assert_equal(Digits("row", digits).held_out(), task.held_out())


def test_vowels_have_lengths_and_one_target_a_lane(tmp_path):
    head = "#made\n@data\n"
    (tmp_path / "train.ts").write_text(head + "0,2,4:1,3,1:7\n2:1:9\n")
    (tmp_path / "test.ts").write_text(head + "4,0:1,3:9\n2:1:7\n2:1:9\n")
    task = JapaneseVowels(tmp_path)
    batch = task.held_out()
    assert batch.lengths.tolist() == [2, 1, 1]
    # Training values 0 2 4 2 and 1 3 1 1: means 2 and 1.5, deviations √(8/3) and 1.
    expected = torch.tensor([[2 / math.sqrt(8 / 3), -0.5], [-2 / math.sqrt(8 / 3), 1.5]])
    assert_close(batch.inputs[:, 0], expected, 1e-6)
    assert bool((batch.inputs[1, 1:] == 0).all())
    assert batch.targets.tolist() == [[IGNORED, 0, 1], [1, IGNORED, IGNORED]]
    assert task.chance == pytest.approx(2 / 3)
    drawn = draw(task, 50)
    assert set(drawn.lengths.tolist()) == {1, 3}
    assert int((drawn.targets != IGNORED).sum()) == 50


@pytest.fixture
def co2(tmp_path):
    """A line of slope 2 with a gap: what is filled in lies on it too."""
    rows = [f"1958{n:04d},{'' if n in (3, 4) else 300 + 2 * n}" for n in range(50)]
    (tmp_path / "co2.csv").write_text("date,co2\n" + "\n".join(rows) + "\n")
    return tmp_path


def test_co2_is_scaled_by_what_is_trained_on_and_scored_in_ppm(co2):
    task = CO2(steps=5, ahead=3, folder=co2)
    batch = draw(task)
    unit = torch.arange(300.0, 380, 2).double().std(correction=0)
    assert batch.inputs.shape == batch.targets.shape == (5, 7, 1)
    assert_close(
        ((batch.targets - batch.inputs).double() * unit).flatten(),
        torch.full((35,), 6.0, dtype=torch.float64), 1e-5, check_dtype=False,
    )  # fmt: skip
    assert batch.targets.max() <= (378 - 339) / unit + 1e-6  # nothing of the last fifth
    held = task.held_out()
    assert bool(held.targets[:5].isnan().all())
    assert int((~held.targets.isnan()).sum()) == 7  # ten weeks, the first three are read only
    assert task.chance == pytest.approx(6, rel=1e-5)
    assert task.goal == pytest.approx(3, rel=1e-5)
    assert task.score(held.targets.nan_to_num(), held.targets) == 0
    assert task.loss(batch.targets, batch.targets) == 0


def test_what_is_missing_or_broken(tmp_path, digits):
    for make, name in ((Digits, "digits"), (JapaneseVowels, "japanese-vowels"), (CO2, "co2")):
        with pytest.raises(DataError, match=f"bptt data fetch {name}"):
            make(folder=tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match="by pixel"):
        Digits("column", digits)
    for text in ("", "1,2,3\n", ",".join(["x"] * 65)):
        (tmp_path / "digits.csv").write_text(text)
        with pytest.raises(DataError, match="digits"):
            Digits(folder=tmp_path)
    for text in ("no data", "@data\n1,x:2,3:a\n", "@data\n1,2:3:a\n"):
        (tmp_path / "train.ts").write_text(text)
        (tmp_path / "test.ts").write_text(text)
        with pytest.raises(DataError, match="japanese-vowels"):
            JapaneseVowels(tmp_path)
    for text in ("date,co2\n1,a\n", "date,co2\n1,2\n"):
        (tmp_path / "co2.csv").write_text(text)
        with pytest.raises(DataError, match="co2"):
            CO2(folder=tmp_path)

"""What a user's type checker sees: the package says its types, and a call's result has one."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import bptt
from processes import same_path

ROOT = Path(__file__).parents[1]

# A line that is wrong on purpose says so; where the checker found nothing there, --strict would
# complain of the comment.
USER = """
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

import bptt
from bptt.gradients import Truncated


class Tagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = bptt.nn.GRU(3, 5, batch_first=True)
        self.lstm = bptt.nn.LSTM(5, 4)
        self.embedding = torch.nn.Embedding(9, 3)

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        y, h = self.gru(x, lengths=lengths, reset=torch.zeros(2, 4, dtype=torch.bool))
        z, (h2, c2) = self.lstm(y)
        return z + c2 + h

    def tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        wrong: int = self.gru(tokens)  # type: ignore[assignment]
        return self.gru.forward_tokens(tokens, self.embedding.weight)


def packed(rnn: bptt.nn.RNN, lstm: bptt.nn.LSTM, x: PackedSequence) -> PackedSequence:
    wrong: Tensor = rnn(x)[0]  # type: ignore[assignment]
    both: tuple[PackedSequence, tuple[Tensor, Tensor]] = lstm.forward(x)
    rnn(x, lengths=[2, 1])  # type: ignore[call-overload]
    lstm(x.data, x.data)  # type: ignore[call-overload]
    return rnn.forward(x, torch.zeros(1, 2, 5))[0]


model: Tagger = bptt.convert(Tagger())
with bptt.watch(model) as flow:
    model(torch.randn(2, 4, 3), [4, 2]).sum().backward()
horizon: int = flow.horizon
again: Tagger = bptt.revert(model)
x, target = torch.randn(9, 2, 3), torch.randn(9, 2, 5)
step = Truncated(k=4).backward(torch.nn.GRU(3, 5), x, target, loss=torch.nn.functional.mse_loss)
print(step.loss, horizon, bptt.__version__)
"""


@pytest.mark.slow
def test_a_users_script_passes_the_strict_checker(tmp_path):
    (tmp_path / "user.py").write_text(USER, encoding="utf-8")
    # Not our settings: a user has none.
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "user.py"]
    environment = same_path()
    environment["MYPYPATH"] = str(Path(bptt.__file__).parents[1])
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_are_handed_on():
    assert (Path(bptt.__file__).parent / "py.typed").is_file()


def test_the_version_stands_in_one_place():
    """Where it is not the one here, the package was installed before it changed."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert not re.search(r"^version\b", project, re.M)
    assert version("bptt") == bptt.__version__
    assert "version:" not in (ROOT / "CITATION.cff").read_text("utf-8").replace("cff-version:", "")
    held = [
        path.name
        for path in (*ROOT.glob("*.*"), *ROOT.glob("src/bptt/*.py"))
        if path.is_file() and f'"{bptt.__version__}"' in path.read_text("utf-8")
    ]
    assert held == ["__init__.py"]

"""Shapes, dtypes and devices that do not fit: which, and what to do."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import bptt
from bptt.errors import ArgumentError, BpttError, DeviceError, DtypeError, ShapeError

X = torch.zeros(5, 2, 3)
MASK = torch.zeros(5, 2, dtype=torch.bool)
CASES = [
    ("features", {"input": torch.zeros(5, 2, 4)}, ShapeError, "input_size=3"),
    ("axes", {"input": torch.zeros(3)}, ShapeError, "2 or 3 axes"),
    ("no steps", {"input": torch.zeros(0, 2, 3)}, ShapeError, "at least one time step"),
    ("no steps, no lanes", {"input": torch.zeros(0, 0, 3)}, ShapeError, "at least one time step"),
    ("not a tensor", {"input": [[1.0]]}, DtypeError, "torch.as_tensor"),
    ("double", {"input": X.double()}, DtypeError, r"torch.float32.*torch.float64"),
    ("integers", {"input": X.long()}, DtypeError, "torch.int64"),
    ("device", {"input": X.to("meta")}, DeviceError, "on cpu, received meta"),
    ("state batch", {"hx": torch.zeros(1, 3, 4)}, ShapeError, r"\(1, 2, 4\).*\(1, 3, 4\)"),
    ("state axes", {"hx": torch.zeros(2, 4)}, ShapeError, r"\(1, 2, 4\)"),
    ("state dtype", {"hx": torch.zeros(1, 2, 4).double()}, DtypeError, "hx of torch.float32"),
    ("state kind", {"hx": 0}, DtypeError, "start from zeros"),
    ("length count", {"lengths": torch.tensor([5])}, ShapeError, r"\(B=2,\)"),
    (
        "length below",
        {"lengths": torch.tensor([-1, 5])},
        ArgumentError,
        "0 to T=5, received -1 to 5",
    ),
    ("length long", {"lengths": torch.tensor([6, 5])}, ArgumentError, "received 5 to 6"),
    ("length float", {"lengths": torch.tensor([5.0, 5.0])}, DtypeError, "integer lengths"),
    ("mask dtype", {"reset": MASK.int()}, DtypeError, "reset as a bool"),
    ("mask shape", {"reset": MASK.T}, ShapeError, r"\(T=5, B=2\).*\(2, 5\)"),
    ("cut shape", {"cut": MASK[:4]}, ShapeError, "cut of the input's leading axes"),
]


@pytest.mark.parametrize(
    ("call", "kind", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_call(call, kind, words):
    layer = bptt.nn.GRU(3, 4)
    with pytest.raises(kind, match=words) as caught:
        layer(**{"input": X, **call})
    assert isinstance(caught.value, BpttError)
    assert "\n" not in str(caught.value)


def test_lstm_wants_a_pair():
    layer = bptt.nn.LSTM(3, 4)
    for hx in (torch.zeros(1, 2, 4), (torch.zeros(1, 2, 4),)):
        with pytest.raises(DtypeError, match=r"pair \(h, c\)"):
            layer(X, hx)


def test_packed_brings_its_own_lengths():
    packed = pack_padded_sequence(X, torch.tensor([5, 4]))
    with pytest.raises(ArgumentError, match="drop lengths="):
        bptt.nn.GRU(3, 4)(packed, lengths=torch.tensor([5, 4]))


def test_unbatched_state():
    layer = bptt.nn.GRU(3, 4)
    with pytest.raises(ShapeError, match=r"\(1, 4\).*unbatched"):
        layer(X[:, 0], torch.zeros(1, 1, 4))


def test_constructor_errors_stay_torchs():
    with pytest.raises(ValueError, match="hidden_size"):
        bptt.nn.GRU(3, 0)

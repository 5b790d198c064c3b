"""int8: the C code equals its NumPy twin bit for bit, and both stay near float."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bptt
from bptt import export_c
from bptt.errors import ArgumentError
from bptt.export import measure_cost
from bptt.export import quantise as integer
from bptt.export.extract import read_network, time_first
from bptt.export.quantise import Simulator, q_input, quantise
from bptt.models import LanguageModel
from c_code import Library, call, compile_program
from compare import assert_equal

CELLS = ["rnn", "rnn-relu", "gru", "lstm"]


def language_model(cell, hidden=16, layers=1, symbols=27, embedding=8):
    model = LanguageModel(symbols, cell=cell, hidden=hidden, layers=layers, embedding=embedding)
    torch.nn.init.normal_(model.output.weight)
    return model


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("cell", CELLS)
def test_c_equals_the_simulator(cell, bits, tmp_path):
    model = language_model(cell, layers=2)
    tokens = torch.randint(27, (3000, 1))
    export = export_c(model, tokens, name="net", precision="int8", output_bits=bits)
    expected = Simulator(export.quantised).run(tokens.numpy())[:, 0]
    got = Library(export, tmp_path / "net").run(tokens[:, 0].numpy())
    assert_equal(got, expected.astype(got.dtype), cell)


@pytest.mark.parametrize("cell", CELLS)
def test_vectors_and_a_bare_layer(cell, tmp_path):
    make = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
    module = torch.nn.RNN(3, 7, nonlinearity="relu") if cell == "rnn-relu" else make[cell](3, 7)
    x = torch.randn(2000, 1, 3)
    for bits in (8, 16):
        export = export_c(module, x, name="net", precision="int8", output_bits=bits)
        # Ten times beyond the calibration data: everything saturates, nothing wraps around.
        taken = q_input(export.quantised, 10 * x[:, 0].numpy())
        expected = Simulator(export.quantised).run(taken[:, None])[:, 0]
        got = Library(export, tmp_path / str(bits)).run(taken)
        assert_equal(got, expected.astype(got.dtype), cell)


def test_embedding_that_is_not_folded(tmp_path):
    model = language_model("gru", symbols=300)
    tokens = torch.randint(300, (1500, 1))
    export = export_c(model, tokens, name="net", precision="int8")
    assert "embedding[" in export.files["net.c"]
    expected = Simulator(export.quantised).run(tokens.numpy())[:, 0]
    assert_equal(Library(export, tmp_path / "net").run(tokens[:, 0]), expected.astype(np.int8))


@pytest.mark.parametrize("cell", CELLS)
def test_states_stay_near_float(cell):
    """Rounding of weights to 1/254 of a row's largest and of z by a table to 1e-4, in a cell that
    forgets: an error of a few per cent would be a wrong scale or gate."""
    model = language_model(cell)
    tokens = torch.randint(27, (3000, 1))
    export = export_c(model, tokens, name="net", precision="int8")
    cost = measure_cost(export.quantised, tokens[:, 0].numpy())
    assert cost.largest_state_error < 0.05
    assert not cost.drifts
    assert cost.agreement > 0.95
    assert abs(cost.more_bits) < 0.01


def test_flash_is_at_most_a_third():
    model = language_model("gru", hidden=128, symbols=66, embedding=128)
    tokens = torch.randint(66, (1000, 1))

    def flash(**options):
        header = export_c(model, tokens, name="net", **options).files["net.h"]
        return int(header.split("(flash)")[1].split()[0])

    assert flash(precision="int8") <= flash() / 3


def test_no_floating_point_and_no_library():
    export = export_c(language_model("lstm"), torch.randint(27, (1000, 1)), precision="int8")
    code = export.files["model.c"]
    assert "float" not in code
    assert "double" not in code
    assert "math.h" not in code


def test_relative_logits_keep_the_choice_and_the_order():
    z = np.array([[5 << 14, (5 << 14) - 1, -(40 << 14), 4 << 14], [7, 7, 7, 7]])
    got = integer.relative(z)
    assert got.tolist() == [[127, 126, -128, 127 - 16], [127, 126, 126, 126]]


@given(st.integers(-(2**26), 2**26))
@settings(max_examples=200)
def test_tanh_and_sigmoid_by_table(z):
    """Linear interpolation of tanh over steps of 1/32 is off by at most h²/8 max|f''| = 9.4e-5, and
    rounding of entry and result by 2^-15; beyond the table the curve is flat to 1e-6."""
    x = z / 2.0**14
    assert abs(integer.tanh(np.array([z]))[0] / 2**15 - np.tanh(x)) < 9.4e-5 + 2**-15
    sigmoid = 0.5 + 0.5 * np.tanh(x / 2)
    assert abs(integer.sigmoid(np.array([z]))[0] / 2**15 - sigmoid) < 4.7e-5 + 2**-15
    assert integer.tanh(np.array([-z]))[0] == -integer.tanh(np.array([z]))[0]


def test_a_state_that_should_stay_stays():
    """An LSTM cell held by its forget gate keeps its value: rounding does not pull it to zero."""
    module = torch.nn.LSTM(1, 1)
    for p in module.parameters():
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        module.bias_ih_l0.copy_(torch.tensor([-20.0, 20.0, 0.0, 20.0]))
    x = torch.randn(1000, 1, 1)
    network = read_network(module, x)
    simulator = Simulator(quantise(network, time_first(network, x)))
    simulator.states[0][1][:] = start = 1234
    simulator.run(np.zeros((5000, 1, 1), int))
    assert int(simulator.states[0][1][0, 0]) == start


@pytest.mark.device
def test_sanitizers_find_nothing(tmp_path):
    from c_code import SANITIZE

    export_c(
        language_model("lstm", layers=2), torch.randint(27, (1000, 1)), tmp_path / "net",
        name="net", precision="int8",
    )  # fmt: skip
    for compiler in ("gcc", "clang"):
        assert call(compile_program(tmp_path / "net", "net", compiler, *SANITIZE)).startswith("ok")


def test_bad_calibration():
    module = bptt.nn.GRU(2, 3)
    with pytest.raises(ArgumentError, match="at least 1000 steps of calibration data"):
        export_c(module, torch.randn(999, 1, 2), precision="int8")
    bad = torch.randn(1000, 1, 2)
    bad[3, 0, 1] = float("nan")
    with pytest.raises(ArgumentError, match="finite input"):
        export_c(module, torch.randn(9, 1, 2), precision="int8", calibration=bad)
    with pytest.raises(ArgumentError, match="for int8 only"):
        export_c(module, torch.randn(9, 1, 2), calibration=torch.randn(1000, 1, 2))

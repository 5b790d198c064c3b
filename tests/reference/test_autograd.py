"""The reference against float64 autograd: outputs and every gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from cases import (
    CELLS,
    NAMES,
    Case,
    autograd,
    cases,
    leaves,
    module,
    oracle,
    oracle_trace,
    random_case,
)
from compare import assert_close

TOL = 1e-12
FLOOR = 0.1  # dy is about 1; results that cancel far below it keep the rounding of their terms


def torch_layer(case: Case) -> dict[str, torch.Tensor]:
    """``torch.nn.RNN``, ``GRU`` or ``LSTM`` on the case, lengths by PackedSequence."""
    x, state0, weights = leaves(case)
    kinds: dict[str, Any] = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
    kind = kinds.get(case.cell, torch.nn.RNN)
    extra = {"nonlinearity": case.cell[4:]} if case.cell.startswith("rnn") else {}
    _, _, inputs, hidden = case.sizes
    layer = kind(inputs, hidden, dtype=torch.float64, **extra)
    names = [f"{name.replace('w_', 'weight_').replace('b_', 'bias_')}_l0" for name in NAMES]
    states = tuple(s[None] for s in state0)

    sequence: Any = x
    if case.lengths is not None:
        ends = torch.tensor(case.lengths)
        sequence = torch.nn.utils.rnn.pack_padded_sequence(x, ends, enforce_sorted=False)
    y, final = torch.func.functional_call(
        layer,
        dict(zip(names, weights, strict=True)),
        (sequence, states if case.cell == "lstm" else states[0]),
    )
    if case.lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=case.sizes[0])
    final = tuple(final) if case.cell == "lstm" else (final,)

    loss = (y * torch.tensor(case.dy)).sum()
    for s, ds in zip(final, case.dstate, strict=True):
        loss = loss + (s[0] * torch.tensor(ds)).sum()
    loss.backward()
    result: dict[str, Any] = {"y": y, "h_n": final[0][0], "dx": x.grad, "dh0": state0[0].grad}
    result |= {f"d{name}": w.grad for name, w in zip(NAMES, weights, strict=True)}
    if case.cell == "lstm":
        result |= {"c_n": final[1][0], "dc0": state0[1].grad}
    return result


@given(cases(reset=False, cut=False, empty=False))  # packing knows no empty lane
@settings(max_examples=150)
def test_equals_torch_layers(case: Case) -> None:
    expected = torch_layer(case)
    actual = {name: value for name, value in oracle(case).items() if name in expected}
    assert_close(actual, expected, TOL, case.cell, floor=FLOOR)


@given(cases())
@settings(max_examples=300)
def test_equals_a_torch_loop_with_resets_cuts_and_lengths(case: Case) -> None:
    assert_close(oracle(case), autograd(case), TOL, case.cell, floor=FLOOR)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 4, 3, 2), (5, 1, 1, 3), (4, 3, 2, 1)])
def test_smallest_sizes(cell: str, sizes: tuple[int, int, int, int]) -> None:
    case = random_case(cell, *sizes, seed=7)
    assert_close(oracle(case), autograd(case), TOL, cell, floor=FLOOR)


@pytest.mark.parametrize("cell", CELLS)
def test_a_longer_sequence(cell: str) -> None:
    case = random_case(cell, 60, 3, 5, 17, seed=11)
    if cell == "rnn_relu":  # halve the recurrence, or its state grows without bound
        case.weights.w_hh[:] *= 0.5
    assert_close(oracle(case), autograd(case), TOL, cell)


@pytest.mark.parametrize("cell", CELLS)
def test_final_gradients_default_to_zero(cell: str) -> None:
    case = random_case(cell, 4, 2, 3, 2, seed=3)
    zero = replace(case, dstate=tuple(0.0 * s for s in case.dstate))
    expected = {k: v for k, v in oracle(zero).items() if k not in ("y", "h_n", "c_n")}
    assert_close(module(cell).backward(oracle_trace(case), case.dy), expected, 0.0, cell)

"""Claims about how many parameters there are and what a step of them costs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from bptt.claims.registry import Measurement, claim
from bptt.export import export_c
from bptt.export.board import CLOCKS, BoardCost, measure_on_board, missing_tools
from bptt.models import LanguageModel


def count(model: nn.Module) -> int:
    """Parameters of a model."""
    return sum(p.numel() for p in model.parameters())


@claim(
    id="D1",
    source="D",
    statement="How many parameters there are does not depend on the sequence's length.",
    published="equal",
    rule="one model takes a gradient at T=4 and at T=4000; entries of the gradients are equal in number",
)
def length_costs_no_parameters() -> Measurement:
    torch.manual_seed(0)
    model = LanguageModel(11, cell="rnn", hidden=16)
    entries = []
    for T in (4, 4000):
        model.zero_grad(set_to_none=True)
        model(torch.randint(11, (T, 1)))[0].square().mean().backward()
        entries.append(sum(p.grad.numel() for p in model.parameters() if p.grad is not None))
    return Measurement(
        f"{entries[0]} at T=4, {entries[1]} at T=4000",
        {"equal": entries[0] == entries[1] == count(model)},
    )


@claim(
    id="C6",
    source="C",
    statement="A GRU has about twice the parameters of a plain RNN of the same size.",
    published="2×",
    rule="input = hidden = 128, counted; holds if the ratio is between 1.75 and 2.25",
)
def gru_is_twice_an_rnn() -> Measurement:
    rnn, gru, lstm = (count(m(128, 128)) for m in (nn.RNN, nn.GRU, nn.LSTM))
    return Measurement(
        f"RNN {rnn}, GRU {gru} ({gru / rnn:g}×), LSTM {lstm} ({lstm / rnn:g}×)",
        {"about twice": 1.75 <= gru / rnn <= 2.25},
        "A GRU stacks three matrices of a plain RNN's size (reset gate, update gate, candidate), so it "
        f"has exactly {gru // rnn} times the parameters, whatever the sizes; an LSTM has "
        f"{lstm // rnn} times.",
    )


def on_boards(model: nn.Module, symbols: int) -> dict[str, BoardCost]:
    """The exported C of a model over tokens, run and counted on each emulated board, float32."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = torch.randint(symbols, (20, 1))
        export = export_c(model, tokens, Path(folder) / "net", name="net")
        return {b: measure_on_board(export, b, Path(folder) / "build") for b in CLOCKS}


@claim(
    id="C5",
    source="C",
    statement="A plain RNN of 32 units has about 3,000 parameters and takes a step in under 1 ms on a "
    "small device.",
    published="~3,000; <1 ms",
    rule="counted for 27 symbols in and out: within 15 % of 3,000; time: the exported C (float32) "
    "checked on an emulated Cortex-M4F of 25 MHz and a Cortex-M0 of 16 MHz, its instructions "
    "counted, at one a cycle: under 1 ms on each; without compiler and emulator not measured",
)
def small_rnn_on_a_device() -> Measurement:
    hidden, symbols = 32, 27
    torch.manual_seed(0)
    model = nn.Sequential(nn.RNN(symbols, hidden), nn.Linear(hidden, symbols))
    whole = count(model)
    lacking = missing_tools()
    costs = {} if lacking else on_boards(model, symbols)
    times = {board: cost.milliseconds for board, cost in costs.items()}
    words = "; ".join(
        f"{board} at {c.clock / 1e6:.0f} MHz: {c.instructions:,} instructions a step, "
        f"{c.milliseconds:.3g} ms, flash {c.flash:,} bytes, RAM {c.state} + {c.stack} bytes"
        for board, c in costs.items()
    )
    parts: dict[str, bool | None] = {"about 3,000 parameters": abs(whole - 3000) <= 450}
    for board in CLOCKS:
        parts[f"under 1 ms on a {board}"] = times[board] < 1 if costs else None
    return Measurement(
        f"layer {count(model[0])}, with {symbols} outputs {whole} parameters; "
        + (words or f"not measured on a device: no {', '.join(lacking)} here"),
        parts,
        "The count is right for a character model, and the time where the core has a floating-point "
        "unit. A core without one calls a function for every addition and product of floats; there "
        "integers are needed (docs/device.md has the figures of int8)."
        if costs
        else "The count is right for a character model. The time needs a compiler and an emulator for "
        "Cortex-M, which are not on this machine.",
        {"parameters": whole, "milliseconds": times},
    )

"""Claims that are counted: parameters, steps, tables of numbers, what a state can hold."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from torch import nn

from bptt import nn as layers
from bptt.experiments.claims.learn import SEEDS, SYMBOLS, spread
from bptt.experiments.claims.registry import Measurement, claim
from bptt.export import export_c
from bptt.export.cost import CLOCKS, BoardCost, measure_on_board, missing_tools
from bptt.models import LanguageModel
from bptt.probes import capacity
from bptt.recurrence import trace

# Claims that are sums and powers: tables re-made digit by digit.


def agrees(value: float, published: str) -> bool:
    """Within one unit of the last digit that was printed.

    Example:
        >>> agrees(0.3487, ".349"), agrees(0.3487, ".387")
        (True, False)
    """
    mantissa, _, exponent = published.partition("e")
    digits = len(mantissa.partition(".")[2])
    return abs(value - float(published)) <= 10.0 ** (int(exponent or 0) - digits)


@claim(
    id="E1",
    source="E",
    statement="Table of what is left after T steps, ρ^T, for ρ = 0.9, 0.8, 0.7 and T = 10, 30, 100.",
    published=".387/.107/.028; .042/.001/7e-5; 2.7e-5/≈0/≈0",
    rule="each entry is ρ^T within one unit of its last digit; ≈0 means under 1e-6",
)
def decay_table() -> Measurement:
    table = {10: (".387", ".107", ".028"), 30: (".042", ".001", "7e-5"), 100: ("2.7e-5", "", "")}
    parts: dict[str, bool | None] = {}
    wrong, words = [], []
    for T, row in table.items():
        for rho, printed in zip((0.9, 0.8, 0.7), row, strict=True):
            value = rho**T
            right = agrees(value, printed) if printed else value < 1e-6
            parts[f"{rho}^{T} ≈ {printed or 0}"] = right
            words.append(f"{rho}^{T} = {value:.3g}")
            if not right:
                exponent = math.log(float(printed)) / math.log(rho)
                wrong.append(f"{printed} is {rho}^{exponent:.1f}, not {rho}^{T} = {value:.3g}")
    return Measurement(
        "; ".join(words), parts, "The table mixes exponents: " + "; ".join(wrong) + "."
    )


@claim(
    id="C3",
    source="C",
    statement="0.9^99 ≈ 2.7e-5, 0.95^99 ≈ 0.006, 0.99^50 ≈ 0.60, 0.99^200 ≈ 0.13.",
    published="as said",
    rule="each within one unit of its last digit",
)
def four_powers() -> Measurement:
    rows = [(0.9, 99, "2.7e-5"), (0.95, 99, ".006"), (0.99, 50, ".60"), (0.99, 200, ".13")]
    parts: dict[str, bool | None] = {f"{r}^{n} ≈ {p}": agrees(r**n, p) for r, n, p in rows}
    return Measurement(
        "; ".join(f"{r}^{n} = {r**n:.4g}" for r, n, _ in rows),
        parts,
        f"0.9^99 is {0.9**99:.3g}; 2.7e-5 is 0.9^100: one Jacobian more than a sequence of 100 has.",
    )


# Claims about how many parameters there are and what a step of them costs.


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


# Claims about how much a state can hold, and how much it does.


@claim(
    id="A7",
    source="A",
    statement="A state of 128 float32 numbers holds at most 4096 bits, about 4 for each of 1000 "
    "tokens; in practice far less.",
    published="4096; 4",
    rule="128·32 = 4096; 4096/1000 within 5 % of 4; recalled linearly from an untrained tanh RNN and GRU "
    "under random symbols of 8, 3 seeds: the explained share over 32 lags, 3 bits a symbol, is "
    "under 10 %",
)
def bits_of_a_state() -> Measurement:
    bits = 128 * torch.finfo(torch.float32).bits
    found: dict[str, list[float]] = {}
    for name, cell in (("tanh RNN", layers.RNN), ("GRU", layers.GRU)):
        for seed in SEEDS:
            torch.manual_seed(seed)
            x = torch.eye(SYMBOLS)[torch.randint(SYMBOLS, (400, 16))]
            (one,) = trace(cell(SYMBOLS, 128), x)
            found.setdefault(name, []).append(capacity(one, 32).total)
    held = {name: [math.log2(SYMBOLS) * v for v in values] for name, values in found.items()}
    return Measurement(
        f"128·32 = {bits} bits, {bits / 1000:.2f} a token; recalled: "
        + "; ".join(f"{n} {spread(v)} symbols" for n, v in found.items())
        + f", at most {max(max(v) for v in held.values()):.0f} bits",
        {
            "at most 4096 bits": bits == 4096,
            "about 4 a token": abs(bits / 4000 - 1) < 0.05,
            "far less in practice": max(max(v) for v in held.values()) < 0.1 * bits,
        },
        figures=found,
    )

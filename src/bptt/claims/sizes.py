"""Claims about how many parameters there are and what a step of them costs."""

from __future__ import annotations

import torch
from torch import nn

from bptt.claims.registry import Measurement, claim
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


@claim(
    id="C5",
    source="C",
    statement="A plain RNN of 32 units has about 3,000 parameters and takes a step in under 1 ms on a "
    "small device.",
    published="~3,000; <1 ms",
    rule="counted for 27 symbols in and out: within 15 % of 3,000; time: only what was run on a "
    "device counts, so this part stays open here",
)
def small_rnn_on_a_device() -> Measurement:
    hidden, symbols = 32, 27
    layer = nn.RNN(symbols, hidden)
    whole = count(layer) + count(nn.Linear(hidden, symbols))
    # Tokens pick a column of W_ih instead of multiplying it; the dense figure is for real inputs.
    dense = hidden * (symbols + hidden) + symbols * hidden
    budget = 64e6 * 1e-3 / dense
    return Measurement(
        f"layer {count(layer)}, with {symbols} outputs {whole} parameters; {dense} multiply-adds a "
        f"step, so 1 ms at 64 MHz leaves {budget:.0f} cycles for each; device: not run here",
        {"about 3,000 parameters": abs(whole - 3000) <= 450, "under 1 ms on a device": None},
        "The count is right for a character model. The time is not measured here: "
        "the exported C has to be run on a device or an emulator for that.",
        {"parameters": whole, "multiply_adds": dense},
    )

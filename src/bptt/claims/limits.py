"""Claims about how much a state can hold, and how much it does."""

from __future__ import annotations

import math

import torch

from bptt import nn as layers
from bptt.claims.learn import SEEDS, SYMBOLS, spread
from bptt.claims.registry import Measurement, claim
from bptt.probes import capacity
from bptt.recurrence import trace


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

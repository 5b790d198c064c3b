"""Claims about running step by step."""

from __future__ import annotations

import statistics
import time

import torch

from bptt.claims.registry import Measurement, claim
from bptt.models import AttentionModel, LanguageModel
from bptt.streaming import Stream

CONTEXTS = (16, 64, 256, 1024, 4096)


def _median(step, times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e6


@claim(
    id="C13",
    source="C",
    statement="An RNN streams at a constant cost per step; attention's grows with the context.",
    published="as said",
    rule="GRU and one attention layer of 64, one stream, contexts 16…4096: constant is a median time "
    "of a step at 4096 within a factor of 1.5 of that at 16, which leaves room for a shared "
    "machine's clock; growing is above that factor; multiply-adds counted beside",
)
def cost_of_a_step() -> Measurement:
    torch.manual_seed(0)
    times: dict[str, list[float]] = {"GRU": [], "attention": []}
    gru = Stream(
        LanguageModel(32, cell="gru", hidden=64),
    )
    token = torch.zeros(1, dtype=torch.int64)
    fed = 0
    for context in CONTEXTS:
        for _ in range(context - fed):
            gru.step(token)
        fed = context
        times["GRU"].append(_median(lambda: gru.step(token), 200))
        model = AttentionModel(32, width=64, heads=4, layers=1, context=context).eval()
        with torch.no_grad():
            carry = model(torch.randint(32, (context, 1)))[1]
            one = torch.zeros(1, 1, dtype=torch.int64)
            times["attention"].append(_median(lambda m=model, o=one, c=carry: m(o, c), 40))
    ratios = {n: t[-1] / t[0] for n, t in times.items()}
    macs = [12 * 64**2 + 2 * 64 * n for n in CONTEXTS]
    return Measurement(
        f"a step at {CONTEXTS[-1]} over one at {CONTEXTS[0]}: GRU {ratios['GRU']:.2f}, attention "
        f"{ratios['attention']:.1f} (multiply-adds: 1 and {macs[-1] / macs[0]:.1f})",
        {
            "GRU: constant": 1 / 1.5 < ratios["GRU"] < 1.5,
            "attention: grows": ratios["attention"] > 1.5,
        },
        "What grows is the part that looks back; with a short context the rest of the layer hides it.",
        ratios,
    )

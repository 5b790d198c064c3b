"""Claims about truncation: what a cut takes away, what it leaves, and what forgetting one costs."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from bptt import nn as layers
from bptt.claims.learn import (
    SEEDS,
    Last,
    accuracy,
    adam,
    fit,
    near,
    percents,
    remember_first,
    tanh_rnn,
)
from bptt.claims.memory import Held
from bptt.claims.registry import Measurement, claim
from bptt.probes import capacity
from bptt.recurrence import trace
from bptt.remedies import ClipNorm


def cut_before_end(model: Last, x: Tensor, target: Tensor, k: int) -> Tensor:
    """Chunks of k steps, the loss at the end alone: only the last chunk gets a gradient."""
    with torch.no_grad():
        state = None if k >= len(x) else model.layer(x[:-k])[1]
    loss = F.cross_entropy(model.linear(model.layer(x[-k:], state)[0][-1]), target)
    loss.backward()
    return loss.detach()


@claim(
    id="B8",
    source="B",
    statement="With the loss at the end alone, truncated BPTT learns remember-first T=20 with K=20 and "
    "not with K=10 or K=5.",
    published="99.2, 20.3, 10.9 %",
    rule="256 sequences, Adam 5e-3, clipped at 5, 150 epochs of one batch, 3 seeds: every seed within "
    "10 points of the published figure (two standard errors of a difference at 20 % of 128)",
)
def truncation_at_the_end() -> Measurement:
    train, test = remember_first(256, 20, 42), remember_first(128, 20, 99)
    found: dict[int, list[float]] = {}
    for k in (20, 10, 5):
        for seed in SEEDS:
            torch.manual_seed(seed)
            model = tanh_rnn()
            fit(
                model, *train, adam(5e-3), 150, clip=ClipNorm(5.0), backward=partial(cut_before_end, k=k),
            )  # fmt: skip
            found.setdefault(k, []).append(accuracy(model, *test))
    return Measurement(
        "; ".join(f"K={k}: {percents(v)}" for k, v in found.items()),
        {
            "K=20 is 99.2 %": near(found[20], 0.992),
            "K=10 is 20.3 %": near(found[10], 0.203),
            "K=5 is 10.9 %": near(found[5], 0.109),
        },
        "A cut before the first symbol leaves nothing to learn from; how far the uncut run gets in 150 "
        "updates depends on the seed.",
        {str(k): v for k, v in found.items()},
    )


@claim(
    id="B9",
    source="B",
    statement="Truncation cuts learning, not memory: the state still carries what lies before the cut.",
    published="as said",
    rule="float64: outputs with and without cuts are equal to the bit; inputs before the cut get a "
    "gradient of exactly 0; the input 5 steps back is read from the state across a cut (R² > 0.5)",
)
def cut_is_not_forgetting() -> Measurement:
    torch.manual_seed(0)
    T, B, border = 200, 8, 120
    layer = layers.RNN(1, 32).double()
    x = torch.randn(T, B, 1, dtype=torch.float64, requires_grad=True)
    cut = torch.zeros(T, B, dtype=torch.bool)
    cut[border] = True
    plain, marked = layer(x)[0], layer(x, cut=cut)[0]
    (gradient,) = torch.autograd.grad(marked[border:].square().sum(), x)
    before = float(gradient[:border].abs().max())
    # Every step has a cut within the last 5: what is 5 back lies on its other side.
    cuts = torch.zeros(T, B, dtype=torch.bool)
    cuts[::5] = True
    with torch.no_grad():
        cut_states = layer(x, cut=cuts)[0]
    (one,) = trace(layer, x.detach())
    same = bool((one.after[0] == cut_states).all()) and bool((plain == marked).all())
    recall = float(capacity(one, 6).explained[5])
    return Measurement(
        f"states equal to the bit: {same}; largest gradient before the cut: {before:g}; share of the "
        f"input 5 steps back that the state explains: {recall:.2f}",
        {
            "states are the same": same,
            "nothing is learnt across the cut": before == 0.0,
            "the state holds what is before it": recall > 0.5,
        },
    )


@claim(
    id="C11",
    source="C",
    statement="Carrying the state without detaching it makes memory grow with every chunk.",
    published="linear",
    rule="50 chunks of 20 steps, GRU of 64, bytes autograd holds after each chunk: without detach the "
    "fit to a line has R² > 0.999 and the 50th is 45 to 55 times the first; detached, it stays",
)
def carry_without_detach() -> Measurement:
    torch.manual_seed(0)
    layer = layers.GRU(16, 64)
    found: dict[str, list[int]] = {}
    for name in ("kept", "detached"):
        state, total = None, torch.zeros(())
        with Held(*layer.parameters()) as held:
            for _ in range(50):
                y, state = layer(torch.randn(20, 4, 16), state)
                loss = y.square().mean()
                total = total + loss if name == "kept" else total
                found.setdefault(name, []).append(held.bytes)
                if name == "detached":
                    loss.backward()
                    state = state.detach()
                del y, loss
        del total, state
    line = torch.tensor(found["kept"], dtype=torch.float64)
    at = torch.arange(50, dtype=torch.float64)
    r2 = float(torch.corrcoef(torch.stack([line, at]))[0, 1] ** 2)
    ratio = found["kept"][-1] / found["kept"][0]
    return Measurement(
        f"kept: {found['kept'][0] / 1e3:.0f} kB after the first chunk, {found['kept'][-1] / 1e3:.0f} kB "
        f"after the 50th ({ratio:.1f}×, R² of a line {r2:.6f}); detached: "
        f"{max(found['detached']) / 1e3:.0f} kB at most",
        {
            "grows linearly": r2 > 0.999 and 45 <= ratio <= 55,
            "detaching holds it": max(found["detached"]) <= 1.1 * found["detached"][0],
        },
        figures=found,
    )


@claim(
    id="C10",
    source="C",
    statement="Running over the padding of a batch corrupts the final state; lengths or packing do not.",
    published="differs",
    rule="GRU, float64, 16 lanes of 5 to 40 steps, against each lane alone: lengths and packing to "
    "1e-12; padded with zeros, some lane is off by over 1 % in norm",
)
def padding_corrupts() -> Measurement:
    torch.manual_seed(0)
    layer = layers.GRU(6, 24).double()
    lengths = torch.randint(5, 40, (16,))
    lengths[0] = 40
    x = torch.randn(40, 16, 6, dtype=torch.float64)
    x[torch.arange(40)[:, None] >= lengths] = 0.0
    with torch.no_grad():
        alone = torch.cat([layer(x[:n, b : b + 1])[1] for b, n in enumerate(lengths)], 1)
        padded = layer(x)[1]
        marked = layer(x, lengths=lengths)[1]
        packed = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))[1]
    off = ((padded - alone).norm(dim=-1) / alone.norm(dim=-1))[0]
    errors = [float((other - alone).abs().max()) for other in (marked, packed)]
    return Measurement(
        f"padded: off by {100 * float(off.median()):.0f} % (median lane), {100 * float(off.max()):.0f} % "
        f"(worst); lengths: {errors[0]:.1g}; packed: {errors[1]:.1g}",
        {
            "padding corrupts": float(off.max()) > 0.01,
            "lengths do not": errors[0] < 1e-12,
            "packing does not": errors[1] < 1e-12,
        },
    )

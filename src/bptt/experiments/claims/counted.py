"""Claims that are counted: powers, parameters, steps, what a state can hold."""

from __future__ import annotations

import math
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import nn

from bptt import nn as layers
from bptt.experiments.claims.learn import SEEDS, SYMBOLS, spread
from bptt.experiments.claims.registry import Measurement, claim
from bptt.export import export_c
from bptt.export.cost import CLOCKS, BoardCost, measure_on_board, missing_tools
from bptt.models import AttentionModel, CountModel, LanguageModel, WindowModel
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
    place="the core problem, its table",
    statement="Table of what is left after T steps, ρ^T, for ρ = 0.9, 0.8, 0.7 and T = 10, 30, 100.",
    published=".387/.107/.028; .042/.001/7e-5; 2.7e-5/≈0/≈0",
    setting="arithmetic",
    rule="each entry is ρ^T within one unit of its last digit; ≈0 means under 1e-6",
    why="a printed digit is right or wrong by one unit of itself",
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
    place="why the product shrinks; why long-range dependencies cannot be learned; what to notice "
    "in the code",
    statement="0.9^99 ≈ 2.7e-5, 0.95^99 ≈ 0.006, 0.99^50 ≈ 0.60, 0.99^200 ≈ 0.13.",
    published="as said",
    setting="arithmetic",
    rule="each within one unit of its last digit",
    why="a printed digit is right or wrong by one unit of itself",
)
def four_powers() -> Measurement:
    rows = [(0.9, 99, "2.7e-5"), (0.95, 99, ".006"), (0.99, 50, ".60"), (0.99, 200, ".13")]
    parts: dict[str, bool | None] = {f"{r}^{n} ≈ {p}": agrees(r**n, p) for r, n, p in rows}
    return Measurement(
        "; ".join(f"{r}^{n} = {r**n:.4g}" for r, n, _ in rows),
        parts,
        f"0.9^99 is {0.9**99:.3g}; 2.7e-5 is 0.9^100: one Jacobian more than a sequence of 100 has.",
    )


@claim(
    id="C19",
    source="C",
    place="summary",
    statement="With a factor of 0.9 a step the gradient at step 1 of 100 is 27,000 times smaller "
    "than at "
    "step 99.",
    published="27,000",
    setting="arithmetic",
    rule="0.9^-98, from step 99 to step 1, within 5 % of 27,000",
    why="the sentence names two steps and a factor, so a power of the factor decides",
)
def times_smaller() -> Measurement:
    times = 0.9**-98
    return Measurement(
        f"0.9^-98 = {times:,.0f}",
        {"27,000 times": abs(times / 27_000 - 1) < 0.05},
        f"It is {times:,.0f} times. The 27 is the mantissa of another figure of the same lesson, "
        f"0.9^100 = {0.9**100:.2g}, which makes {0.9**-100:,.0f} times.",
        {"times": times},
    )


SENTENCE = "The cat that sat on the mat by the window in the old kitchen was hungry"


@claim(
    id="E5",
    source="E",
    place="a concrete failure",
    statement="In “The cat that sat on the mat by the window in the old kitchen was hungry” the cat "
    "appeared 12 tokens before “hungry”, and the gradient from “hungry” crosses 13 steps to it.",
    published="12 tokens; 13 steps",
    setting="the sentence, a token a word",
    rule="places of the words, counted: tokens from the cat to “hungry”; steps from the state that "
    "predicts “hungry”, after “was”, to the state that has read “cat”",
    why="both are counts in one sentence, so counting decides",
)
def steps_to_the_cat() -> Measurement:
    words = SENTENCE.lower().split()
    cat, predicts, hungry = (words.index(word) for word in ("cat", "was", "hungry"))
    return Measurement(
        f"the cat is word {cat + 1}, was {predicts + 1}, hungry {hungry + 1}: {hungry - cat} tokens, "
        f"{predicts - cat} steps",
        {"12 tokens ago": hungry - cat == 12, "13 steps": predicts - cat == 13},
        f"The cat is {hungry - cat} tokens back, with {predicts - cat} words between: the text's "
        f"list of "
        "them is right and its count of tokens is not.",
        {"tokens": hungry - cat, "steps": predicts - cat},
    )


# Claims about how many parameters there are and what a step of them costs.


def count(model: nn.Module) -> int:
    """Parameters of a model."""
    return sum(p.numel() for p in model.parameters())


@claim(
    id="D1",
    source="D",
    place="the RNN recurrence",
    statement="How many parameters there are does not depend on the sequence's length.",
    published="equal",
    setting="a sequence of 4 tokens and one of 4,000",
    rule="one model takes a gradient at T=4 and at T=4000; entries of the gradients are equal in "
    "number",
    why="the statement is about a count, so the count decides",
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
    place="the case for GRU over vanilla RNN",
    statement="A GRU has about twice the parameters of a plain RNN of the same size.",
    published="2×",
    setting="none",
    rule="input = hidden = 128, counted; holds if the ratio is between 1.75 and 2.25",
    why="“roughly twice” leaves room for biases and for rounding, not for another whole matrix",
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
    id="C22",
    source="C",
    place="common mistakes, long-range dependencies",
    statement="Switching from a plain RNN to an LSTM or a GRU has no engineering cost, only a slight "
    "increase in the number of parameters.",
    published="slight",
    setting="torch's layers",
    rule="torch's three layers take the same call and return an output of the same shape; input = "
    "hidden "
    "= 128: slight is at most a quarter more parameters",
    why="the sentence says what does not change, the call, and what does a little, the count",
)
def switching_cells() -> Measurement:
    rnn, gru, lstm = (count(m(128, 128)) for m in (nn.RNN, nn.GRU, nn.LSTM))
    x = torch.zeros(3, 2, 128)
    shapes = {m(128, 128)(x)[0].shape for m in (nn.RNN, nn.GRU, nn.LSTM)}
    return Measurement(
        f"parameters of a layer of 128: RNN {rnn}, GRU {gru} ({gru / rnn:g}×), LSTM {lstm} "
        f"({lstm / rnn:g}×); outputs of one shape: {len(shapes) == 1}",
        {
            "one call fits all": len(shapes) == 1,
            "a slight increase": max(gru, lstm) <= 1.25 * rnn,
        },
        f"The call is the same, but for the LSTM's state, which is a pair. The layer has "
        f"{gru // rnn} and "
        f"{lstm // rnn} times the parameters, and a step costs as many times the multiplications.",
        {"rnn": rnn, "gru": gru, "lstm": lstm},
    )


@claim(
    id="C18",
    source="C",
    place="the problem feedforward networks cannot solve",
    statement="Widening a fixed window of k tokens makes its parameters grow quadratically with k.",
    published="quadratic",
    setting="a feedforward network over the last k tokens",
    rule="an MLP over k embedded characters, k = 4, 8, 16, 32: the exponent of its growth, from the "
    "last "
    "doubling of what depends on k, within 0.1 of 2",
    why="a quadratic count has four times the entries when k doubles, and a linear one twice",
)
def window_parameters() -> Measurement:
    sizes = (4, 8, 16, 32)
    counts = [count(WindowModel(27, window=k, embedding=16, hidden=64)) for k in sizes]
    steps = [b - a for a, b in pairwise(counts)]
    exponent = math.log2(steps[-1] / steps[-2])
    return Measurement(
        "parameters at k = "
        + ", ".join(f"{k}: {n}" for k, n in zip(sizes, counts, strict=True))
        + f"; exponent {exponent:.2f}",
        {"quadratic": abs(exponent - 2) < 0.1},
        "Each place of the window adds one block of weights of the same size: the growth is linear. "
        "Quadratic is what the pairs of attention cost in time.",
        {"counts": counts, "exponent": exponent},
    )


@claim(
    id="C20",
    source="C",
    place="streaming real-time inference; questions and answers, 5",
    statement="A Transformer needs the whole input before it can compute attention, so it cannot "
    "answer token by token.",
    published="the entire input",
    setting="attention over a stream",
    rule="one causal attention layer of 64 over 64 tokens: its answer at a step differs by under 1e-5 "
    "when all later tokens are left out, and when they are fed one at a time",
    why="what needs the whole input gives another answer, or none, without its end",
)
def attention_without_the_end() -> Measurement:
    torch.manual_seed(0)
    model = AttentionModel(32, width=64, heads=4, layers=1, context=64).eval()
    tokens = torch.randint(32, (64, 2))
    with torch.no_grad():
        whole = model(tokens)[0]
        cut = torch.stack([model(tokens[: t + 1])[0][-1] for t in range(64)])
        carry, answers = None, []
        for token in tokens:
            answer, carry = model(token[None], carry)
            answers.append(answer[0])
    without, alone = (float((whole - v).abs().max()) for v in (cut, torch.stack(answers)))
    return Measurement(
        f"largest difference of an answer without what follows: {without:.1g}; fed token by token: "
        f"{alone:.1g}",
        {"needs the whole input": max(without, alone) > 1e-5},
        "Attention over what has been, as language models have it, answers after every token. What it "
        "cannot do is answer at a constant cost: it keeps and reads all earlier tokens (C13). Only "
        "attention in both directions waits for the end, as a bidirectional RNN does.",
        {"without": without, "alone": alone},
    )


@claim(
    id="D6",
    source="D",
    place="evaluating language models with perplexity",
    statement="Perplexity makes losses comparable across models and data sets in a way that raw cross "
    "entropy does not.",
    published="as said",
    setting="no text is named",
    rule="tables of single characters, none of which knows any context: fitted to prose and to random "
    "digits, the same knowledge has perplexities within 10 % of each other; and some pair of models is "
    "ordered otherwise by perplexity than by cross entropy",
    why="comparable across data sets means that equal skill gets an equal figure, and a way that cross "
    "entropy does not have must show itself in some comparison",
)
def perplexities_compared() -> Measurement:
    from bptt.data import Corpus, Stream
    from bptt.experiments.claims.ladder import text
    from bptt.training.evaluate import evaluate

    torch.manual_seed(0)
    digits = Corpus.from_text("".join(map(str, torch.randint(10, (20_000,)).tolist())))
    nats = {}
    for name, corpus in (("prose", text()), ("digits", digits)):
        for order in (1, 3):
            model = CountModel(corpus.vocabulary.size, order=order).fit(*corpus.train)
            nats[name, order] = evaluate(model, cast(Stream, corpus.valid)).nats
    perplexities = {key: math.exp(value) for key, value in nats.items()}
    blind = perplexities["prose", 1], perplexities["digits", 1]
    pairs = [(a, b) for a in nats for b in nats]
    swapped = sum((nats[a] < nats[b]) != (perplexities[a] < perplexities[b]) for a, b in pairs)
    return Measurement(
        f"perplexity of a table of single characters: prose {blind[0]:.2f}, digits {blind[1]:.2f}; of "
        f"three: {perplexities['prose', 3]:.2f} and {perplexities['digits', 3]:.2f}; pairs ordered "
        f"otherwise than by cross entropy: {swapped}",
        {
            "equal skill, equal figure": abs(blind[0] / blind[1] - 1) < 0.1,
            "compares what cross entropy does not": swapped > 0,
        },
        "Perplexity is e to the cross entropy: it orders any two models as that does. Across data sets "
        "neither compares, for both depend on how much there is to know about a text and on what a "
        "token "
        "is: beside a figure belongs that of a model that knows nothing.",
        {"perplexities": {f"{n} {o}": p for (n, o), p in perplexities.items()}},
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
    place="when vanilla RNNs still make sense, microcontrollers",
    statement="A plain RNN of 32 units has about 3,000 parameters and takes a step in under 1 ms on a "
    "small device.",
    published="~3,000; <1 ms",
    setting="a state of 32 units on an ESP32, a Cortex-M4 “or any device where memory is measured "
    "in kilobytes”",
    rule="counted for 27 symbols in and out: within 15 % of 3,000; time: the exported C (float32) "
    "checked on an emulated Cortex-M4F of 25 MHz and a Cortex-M0 of 16 MHz, its instructions "
    "counted, at one a cycle: under 1 ms on each; without compiler and emulator not measured",
    why="the source names two figures and the devices, so each figure is counted on such a device",
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
    place="the bottleneck",
    statement="A state of 128 float32 numbers holds at most 4096 bits, about 4 for each of 1000 "
    "tokens; in practice far less.",
    published="4096; 4",
    setting="128 numbers in float32, 1,000 tokens",
    rule="128·32 = 4096; 4096/1000 within 5 % of 4; recalled linearly from an untrained tanh RNN "
    "and GRU "
    "under random symbols of 8, 3 seeds: the explained share over 32 lags, 3 bits a symbol, is "
    "under 10 %",
    why="the first two are arithmetic; “far less” is taken as under a tenth",
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

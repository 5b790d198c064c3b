"""Claims about clipping the gradient, and about what its norm tells."""

from __future__ import annotations

import torch

from bptt import nn as layers
from bptt.claims.learn import (
    SEEDS,
    Last,
    accuracy,
    adam,
    fit,
    percents,
    remember_first,
    sgd,
    spread,
    tanh_rnn,
)
from bptt.claims.registry import Measurement, claim
from bptt.remedies import ClipNorm, Rescale, start_recurrent


@claim(
    id="B7",
    source="B",
    statement="Training clipped at 5, clipped at 1 and not at all shows what clipping does.",
    published="final loss 2.0764 in all three",
    rule="remember-first T=20, 256 sequences, SGD 0.01, batch 64, 100 epochs, 3 seeds: the three runs "
    "differ, and each threshold was passed at least once",
)
def comparison_of_clips() -> Measurement:
    train = remember_first(256, 20, 42)
    losses: dict[str, list[float]] = {}
    acted = {5.0: 0, 1.0: 0}
    largest = 0.0
    for seed in SEEDS:
        for clip in (5.0, 1.0, None):
            torch.manual_seed(seed)
            run = fit(
                tanh_rnn(), *train, sgd(0.01), 100, batch=64, clip=ClipNorm(clip) if clip else None
            )
            losses.setdefault(str(clip), []).append(run.loss)
            largest = max(largest, *run.norms)
            if clip:
                acted[clip] += run.acted
    differ = any(len(set(values)) > 1 for values in zip(*losses.values(), strict=True))
    return Measurement(
        f"final loss {spread(losses['None'], 5)}, the same to the last bit with all three: "
        f"{not differ}; largest norm {largest:.3g}; updates in which a clip acted: {sum(acted.values())}",
        {
            "the three differ": differ,
            "clipping at 5 acted": acted[5.0] > 0,
            "clipping at 1 acted": acted[1.0] > 0,
        },
        f"No norm passed {largest:.2g}, so no threshold was ever reached and three equal runs were "
        "compared: they show nothing about clipping. Count the updates in which a clip acts.",
        {"losses": losses, "largest_norm": largest},
    )


@claim(
    id="B7x",
    source="B, exercises",
    statement="Rescaling every gradient to norm θ, in place of clipping those above it, trains as well.",
    published="compare",
    rule="remember-first T=20, 512 sequences, batch 64, 100 epochs, θ = 1, SGD 0.1 and Adam 5e-3, 3 "
    "seeds: the mean accuracy with rescaling is at most 2 points below that with clipping, each",
)
def rescaling() -> Measurement:
    train, test = remember_first(512, 20, 42), remember_first(128, 20, 99)
    found: dict[str, list[float]] = {}
    for name, optimizer in (("SGD 0.1", sgd(0.1)), ("Adam 5e-3", adam(5e-3))):
        for way, clip in (("clipped", ClipNorm(1.0)), ("rescaled", Rescale(1.0))):
            for seed in SEEDS:
                torch.manual_seed(seed)
                model = tanh_rnn()
                fit(model, *train, optimizer, 100, batch=64, clip=clip)
                found.setdefault(f"{name} {way}", []).append(accuracy(model, *test))
    mean = {name: sum(v) / len(v) for name, v in found.items()}
    return Measurement(
        "; ".join(f"{n}: {percents(v)}" for n, v in found.items()),
        {
            name: mean[f"{name} rescaled"] >= mean[f"{name} clipped"] - 0.02
            for name in ("SGD 0.1", "Adam 5e-3")
        },
        "A clip leaves a gradient that has become small as it is, and training comes to rest; "
        "rescaling blows it up to θ again, noise and all. Under SGD that also gets a run off a "
        "plateau, so the two are about even there; Adam keeps averages of squares, which a "
        "gradient of constant norm no longer tells anything, and seeds fall out of the solution.",
        found,
    )


@claim(
    id="C14",
    source="C",
    statement="The norm before clipping tells a run's health: always at the threshold means too high a "
    "rate or a bad start, always near zero means vanishing.",
    published="as said",
    rule="runs of remember-first, θ = 1, 3 seeds; always is ≥ 95 % of the updates, at the threshold a "
    "norm over θ, near zero one under θ/100: always at it on every seed with SGD at rate 10 and with "
    "a ReLU start of radius 1.5 (T=30); always near zero where the gradient vanishes (T=50, start of "
    "radius 0.06); neither in a healthy run (T=10, Adam 5e-3)",
)
def health_by_norm() -> Measurement:
    over: dict[str, list[float]] = {}
    small: dict[str, list[float]] = {}
    solved = []
    starts = {"radius 1.5": "radius:1.5", "vanishing": "radius:0.06"}
    for name, T in (("healthy", 10), ("rate 10", 10), ("radius 1.5", 30), ("vanishing", 50)):
        train = remember_first(512, T, 42)
        for seed in SEEDS:
            torch.manual_seed(seed)
            layer = layers.RNN(8, 32, nonlinearity="relu" if name == "radius 1.5" else "tanh")
            start_recurrent(layer, starts.get(name, "default"))
            model = Last(layer, 32, 8)
            optimizer = sgd(10.0) if name == "rate 10" else adam(5e-3)
            run = fit(model, *train, optimizer, 60, batch=64, clip=ClipNorm(1.0))
            norms = torch.tensor(run.norms)
            over.setdefault(name, []).append(float((norms > 1).double().mean()))
            small.setdefault(name, []).append(float((norms < 0.01).double().mean()))
            if name == "healthy":
                solved.append(accuracy(model, *train))
    words = "; ".join(
        f"{name}: over θ in {percents(o)}, under θ/100 in {percents(small[name])} of the updates"
        for name, o in over.items()
    )  # fmt: skip
    return Measurement(
        f"{words}; the healthy run learned {percents(solved)}",
        {
            "rate too high: always at the threshold": min(over["rate 10"]) >= 0.95,
            "bad start: always at the threshold": min(over["radius 1.5"]) >= 0.95,
            "vanishing: always near zero": min(small["vanishing"]) >= 0.95,
            "healthy: neither": max(*over["healthy"], *small["healthy"]) < 0.95,
        },
        "A rate that is too high keeps the norm at the threshold; a bad start does so in most "
        "updates only, since training repairs it while it goes on. And the norm over all parameters "
        "does not go to zero when the gradient through time vanishes: the output layer and the last "
        "steps go on getting theirs. A vanishing gradient has to be looked for by lag; the total norm "
        "tells of explosion only.",
        {"over": over, "small": small},
    )

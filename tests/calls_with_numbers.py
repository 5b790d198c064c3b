"""Every public call that takes a number, with values that do: tests/test_numbers.py tries other kinds."""

import numpy as np
import torch
from torch import nn

import bptt
from bptt.data import CharVocabulary, Lanes, RandomChunks
from bptt.data import Stream as Text
from bptt.experiments import claims
from bptt.experiments.claims import registry, run_claims
from bptt.experiments.trials import model_variants, try_remedies
from bptt.models.language import generate
from bptt.recurrence import Recorder, assemble, trace

X = torch.randn(40, 2, 3)
TEXT = np.arange(60) % 5


def layer():
    torch.manual_seed(0)
    return nn.GRU(3, 4)


def recurrence():
    return trace(layer(), X)[0]


def entered(**options):
    """A row of the ledger that is taken out again."""
    words = dict.fromkeys(
        ("source", "place", "statement", "published", "setting", "rule", "why"), "x"
    )
    claims.claim(id="X9", **words, **options)(lambda: None)
    return registry._REGISTERED.pop("X9").share


def drawn(**options):
    model = torch.nn.GRU(3, 4)
    with bptt.watch(model) as flow:
        model(torch.randn(5, 2, 3))[0].sum().backward()
    return [text.get_text() for text in bptt.plot(flow, on="abcde", **options).axes[0].texts]


def read(**options):
    model = bptt.models.LanguageModel(3, hidden=4)
    return bptt.probes.read_text(model, torch.tensor([0, 1, 2, 0, 1]), "abcab", **options).symbols


def spectrum(**options):
    found = recurrence()
    direct = tuple(torch.ones_like(after) for after in found.after)
    return bptt.probes.lag_spectrum(found, direct, **options)


def watched(**options):
    model = layer()
    with bptt.watch(model, **options) as flow:
        model(X)[0].square().mean().backward()
    return flow


def seconds_off(trials):
    return [(t.name, t.updates, t.loss) for t in trials]


def tried(**options):
    loss = nn.functional.mse_loss
    batch = X, torch.zeros(40, 2, 4)
    variants = model_variants(layer(), steps=40)[:1]
    return seconds_off(
        try_remedies(variants, lambda n: batch, batch, loss, **{"updates": 1, **options})
    )


def clipped(threshold):
    w = torch.zeros(2, requires_grad=True)
    w.grad = torch.tensor([3.0, 4.0])
    return bptt.remedies.clip_norm([w], threshold), w.grad


def started(start, **options):
    model = nn.LSTM(3, 4)
    start(model, **options)
    return model


def irnn(scale):
    model = nn.RNN(3, 4)
    r.start_irnn(model, scale)
    return model


def told(every=2, **options):
    model, numbers = layer(), []
    with bptt.callbacks.told(
        model, lambda *now: numbers.append(now), every=every, **options
    ) as after_step:
        for _ in range(3):
            model(X)[0].sum().backward()
            after_step()
    return [step for step, _ in numbers]


def dropped(p):
    torch.manual_seed(0)
    return bptt.ops.dropout(torch.ones(50), p)


def guarded(measure_every):
    model = layer()
    return bptt.guard(
        model, torch.optim.SGD(model.parameters(), 1.0), measure_every=measure_every
    )._guard._every


def watcher(every=2, **options):
    model = layer()
    watching = bptt.callbacks.Watcher(model, every=every, **options)
    model(X)[0].sum().backward()
    found = list(watching.news())
    watching.stop()
    return [sorted(numbers) for numbers in found]


def sampled(**options):
    vocabulary = CharVocabulary.from_text("abc")
    model = bptt.models.LanguageModel(vocabulary.size, hidden=4)
    return len(list(generate(model, vocabulary, "a", **{"length": 3, "seed": 1, **options})))


def scored(**options):
    model = bptt.models.CountModel(5, order=2).fit(TEXT)
    return bptt.training.evaluate(model, Text(TEXT, np.array([0])), **options)


def corpus(**options):
    return len(bptt.data.Corpus.from_text("abcd" * 30, **options).train.tokens)


def diagnosed(**options):
    batch = X, torch.zeros(40, 2, 4)
    return bptt.diagnose(layer(), batch, nn.functional.mse_loss, **options).k


def advised(k):
    batch = X, torch.zeros(40, 2, 4)
    found = bptt.diagnose(layer(), batch, nn.functional.mse_loss, k=1).main
    return bptt.report.advise(found, k=k)


def calls_of(**options):
    model, found = layer(), []
    recorder = Recorder(model, lambda: True, lambda calls: found.extend(assemble(calls, **options)))
    try:
        model(X)[0].sum().backward()
    finally:
        recorder.remove()
    return [each.lanes for each in found]


b, g, m, r, t = bptt, bptt.gradients, bptt.models, bptt.remedies, bptt.tasks
SIZES = {"input_size": 3, "hidden_size": 4, "num_layers": 2}
# What is called, and every argument of it that is a number, with one that is right.
WHOLE = {
    "Stream": (lambda **n: b.Stream(layer(), **n), {"batch": 2}),
    "guard": (guarded, {"measure_every": 3}),
    "Stream.window": (
        lambda **n: b.Stream(nn.GRU(3, 4, bidirectional=True), **{"window": 4, **n}), {"window": 5},
    ),
    "watch": (watched, {"every": 1, "cap": 3, "lanes": 1, "sources": 7}),
    "Flow.bias": (lambda **n: watched().bias(**n), {"k": 5}),
    "Flow.cosine": (lambda **n: watched().cosine(**n), {"k": 5}),
    "diagnose": (diagnosed, {"k": 3, "lanes": 1}),
    "callbacks.Watcher": (watcher, {"every": 2}),
    "callbacks.told": (told, {"every": 2}),
    "claims.run_claims": (lambda **n: len(list(run_claims([], **n))), {"jobs": 1}),
    "data.Lanes": (
        lambda **n: Lanes(TEXT, [0], **{"batch": 2, "chunk": 3, **n}), {"batch": 3, "chunk": 2},
    ),
    "data.RandomChunks": (
        lambda **n: RandomChunks(TEXT, [0], **{"batch": 2, "chunk": 3, "seed": 1, **n}),
        {"batch": 2, "chunk": 3, "seed": 5},
    ),
    "gradients.Adaptive": (g.Adaptive, {"k_max": 8, "k_min": 2, "every": 3, "lanes": 2}),
    "gradients.Checkpointed": (g.Checkpointed, {"segments": 3, "states": 2}),
    "gradients.ForwardMode": (g.ForwardMode, {"lane_axis": 1}),
    "gradients.Full": (g.Full, {"segments": 3}),
    "gradients.Randomized": (g.Randomized, {"k": 3}),
    "gradients.Truncated": (g.Truncated, {"k": 3}),
    "gradients.Windowed": (lambda **n: g.Windowed(**{"k1": 2, "k2": 4, **n}), {"k1": 3, "k2": 5}),
    "models.Attention": (
        lambda **n: m.Attention(**{"input_size": 3, "hidden_size": 8, **n}),
        {"input_size": 4, "hidden_size": 16, "num_layers": 2, "heads": 2, "context": 5},
    ),
    "models.Highway": (
        lambda **n: m.Highway(**{"input_size": 3, "hidden_size": 8, **n}),
        {"input_size": 4, "hidden_size": 6},
    ),
    "models.Residual": (
        lambda **n: m.Residual(**{"input_size": 3, "hidden_size": 8, **n}),
        {"input_size": 4, "hidden_size": 6},
    ),
    "models.AttentionModel": (
        lambda **n: m.AttentionModel(**{"vocabulary_size": 5, "width": 8, "heads": 2, **n}),
        {"vocabulary_size": 4, "width": 16, "heads": 4, "layers": 1, "context": 3},
    ),
    "models.Classifier": (
        lambda **n: m.Classifier(layer(), **{"classes": 2, **n}),
        {"classes": 3, "features": 4},
    ),
    "models.CountModel": (
        lambda **n: m.CountModel(**{"vocabulary_size": 5, **n}),
        {"vocabulary_size": 4, "order": 3},
    ),
    "models.Forecaster": (lambda **n: m.Forecaster(layer(), **n), {"outputs": 3, "features": 4}),
    "models.LanguageModel": (
        lambda **n: m.LanguageModel(**{"vocabulary_size": 5, "hidden": 4, **n}),
        {"vocabulary_size": 4, "hidden": 3, "layers": 2, "embedding": 5},
    ),
    "models.WindowModel": (
        lambda **n: m.WindowModel(**{"vocabulary_size": 5, "hidden": 4, **n}),
        {"vocabulary_size": 4, "window": 3, "embedding": 5, "hidden": 3, "layers": 1},
    ),
    "nn.LRU": (lambda **n: b.nn.LRU(**{**SIZES, **n}), {**SIZES, "state_size": 5}),
    "nn.MinGRU": (lambda **n: b.nn.MinGRU(**{**SIZES, **n}), SIZES),
    "plot": (drawn, {"at": 2, "lane": 1}),
    "probes.capacity": (lambda **n: b.probes.capacity(recurrence(), **n), {"lags": 3}),
    "probes.read_text": (read, {"steps": 3}),
    "probes.default_truncations": (
        lambda **n: b.probes.default_truncations(**{"steps": 9, **n}),
        {"steps": 5, "cap": 3},
    ),
    "probes.jacobian_products": (
        lambda **n: b.probes.jacobian_products(recurrence(), **{"lags": 2, **n}),
        {"lags": 3, "count": 2},
    ),
    "probes.lag_spectrum": (spectrum, {"cap": 3, "lanes": 1, "sources": 5, "sample_of": 4}),
    "probes.LagSpectrum.bias_of": (lambda **n: spectrum().bias_of(**n), {"k": 3}),
    "probes.LagSpectrum.cosine_of": (lambda **n: spectrum().cosine_of(**n), {"k": 3}),
    "probes.lyapunov_spectrum": (
        lambda **n: b.probes.lyapunov_spectrum(recurrence(), **n),
        {"count": 2, "warm_up": 3, "lanes": 1},
    ),
    "recurrence.assemble": (calls_of, {"lanes": 1}),
    "remedies.AutoClip": (r.AutoClip, {"window": 5}),
    "remedies.Floss": (r.Floss, {"count": 3, "lanes": 1}),
    "remedies.OrthogonalGates": (
        lambda **n: r.OrthogonalGates(**{"gates": 3, "size": 4, **n}), {"gates": 2, "size": 3},
    ),
    "remedies.ZClip": (r.ZClip, {"warm_up": 7}),
    "report.advise": (advised, {"k": 3}),
    "tasks.Adding": (t.Adding, {"steps": 9}),
    "tasks.Agreement": (t.Agreement, {"steps": 9}),
    "tasks.Copy": (t.Copy, {"steps": 9, "alphabet": 3, "word": 2}),
    "tasks.InfluenceBalancing": (t.InfluenceBalancing, {"plus": 2, "minus": 3}),
    "tasks.Recall": (t.Recall, {"steps": 3, "alphabet": 4, "length": 7}),
    "tasks.RememberFirst": (t.RememberFirst, {"steps": 9, "alphabet": 3}),
    "tasks.TemporalOrder": (t.TemporalOrder, {"steps": 20}),
    "tasks.influence_batch": (
        lambda **n: t.influence_batch(**{"steps": 3, **n}), {"steps": 4, "lanes": 2},
    ),
    "training.Settings": (
        b.training.Settings,
        {
            "hidden": 8, "layers": 2, "embedding": 4, "order": 3, "context": 4, "batch": 3, "k": 8,
            "window": 99, "states": 2, "chunk": 99, "steps": 4, "patience": 2, "eval_every": 3,
            "log_every": 5, "horizon_every": 7, "sample_every": 9, "keep": 2, "seed": 5, "threads": 1,
        },
    ),
    "training.evaluate": (scored, {"lanes": 2, "chunk": 7}),
    "generation.generate": (sampled, {"length": 2, "top_k": 2, "seed": 3}),
    "trials.try_remedies": (tried, {"updates": 2, "seed": 3, "starts": 2}),
    "probes.judge": (lambda **n: b.probes.judge([spectrum()], **n).word, {"k": 3}),
    "probes.verdict": (lambda **n: b.probes.verdict(spectrum(), **n), {"k": 3}),
    "Flow.judge": (lambda **n: watched().judge(**n).word, {"k": 3}),
    "trials.model_variants": (
        lambda **n: [v.name for v in model_variants(layer(), **{"steps": 9, **n})],
        {"steps": 8, "k": 4},
    ),
}  # fmt: skip
REAL = {
    "probes.judge": (
        lambda **n: b.probes.judge([spectrum()], **{"loss": 0.5, "guess": 0.5, **n}).word,
        {"loss": 0.75, "guess": 0.25},
    ),
    "Flow.judge": (
        lambda **n: watched().judge(**{"loss": 0.5, "guess": 0.5, **n}).word,
        {"loss": 0.75, "guess": 0.25},
    ),
    "callbacks.Watcher": (watcher, {"guess": 0.5}),
    "callbacks.told": (told, {"guess": 0.5}),
    "claims.Measurement": (lambda **n: claims.Measurement("", {"a": True}, **n), {"share": 0.5}),
    "claims.claim": (entered, {"share": 0.5}),
    "diagnose": (diagnosed, {"try_for": 0.01}),
    "data.Corpus.from_text": (corpus, {"valid_fraction": 0.25}),
    "gradients.Adaptive": (g.Adaptive, {"bias": 0.125, "shrink": 0.5}),
    "gradients.ForwardMode": (g.ForwardMode, {"epsilon": 0.125}),
    "gradients.Randomized": (lambda **n: g.Randomized(3, **n), {"cut": 0.25}),
    "gradients.build": (lambda **n: g.build("randomized:3", **n), {"cut": 0.25}),
    "ops.dropout": (dropped, {"p": 0.25}),
    "models.AttentionModel": (lambda **n: m.AttentionModel(5, **n), {"dropout": 0.25}),
    "models.Highway": (lambda **n: m.Highway(3, 4, **n), {"gate_bias": 0.25}),
    "models.Residual": (lambda **n: m.Residual(3, 4, **n), {"scale": 0.25}),
    "models.Classifier": (lambda **n: m.Classifier(layer(), 2, **n), {"dropout": 0.25}),
    "models.Forecaster": (lambda **n: m.Forecaster(layer(), **n), {"dropout": 0.25}),
    "models.LanguageModel": (lambda **n: m.LanguageModel(5, **n), {"dropout": 0.25}),
    "models.WindowModel": (lambda **n: m.WindowModel(5, **n), {"dropout": 0.25}),
    "nn.LRU": (
        lambda **n: b.nn.LRU(3, 4, **n),
        {"dropout": 0.25, "r_min": 0.5, "r_max": 0.75, "max_phase": 0.5},
    ),
    "nn.MinGRU": (lambda **n: b.nn.MinGRU(3, 4, **n), {"dropout": 0.25}),
    "probes.capacity": (lambda **n: b.probes.capacity(recurrence(), 3, **n), {"ridge": 0.125}),
    "probes.lag_spectrum": (spectrum, {"floor": 0.125}),
    "probes.LagSpectrum.horizon": (lambda **n: spectrum().horizon(**n), {"tolerance": 0.125}),
    "remedies.AutoClip": (r.AutoClip, {"percentile": 12.5}),
    "remedies.ClipNorm": (r.ClipNorm, {"threshold": 0.5}),
    "remedies.ClipUnits": (r.ClipUnits, {"ratio": 0.5, "floor": 0.25}),
    "remedies.ClipValue": (r.ClipValue, {"limit": 0.5}),
    "remedies.Floss": (r.Floss, {"weight": 0.5}),
    "remedies.Omega": (r.Omega, {"weight": 0.5}),
    "remedies.Rescale": (r.Rescale, {"norm": 0.5}),
    "remedies.ZClip": (r.ZClip, {"z": 1.5, "decay": 0.5}),
    "remedies.clip_norm": (clipped, {"threshold": 0.5}),
    "remedies.start_chrono": (lambda **n: started(r.start_chrono, **n), {"steps": 12.5}),
    "remedies.start_forget_bias": (lambda **n: started(r.start_forget_bias, **n), {"bias": 0.5}),
    "remedies.start_irnn": (irnn, {"scale": 0.5}),
    "tasks.Agreement": (t.Agreement, {"attractors": 0.25}),
    "tasks.InfluenceBalancing": (t.InfluenceBalancing, {"start": 0.25}),
    "training.Settings": (
        b.training.Settings,
        {
            "dropout": 0.25, "cut": 0.25, "bias": 0.25, "lr": 0.5, "warmup": 0.25, "weight_decay": 0.5,
            "momentum": 0.5, "minutes": 0.5, "epochs": 0.5, "valid_fraction": 0.25,
        },
    ),
    "generation.generate": (sampled, {"temperature": 0.5}),
    "trials.model_variants": (
        lambda **n: [v.clip for v in model_variants(layer(), steps=9, **n)],
        {"clip": 0.5},
    ),
}  # fmt: skip
INTEGERS = [np.int64, np.int32, np.uint8, np.uint64, np.array, torch.tensor]
FLOATS = [np.float64, np.float32, np.float16, np.array, torch.tensor]


def arguments(table):
    return [(name, argument) for name, (_, numbers) in table.items() for argument in numbers]


def call(table, name, argument, value):
    torch.manual_seed(3)
    return table[name][0](**{argument: value})

"""One picture of every verdict: a small model that has it, measured and judged by the package itself."""

import math

import torch
from panels import panel

import bptt
from bptt.models import LanguageModel
from bptt.remedies import start_chrono
from bptt.report.chart_figure import draw_figure
from bptt.report.figures import chart_bias, chart_gates, chart_lags
from bptt.training import fit

STEPS, LANES, INPUTS, UNITS = 60, 4, 8, 32


def judged(model, k=None):
    """A model on four batches of random input, its squared output at every step as the loss."""
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(STEPS, LANES, INPUTS, generator=generator) for _ in range(4)]
    first, *others = [(x, torch.zeros(())) for x in batches]
    return bptt.diagnose(model, first, lambda y, _: y.square().mean(), k=k, others=others)


def remembering():
    """An LSTM whose forget gates are spread over 40 steps."""
    model = bptt.nn.LSTM(INPUTS, UNITS)
    start_chrono(model, 40)
    return model


def growing():
    """A linear recurrence, every direction of which grows by a tenth a step."""
    model = bptt.nn.RNN(INPUTS, UNITS, nonlinearity="relu")
    with torch.no_grad():
        model.weight_hh_l0.copy_(1.1 * torch.eye(UNITS))
        model.bias_ih_l0.fill_(3.0)
    return model


def shut():
    """ReLUs that are below zero at every step."""
    model = bptt.nn.RNN(INPUTS, UNITS, nonlinearity="relu")
    with torch.no_grad():
        model.bias_ih_l0.fill_(-20.0)
    return model


def diverging():
    """The loss of a language model whose updates are too large, and that of a guess."""
    symbols, steps = 12, 40
    model = LanguageModel(symbols, hidden=UNITS, cell="rnn")
    text = torch.randint(symbols, (20 * steps + 1, LANES))
    optimizer = torch.optim.SGD(model.parameters(), 100.0)
    batches = [(text[n : n + 20], text[n + 1 : n + 21]) for n in range(0, 20 * steps, 20)]
    with bptt.watch(model, every=10) as flow:
        losses = [u.loss for u in fit(model, optimizer, batches, loss=bptt.models.token_loss)]
    made, axes = panel()
    axes.plot(losses)
    axes.axhline(math.log(symbols), color="C2", linestyle="--", label="a guess among 12 symbols")
    axes.set(title="Training loss", xlabel="update", ylabel="nats")
    axes.legend()
    return made, flow.judge(loss=losses[-1], guess=math.log(symbols))


def draw(name):
    """The picture of one verdict, and what was said of the model in it."""
    torch.manual_seed(0)
    if name == "diverged":
        made, verdict = diverging()
        return [made], said(verdict)
    k = {"cut_short": 8, "healthy": 32}.get(name)
    models = {
        "no_gradient": shut, "exploding": growing, "cut_short": remembering, "healthy": remembering,
        "vanishing": lambda: bptt.nn.RNN(INPUTS, UNITS),
    }  # fmt: skip
    found = judged(models[name](), k)
    watched = found.main.watched
    if name == "no_gradient":
        chart = chart_gates(watched.saturation, 0)
    else:
        chart = (chart_lags if name == "exploding" else chart_bias)(watched.spectrum, k)
    return [draw_figure(chart)], said(found.verdict)


def said(verdict):
    """The numbers of the caption."""
    return {"word": verdict.word.capitalize(), "reason": verdict.reason, "sure": verdict.sure}

"""The first picture: two cells, the same task, and how far back each one's gradient reaches."""

import torch
from panels import panel, train

import bptt
from bptt.models import Classifier
from bptt.report.chart import INK
from bptt.tasks import Recall


def draw():
    """Gradient by lag and bias by K of a GRU and of a plain RNN after as many updates."""
    task = Recall(6, alphabet=4, length=40)
    batch = task.batch(torch.Generator().manual_seed(2), 16)
    first, lags = panel()
    second, bias = panel()
    numbers = {}
    for cell, look in ((bptt.nn.GRU, "-"), (bptt.nn.RNN, "--")):
        torch.manual_seed(0)
        model = Classifier(cell(task.inputs, 48), task.outputs, pool="none")
        for _ in train(model, task, 250):
            pass
        with bptt.watch(model) as flow:
            task.loss(model(batch.inputs)[0], batch.targets).backward()
        spectrum, name = flow.spectrum, cell.__name__
        lags.semilogy(
            range(spectrum.steps), spectrum.norms / spectrum.norms.max(), look, label=name
        )
        bias.plot(spectrum.truncations, 100 * spectrum.measured_bias, look, label=name)
        numbers[name.lower()] = str(flow.horizon)
    lags.set(title="Gradient by lag", xlabel="steps back", ylabel="share of the largest")
    lags.set_ylim(1e-5, 2)
    bias.axhline(5, color=INK, linewidth=1, linestyle=":")
    bias.set(title="What truncation to K steps leaves out", xlabel="K", ylabel="per cent")
    for axes in (lags, bias):
        axes.legend()
    return [first, second], {**numbers, "needs": str(task.steps + 1)}

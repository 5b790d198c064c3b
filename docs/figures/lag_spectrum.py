"""Gradient by lag and bias of a trained model."""

import torch
from panels import train

import bptt
from bptt.models import Classifier
from bptt.report.chart_figure import draw_figure
from bptt.report.figures import chart_bias, chart_lags
from bptt.tasks import Recall


def draw():
    """A GRU that has learned to name the character six steps ago."""
    task = Recall(6, alphabet=4, length=40)
    model = Classifier(bptt.nn.GRU(task.inputs, 48), task.outputs, pool="none")
    for _ in train(model, task, 250):
        pass
    batch = task.batch(torch.Generator().manual_seed(2), 16)
    with bptt.watch(model) as flow:
        task.loss(model(batch.inputs)[0], batch.targets).backward()
    charts = chart_lags(flow.spectrum), chart_bias(flow.spectrum)
    return [draw_figure(chart) for chart in charts], {
        "horizon": str(flow.horizon),
        "top": str(int(flow.spectrum.norms.argmax())),
        "six": f"{100 * flow.bias(6):.0f} %",
        "seven": f"{100 * flow.bias(7):.0f} %",
    }

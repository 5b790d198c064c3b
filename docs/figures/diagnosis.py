"""Four of a report's pictures, of one model: bias, products of Jacobians, gates, memory."""

import torch
from panels import train

import bptt
from bptt.models import Classifier
from bptt.report.chart_figure import draw_figure
from bptt.report.pages import module_charts
from bptt.tasks import Recall

K = 8


def draw():
    """A plain RNN that has learned to name the character of six steps ago, diagnosed."""
    task = Recall(6, alphabet=4, length=40)
    model = Classifier(bptt.nn.RNN(task.inputs, 48), task.outputs, pool="none")
    for _ in train(model, task, 250):
        pass
    batch = task.batch(torch.Generator().manual_seed(2), 16)
    found = bptt.diagnose(model, (batch.inputs, batch.targets), task.loss, k=K)
    main = found.main
    charts = module_charts(main, K)
    figures = [draw_figure(charts[name]) for name in ("bias", "products", "gates0", "memory")]
    return figures, {
        "k": str(K),
        "bias": f"{100 * main.watched.spectrum.bias_of(K):.0f} %",
        "horizon": str(main.watched.horizon),
        "memory": f"{main.capacity.total:.1f}",
    }

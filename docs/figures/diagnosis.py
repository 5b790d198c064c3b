"""Four of a report's pictures, of one model: bias, products of Jacobians, gates, memory."""

import torch
from panels import panel, train

import bptt
from bptt.models import Classifier
from bptt.report.figures import draw_bias, draw_gates, draw_memory, draw_products
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
    figures = []
    for draw_one in (
        lambda axes: draw_bias(axes, main.watched.spectrum, K),
        lambda axes: draw_products(axes, main.jacobians),
        lambda axes: draw_gates(axes, main.watched.saturation, 0),
        lambda axes: draw_memory(axes, main.capacity, main.watched.spectrum),
    ):
        made, axes = panel()
        draw_one(axes)
        figures.append(made)
    return figures, {
        "k": str(K),
        "bias": f"{100 * main.watched.spectrum.bias_of(K):.0f} %",
        "horizon": str(main.watched.horizon),
        "memory": f"{main.capacity.total:.1f}",
    }

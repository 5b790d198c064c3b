"""An orthogonal start drifts in training; a matrix that is held does not."""

import torch
from panels import panel, train

import bptt
from bptt.models import Classifier
from bptt.remedies import hold_orthogonal, start_recurrent
from bptt.tasks import Recall


def draw():
    """Largest distance of a singular value from 1 while a plain RNN learns a recall of five steps."""
    task = Recall(5, alphabet=4, length=30)
    made, axes = panel()
    numbers = {}
    for key, label, look in (("start", "orthogonal start", "--"), ("held", "held orthogonal", "-")):
        torch.manual_seed(15)
        rnn = bptt.nn.RNN(task.inputs, 32)
        start_recurrent(rnn, "orthogonal")
        if key == "held":
            hold_orthogonal(rnn)
        model = Classifier(rnn, task.outputs, pool="none")
        off = []
        for _ in train(model, task, 120, rate=0.005):
            values = torch.linalg.svdvals(rnn.weight_hh_l0.detach())
            off.append(float((values - 1).abs().max()))
        axes.semilogy(range(1, 121), off, look, label=label)
        numbers[key] = f"{off[-1]:.1g}"
    axes.set(title="Distance from orthogonal", xlabel="update", ylabel="largest |σ − 1|")
    axes.legend()
    return [made], numbers

"""Where the gradient of "name the first symbol" stands before training: ten steps beside fifty."""

import torch
from panels import panel

import bptt
from bptt.probes import state_gradients
from bptt.recurrence import trace
from bptt.report.chart import number
from bptt.tasks import RememberFirst


def draw():
    """‖∂L/∂h_t‖ at every step of one batch, the loss at the end."""
    made, axes = panel()
    numbers = {}
    for key, steps, look in (("ten", 10, "--"), ("fifty", 50, "-")):
        task = RememberFirst(steps)
        torch.manual_seed(0)
        layer = bptt.nn.RNN(task.inputs, 32).double()
        head = torch.nn.Linear(32, task.outputs).double()
        batch = task.batch(torch.Generator().manual_seed(42), 64)
        (run,) = trace(layer, batch.inputs.double())
        states = run.after[0].detach().clone().requires_grad_()
        (direct,) = torch.autograd.grad(task.loss(head(states), batch.targets), states)
        norms = state_gradients(run, (direct,)).together.mean(1)
        axes.semilogy(range(1, steps + 1), norms, look, label=f"T = {steps}")
        numbers[key] = number(float(norms[0] / norms[-1]), 2)
    axes.set(title="Gradient by step, untrained", xlabel="step t", ylabel="‖∂L/∂h_t‖")
    axes.legend()
    return [made], numbers

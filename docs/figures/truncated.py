"""How far back each loss reaches in chunks of k steps, and what that leaves out of the gradient."""

import torch
from panels import panel

import bptt
from bptt.gradients import Full, Truncated
from bptt.remedies import start_recurrent

STEPS = 64


def bias(model, x, target, estimator) -> float:
    """‖g - g_full‖ / ‖g_full‖ over all parameters."""

    def gradient(by):
        model.zero_grad()
        by.backward(model, x, target, loss=torch.nn.functional.mse_loss)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    exact = gradient(Full())
    return float((gradient(estimator) - exact).norm() / exact.norm())


def problem():
    """A plain RNN that keeps its gradient for long, and random numbers to learn."""
    torch.manual_seed(1)
    model = bptt.nn.RNN(4, 32).double()
    start_recurrent(model, "orthogonal")
    return model, torch.randn(STEPS, 8, 4).double(), torch.randn(STEPS, 8, 32).double()


def draw():
    """The sawtooth of the depth, and the bias by k."""
    given = problem()
    first, axes = panel()
    step = Truncated(16).backward(*given, loss=torch.nn.functional.mse_loss)
    axes.step(range(STEPS), step.depth, where="mid")
    axes.axhline(float(step.depth.double().mean()), linestyle="--", linewidth=1.2, color="C1")
    axes.set(title="Truncated(16)", xlabel="step of the loss", ylabel="steps back it reaches")
    second, axes = panel()
    ks = [1, 2, 4, 8, 16, 32, 48, 64]
    found = [bias(*given, Truncated(k)) for k in ks]
    axes.plot(ks, [100 * b for b in found], "o-", markersize=4)
    axes.set(title="Bias of the gradient", xlabel="k", ylabel="per cent", ylim=(0, None))
    mean = float(step.depth.double().mean())
    return [first, second], {"mean": f"{mean:.1f}", "bias": f"{100 * found[4]:.0f} %"}

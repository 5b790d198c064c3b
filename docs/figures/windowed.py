"""The same reach for every loss: windows beside chunks, at the same length of graph."""

import torch
from panels import panel
from truncated import STEPS, bias, problem

from bptt.gradients import Truncated, Windowed


def draw():
    """Depth by step, and bias by the longest reach, of both."""
    given = problem()
    first, axes = panel()
    for estimator, look in ((Truncated(16), "-"), (Windowed(4, 16), "-")):
        step = estimator.backward(*given, loss=torch.nn.functional.mse_loss)
        name = "Truncated(16)" if isinstance(estimator, Truncated) else "Windowed(4, 16)"
        axes.step(range(STEPS), step.depth, look, where="mid", label=name)
    axes.set(title="How far back each loss reaches", xlabel="step of the loss", ylabel="steps back")
    axes.set_ylim(0, 21)
    axes.legend(loc="upper left", ncols=2)
    second, axes = panel()
    ks = [4, 8, 16, 32, 48, 64]
    chunks = [bias(*given, Truncated(k)) for k in ks]
    windows = [bias(*given, Windowed(4, k)) for k in ks]
    axes.plot(ks, [100 * b for b in chunks], "o-", markersize=4, label="Truncated(k)")
    axes.plot(ks, [100 * b for b in windows], "s-", markersize=4, label="Windowed(4, k)")
    axes.set(title="Bias of the gradient", xlabel="k", ylabel="per cent", ylim=(0, None))
    axes.legend()
    return [first, second], {
        "chunks": f"{100 * chunks[2]:.0f} %",
        "windows": f"{100 * windows[2]:.0f} %",
    }

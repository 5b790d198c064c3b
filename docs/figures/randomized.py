"""The error of a mean over draws falls; that of fixed borders does not."""

import torch
from panels import panel
from truncated import problem

from bptt.gradients import Full, Randomized, Truncated

DRAWS = 120


def draw():
    """Relative error of the mean gradient by the number of calls it is taken over."""
    model, x, target = problem()

    def gradient(estimator):
        model.zero_grad()
        estimator.backward(model, x, target, loss=torch.nn.functional.mse_loss)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    exact = gradient(Full())
    truncated = float((gradient(Truncated(8)) - exact).norm() / exact.norm())
    estimator = Randomized(8, cut=0.3, generator=torch.Generator().manual_seed(0))
    draws = torch.stack([gradient(estimator) for _ in range(DRAWS)])
    counts = torch.arange(1, DRAWS + 1)
    error = (draws.cumsum(0) / counts[:, None] - exact).norm(dim=1) / exact.norm()
    made, axes = panel()
    axes.loglog(counts, 100 * error, label="Randomized(8, cut=0.3)")
    axes.axhline(100 * truncated, color="C1", linestyle="--", label="Truncated(8)")
    axes.set(title="Error of the mean gradient", xlabel="calls", ylabel="per cent")
    axes.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axes.set_yticks([3, 10, 30, 100], ["3", "10", "30", "100"])
    axes.minorticks_off()
    axes.legend()
    return [made], {"truncated": f"{100 * truncated:.0f} %", "mean": f"{100 * error[-1]:.1f} %"}

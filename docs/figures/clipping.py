"""The same gradients through three clips: norm before, norm after."""

import torch
from panels import panel

from bptt.remedies import build_clip
from bptt.report.chart import INK

UPDATES = 150


def draw():
    """Norms of log-normal size, falling as a loss does, with spikes of twenty times their size."""
    generator = torch.Generator().manual_seed(3)
    norms = torch.randn(UPDATES, generator=generator).mul(0.25).exp()
    norms *= 2 * torch.exp(-torch.arange(UPDATES) / 60) + 0.3
    norms[[40, 75, 110, 111, 140]] *= 20
    numbers, figures = {}, []
    for title, forms in (
        ("A threshold", ("norm:1",)),
        ("Thresholds that adapt", ("auto:50", "z:2.5")),
    ):
        made, axes = panel()
        axes.semilogy(range(UPDATES), norms, color=INK, linewidth=0.9, label="before")
        for form, look in zip(forms, ("-", "--"), strict=False):
            after, acted = clipped(build_clip(form), norms)
            axes.semilogy(range(UPDATES), after, look, linewidth=1.5, label=form)
            numbers[form.split(":")[0]] = f"{100 * acted / UPDATES:.0f} %"
        axes.set(title=title, xlabel="update", ylabel="norm of the gradient", ylim=(0.15, 60))
        axes.legend(ncols=3, loc="upper center")
        figures.append(made)
    return figures, numbers


def clipped(clip, norms):
    """Norms after the clip, and how often it acted."""
    weight, after, acted = torch.zeros(50, requires_grad=True), [], 0
    for norm in norms:
        direction = torch.randn(50)
        weight.grad = norm * direction / direction.norm()
        acted += clip([weight]).acted
        after.append(float(weight.grad.norm()))
    return after, acted

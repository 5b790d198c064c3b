"""Eigenvalues and singular values of the starts."""

import torch
from panels import panel

import bptt
from bptt.remedies import start_recurrent

SIZE = 96


def draw():
    """Where each start's eigenvalues stand; and its singular values, ranked."""
    first, axes = panel()
    second, ranked = panel()
    angle = torch.linspace(0, 2 * torch.pi, 200)
    axes.plot(angle.cos(), angle.sin(), color="C2", linewidth=1)
    numbers = {}
    for key, start, mark in (
        ("plain", "default", "o"),
        ("orthogonal", "orthogonal", "^"),
        ("np", "np", "s"),
    ):
        torch.manual_seed(12)
        rnn = bptt.nn.RNN(2, SIZE)
        start_recurrent(rnn, start)
        weight = rnn.weight_hh_l0.detach()
        values = torch.linalg.eigvals(weight)
        axes.plot(values.real, values.imag, mark, markersize=3, linestyle="none", label=start)
        singular = torch.linalg.svdvals(weight)
        ranked.plot(range(1, SIZE + 1), singular, label=start)
        numbers[key] = f"{float(values.abs().max()):.2f} / {float(singular.max()):.2f}"
    axes.set(title="Eigenvalues", aspect="equal", xlim=(-1.1, 2.4))
    axes.legend(loc="center right")
    ranked.set(title="Singular values", xlabel="direction, ranked", ylim=(0, None))
    ranked.legend()
    return [first, second], numbers

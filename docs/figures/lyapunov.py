"""The largest Lyapunov exponent by the gain of a random recurrence, driven and at rest."""

import torch
from panels import one, panel

import bptt
from bptt.probes import lyapunov_spectrum
from bptt.remedies import start_recurrent


def draw():
    """tanh networks of 64 units, gains from 0.5 to 2.5, with and without input."""
    made, axes = panel()
    gains = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5]
    numbers = {}
    for name, strength, key, look in (
        ("at rest", 0.0, "rest", "o-"),
        ("driven by noise", 1.0, "driven", "s--"),
    ):
        found = []
        for gain in gains:
            torch.manual_seed(5)
            rnn = bptt.nn.RNN(64, 64, bias=False)
            start_recurrent(rnn, f"gaussian:{gain}")
            with torch.no_grad():
                rnn.weight_ih_l0.copy_(strength * torch.eye(64))
            x = torch.randn(160, 2, 64)
            if not strength:  # a state to begin with, which the input makes and then leaves alone
                with torch.no_grad():
                    rnn.weight_ih_l0.copy_(torch.eye(64))
                x[1:] = 0
            run = one(rnn, x)
            found.append(float(lyapunov_spectrum(run, count=4, warm_up=60).exponents[0]))
        axes.plot(gains, found, look, markersize=4, label=name)
        numbers[key] = f"{found[gains.index(2.0)]:+.2f}".replace("-", "\N{MINUS SIGN}")
    axes.axhline(0, color="C2", linewidth=1, linestyle=":")
    axes.set(title="Largest Lyapunov exponent", xlabel="gain of W", ylabel="nats a step")
    axes.legend()
    return [made], numbers

"""What Omega and flossing do to a recurrence that forgets."""

import torch
from panels import one, panel

import bptt
from bptt.probes import lyapunov_spectrum, state_gradients
from bptt.remedies import Floss, Omega, start_recurrent

STEPS, UPDATES = 40, 60


def draw():
    """Sixty updates with each penalty; the gradient by step and the exponents, before and after."""
    first, norms = panel()
    second, spectrum = panel()
    torch.manual_seed(14)
    x, target = torch.randn(STEPS, 8, 4), 0.5 * torch.randn(8, 24).tanh()
    numbers = {}
    for name, penalty, look in (
        ("before", None, "-"),
        ("Omega", Omega(weight=1.0), "--"),
        ("Floss", Floss(weight=1.0, count=8), ":"),
    ):
        torch.manual_seed(13)
        rnn = bptt.nn.RNN(4, 24)
        start_recurrent(rnn, "gaussian:0.8")
        optimizer = torch.optim.Adam(rnn.parameters(), 0.01)
        for _ in range(UPDATES if penalty is not None else 0):
            optimizer.zero_grad()
            with penalty.on(rnn):
                (rnn(x)[0][-1] - target).square().mean().backward()
            optimizer.step()
        run = one(rnn, x)
        direct = torch.zeros(STEPS, 8, 24)
        direct[-1] = 1.0
        back = state_gradients(run, (direct,)).together.mean(1).flip(0)
        norms.semilogy(range(STEPS), back / back[0], look, label=name)
        exponents = lyapunov_spectrum(run, warm_up=5).exponents
        spectrum.plot(range(1, 25), exponents, look, label=name)
        numbers[name.lower()] = f"{float(back[20] / back[0]):.1g}"
    norms.set(title="‖∂L/∂h‖ on its way back", xlabel="steps back", ylim=(1e-6, 3))
    norms.legend()
    spectrum.set(
        title="Lyapunov exponents",
        xlabel="direction, ranked",
        ylabel="nats a step",
        ylim=(-2.6, 0.3),
    )
    spectrum.legend()
    return [first, second], numbers

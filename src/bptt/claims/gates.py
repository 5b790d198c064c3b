"""Claims about gates: what an LSTM's cell does to the gradient, measured."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bptt.claims.registry import Measurement, claim
from bptt.remedies import start_forget_bias

STEPS, UNITS = 400, 32


@claim(
    id="C7",
    source="C",
    statement="Along an LSTM's cell ∂c_t/∂c_{t-1} is the forget gate, so gates near 1 carry the "
    "gradient over hundreds of steps.",
    published="f_t",
    rule="float64, N(0,1) input: with the state h held, the Jacobian is diag(f) to 1e-12; the whole "
    "derivative differs from it by under 1 % in norm; the mean of ∂c_T/∂c_0 along the cell is over "
    "1 % after 200 steps with forget bias 3, and with bias 6",
)
def cell_is_the_forget_gate() -> Measurement:
    error, beyond, lasts = 0.0, [], {}
    for bias in (0.0, 1.0, 3.0, 6.0):
        torch.manual_seed(0)
        layer = nn.LSTM(8, UNITS).double()
        start_forget_bias(layer, bias)
        gates, (held, whole) = _run(layer)
        error = max(error, float((held - torch.diag(gates[-1])).abs().max()))
        beyond.append(float((whole - held).norm() / held.norm()))
        along = gates.cumprod(0).mean(1)
        under = (along < 0.01).nonzero()
        lasts[bias] = int(under[0]) + 1 if len(under) else STEPS + 1
    words = ", ".join(
        f"bias {b:g}: {n if n <= STEPS else f'over {STEPS}'}" for b, n in lasts.items()
    )
    return Measurement(
        f"with h held: diag(f) to {error:.1g}; the way through h adds {100 * min(beyond):.2g} to "
        f"{100 * max(beyond):.2g} %; steps until 1 % is left along the cell: {words}",
        {
            "with h held, exactly f": error < 1e-12,
            "the whole derivative is f": max(beyond) < 0.01,
            "bias 3 carries 200 steps": lasts[3.0] > 200,
            "bias 6 carries 200 steps": lasts[6.0] > 200,
        },
        "The forget gate is the direct way only: c also acts on the next step through h and the other "
        f"gates. And “near 1” must be meant: bias 3 is a gate of {1 / (1 + math.exp(-3)):.3f}, which "
        f"leaves 1 % after {lasts[3.0]} steps; for T steps a gate of 1 - 1/T is needed, a bias of log T.",
        {"steps_to_one_percent": {str(b): n for b, n in lasts.items()}},
    )


def _run(layer: nn.LSTM) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Forget gates ``(T, H)``, and the last step's ∂c_t/∂c_{t-1}: h held, and h following c."""
    W, U, b, d = (p.detach() for p in layer.parameters())
    h, c = torch.zeros(2, UNITS, dtype=torch.float64)
    output = torch.zeros(UNITS, dtype=torch.float64)
    gates = []
    for _ in range(STEPS):
        x = torch.randn(8, dtype=torch.float64)
        before = c

        def step(c: Tensor, h: Tensor, x: Tensor = x) -> tuple[Tensor, Tensor, Tensor]:
            i, f, g, o = (W @ x + b + U @ h + d).chunk(4)
            return f.sigmoid() * c + i.sigmoid() * g.tanh(), f.sigmoid(), o.sigmoid()

        gate = output  # o_{t-1}: h_{t-1} = o_{t-1} tanh(c_{t-1})
        c, f, output = step(c, h)
        last = before, h, gate, step
        gates.append(f)
        h = output * c.tanh()
    before, held, gate, step = last
    jacobian = torch.autograd.functional.jacobian
    fixed = jacobian(lambda c: step(c, held)[0], before)
    whole = jacobian(lambda c: step(c, gate * c.tanh())[0], before)
    return torch.stack(gates), (fixed, whole)

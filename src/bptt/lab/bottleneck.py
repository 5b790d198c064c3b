"""Pages *Bottleneck* and *Ways back*: what a state of H numbers can hold, beside attention, which
keeps everything; and the gradient's way back through a recurrence, past it, and through attention.

Both read the same kind of text, random bits. A recurrent state is asked for the bit of k steps ago by
:func:`bptt.probes.capacity`; so is what attention keeps of that step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from bptt.experiments.claims.products import lag_below
from bptt.models.attention import AttentionModel
from bptt.nn import RNN
from bptt.probes import capacity
from bptt.probes.jacobians import MEMORY_LEFT
from bptt.recurrence import Recurrence, trace
from bptt.remedies import start_recurrent
from bptt.report.chart import Chart, Color, Dash, Line, Mark, number
from bptt.report.words import percent, thousands

Start = Literal["orthogonal", "Gaussian"]

# As many as answer in time; the readout of 32 units is fitted on 800 bits.
RECORDED, LANES = 400, 4
SAMPLES = 32
# What counts as still known: this share of the bit's variance.
KNOWN = 0.5


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """What the page shows.

    Attributes:
        hidden: H, the numbers in the state.
        width: d, features a token has in attention.
        recalled: share of the variance of the bit of k steps ago that is read back from the state,
            k = 0 … T-1.
        attended: the same from what attention keeps, its key and value of that step, over all k
            together: one map serves every k.
        kept: numbers attention keeps after T tokens, as counted in its carry.
    """

    hidden: int
    width: int
    recalled: list[float]
    attended: float
    kept: int

    @property
    def lags(self) -> int:
        """T."""
        return len(self.recalled)

    @property
    def total(self) -> float:
        """How many steps' worth of input the state holds."""
        return sum(self.recalled)

    @property
    def end(self) -> int | None:
        """The first lag at which less than half is known; None if there is none below T."""
        return next((k for k, share in enumerate(self.recalled) if share < KNOWN), None)


def bottleneck(
    hidden: int = 16,
    radius: float = 0.95,
    lags: int = 40,
    size: float = 0.1,
    start: Start = "orthogonal",
    width: int = 8,
    *,
    seed: int = 0,
) -> Bottleneck:
    """Feed random bits to an untrained tanh recurrence and to attention; ask both for every lag.

    h_t = tanh(W h_{t-1} + s v x_t), x_t = ±1, v normal. Only the readout is fitted, by ridge regression,
    and scored on bits it was not fitted to.

    Args:
        hidden: H.
        radius: ρ, spectral radius of W.
        lags: T, how far back is asked; at most 200. Attention reads T tokens and keeps them all.
        size: s, how strongly the input drives the state.
        start: of W.
        width: d, of one attention layer of one head; even, from 4.
        seed: of weights and bits.

    Cost: T ridge regressions of H unknowns on 800 bits, and one of 2 d.

    Example:
        >>> found = bottleneck(hidden=8, lags=20)
        >>> found.total <= 8, round(found.attended, 3), found.kept
        (True, 1.0, 320)

    Source: H. Jaeger, 2001, Short term memory in echo state networks: independent inputs can be read
    back from H numbers by linear maps H times in all, at most.
    """
    generator = torch.Generator().manual_seed(seed)
    rnn = RNN(1, hidden, bias=False).double()
    weights = dict(rnn.named_parameters())
    start_recurrent(rnn, f"{start.lower()}+radius:{radius!r}", generator=generator)
    with torch.no_grad():
        drawn = torch.randn(hidden, 1, dtype=torch.float64, generator=generator)
        weights["weight_ih_l0"].copy_(size * drawn)
    bits = torch.randint(0, 2, (RECORDED, LANES), generator=generator)
    with torch.no_grad():
        (recurrence,) = trace(rnn, _signs(bits))
    recalled = capacity(recurrence, lags).explained.tolist()
    attended, kept = _attention(width, lags, generator, recurrence)
    return Bottleneck(hidden, width, recalled, attended, kept)


def _signs(bits: Tensor) -> Tensor:
    """0 and 1 as -1 and 1, one feature."""
    return (2.0 * bits.double() - 1.0).unsqueeze(-1)


def _attention(
    width: int, lags: int, generator: torch.Generator, asked: Recurrence
) -> tuple[float, int]:
    """Recall from the keys and values of T tokens, and how many numbers they are for one text."""
    model = AttentionModel(2, width=width, heads=1, layers=1, context=lags + 1).double()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            drawn = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            with torch.no_grad():
                parameter.copy_(drawn * parameter.shape[1] ** -0.5)
    bits = torch.randint(0, 2, (lags, SAMPLES), generator=generator)
    with torch.no_grad():
        _, carry = model(bits)
    # (samples, T, 2 d): what is kept of each token. A text is a step of its own here, so link is False
    # everywhere, and a token a lane. The probe does not touch the recurrence's other parts.
    kept = torch.cat((carry.keys[0, :, 0], carry.values[0, :, 0]), -1)
    slots = replace(
        asked,
        name="attention",
        inputs=(_signs(bits.t()),),
        after=(kept,),
        link=torch.zeros(SAMPLES, lags, dtype=torch.bool),
    )
    numbers = (carry.keys.numel() + carry.values.numel()) // SAMPLES
    return float(capacity(slots, 1).explained[0]), numbers


def draw_recall(found: Bottleneck) -> Chart:
    """Recall by lag."""
    lags = list(range(found.lags))
    parts: list[Line | Mark] = [
        Line("attention", lags, [found.attended] * len(lags), "orange", "dashed"),
        Line(f"state of {found.hidden} numbers", lags, found.recalled, dots=True),
    ]
    if found.hidden < found.lags:
        parts.append(Mark("k = H", x=found.hidden))
    return Chart(
        "What can be read back", parts, x="steps back, k", y="share of the bit's variance",
        xlim=(0, found.lags - 1), ylim=(0, 1.05),
        caption="1: the bit of k steps ago is known for certain; 0: nothing is left of it. The area "
        "under the blue line is at most H.",
    )  # fmt: skip


def draw_memory(found: Bottleneck) -> Chart:
    """Numbers kept by tokens read."""
    tokens = list(range(1, found.lags + 1))
    per_token = found.kept / found.lags
    top = max(found.hidden, found.kept)
    return Chart(
        "Numbers kept",
        [
            Line("attention, 2 T d", tokens, [per_token * t for t in tokens], "orange", "dashed"),
            Line("state, H", tokens, [found.hidden] * len(tokens)),
        ],
        x="tokens read, T", y="numbers", log=True, xlim=(1, found.lags), ylim=(0.8, 2.0 * top),
        caption="Attention keeps a key and a value of d numbers for every token; the state stays as "
        "large as it is.",
    )  # fmt: skip


def tell(found: Bottleneck) -> tuple[str, ...]:
    """The same in words."""
    H, T = found.hidden, found.lags
    share = found.total / H
    first = (
        f"The state of {H} number{'s' * (H > 1)} holds {number(found.total)} steps' worth of bits out of "
        f"{T}; no linear readout finds more than H, {H}, in any network. "
    )
    if share > 0.8:
        first += "That is nearly all there is room for."
    elif share > 0.3:
        first += "The rest of the room goes to mixtures that a linear readout does not ask for."
    else:
        first += "Most of the room is wasted: old bits fade, or are drowned by tanh."
    if found.end is None:
        second = f"Of every one of the {T} bits more than half the variance is read back."
    elif found.end == 0:
        second = "Not even half the variance of the present bit is read back."
    else:
        word = "step" if found.end == 1 else "steps"
        second = f"From {found.end} {word} back on less than half of a bit's variance is read back."
    third = (
        f"Attention knows each of the {T} bits, from {thousands(found.kept)} numbers: "
        f"{number(found.kept / H)} times the state, and more with every token. A state has to choose "
        "what to forget; training is how it learns to."
    )
    return (
        first,
        second,
        third,
        "Try: ρ from 0.5 to 1.1 at a small input; then a large input, which pushes tanh to its ends "
        "and old bits out; then H against T.",
    )


# Ways back: the gradient of the last output by every input, through a step that rewrites the state,
# past it, and through attention.

UNITS, BATCH = 32, 4
WAYS: dict[str, tuple[Color, Dash]] = {
    "recurrence": ("blue", ""),
    "residual": ("green", "dotted"),
    "highway": ("purple", "dashed"),
    "attention": ("orange", "dashed"),
}


@dataclass(frozen=True, eq=False)
class Ways:
    """What the page *Ways back* shows.

    Attributes:
        norms: for each of ``WAYS``, ``(T,)`` the gradient by the input k steps before the last, k = 0 …
            T-1, over that of the last.
        layers: of attention: its way is so many steps long, at any distance.
    """

    norms: dict[str, list[float]]
    layers: int

    @property
    def steps(self) -> int:
        """T."""
        return len(self.norms["recurrence"])

    def end(self, way: str) -> int | None:
        """From so many steps back on less than ``MEMORY_LEFT`` arrives; None within T."""
        return lag_below(torch.tensor(self.norms[way][1:]).numpy(), MEMORY_LEFT)


def ways(
    steps: int = 60,
    radius: float = 1.0,
    bias: float = 4.0,
    share: float = 0.06,
    layers: int = 1,
    *,
    seed: int = 0,
) -> Ways:
    """Differentiate the last output of four untrained models of 32 units by each of their T inputs.

    With F = tanh(W h + x), W orthogonal times ρ: recurrence h ← F; residual h ← h + a F; highway
    h ← g h + (1 - g) F, g = σ(U h + b). Attention is :class:`bptt.models.AttentionModel`.

    Args:
        steps: T.
        radius: ρ.
        bias: b, of the highway's gate.
        share: a, of F in the residual step.
        layers: of attention.
        seed: of weights and inputs.

    Cost: three loops of T steps and one block of attention, forward and back, 4 lanes.

    Example:
        >>> found = ways(30, radius=0.8)
        >>> found.norms["recurrence"][-1] < 0.01 < found.norms["attention"][-1]
        True
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    weight = radius * torch.linalg.qr(normal(UNITS, UNITS))[0]
    gate = normal(UNITS, UNITS) * UNITS**-0.5
    x, cotangent = normal(steps, BATCH, UNITS), normal(BATCH, UNITS)

    def run(step: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
        inputs = x.clone().requires_grad_()
        h = torch.zeros(BATCH, UNITS, dtype=torch.float64)
        for value in inputs:
            h = step(h, torch.tanh(h @ weight.T + value))
        return _by_lag(h, inputs, cotangent)

    def highway(h: Tensor, new: Tensor) -> Tensor:
        keep = torch.sigmoid(h @ gate.T + bias)
        return keep * h + (1 - keep) * new

    norms = {
        "recurrence": run(lambda h, new: new),
        "residual": run(lambda h, new: h + share * new),
        "highway": run(highway),
        "attention": _through_attention(x, cotangent, layers, generator),
    }
    return Ways(norms, layers)


def _through_attention(
    x: Tensor, cotangent: Tensor, layers: int, generator: torch.Generator
) -> list[float]:
    """The same through blocks of attention, whose tokens' vectors ``x`` are."""
    model = AttentionModel(UNITS, width=UNITS, heads=2, layers=layers, context=len(x)).double()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            drawn = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            nn.init.zeros_(parameter).data.add_(drawn * parameter.shape[1] ** -0.5)
    inputs = x.clone().requires_grad_()
    handle = model.embedding.register_forward_hook(lambda *_: inputs)
    try:
        output, _ = model(torch.zeros(x.shape[:2], dtype=torch.int64))
    finally:
        handle.remove()
    return _by_lag(output[-1], inputs, cotangent)


def _by_lag(output: Tensor, inputs: Tensor, cotangent: Tensor) -> list[float]:
    (gradient,) = torch.autograd.grad(output, inputs, cotangent)
    norms = gradient.flatten(1).norm(dim=1).flip(0)
    return (norms / norms[0]).tolist()


def draw_gradient(found: Ways) -> Chart:
    """What arrives at the input k steps back, for each way."""
    lags = list(range(found.steps))
    parts: list[Line | Mark] = [Mark("", y=1.0)]
    parts += [Line(name, lags, found.norms[name], *look) for name, look in WAYS.items()]
    shown = [v for way in found.norms.values() for v in way if v > 1e-12]
    return Chart(
        "What arrives k steps back", parts, x="steps back, k", y="over the last input's", log=True,
        xlim=(0, found.steps - 1), ylim=(min([*shown, 1.0]) / 2, max([*shown, 1.0]) * 3),
        caption="Norm of the gradient of the last output by the input k steps before it.",
    )  # fmt: skip


def draw_shares(found: Ways) -> Chart:
    """How much of all that arrives does so within k steps."""
    lags, parts = list(range(found.steps)), []
    for name, look in WAYS.items():
        total, so_far = sum(found.norms[name]), 0.0
        shares = [(so_far := so_far + v) / total for v in found.norms[name]]
        parts.append(Line(name, lags, shares, *look))
    return Chart(
        "Within k steps", parts, x="steps back, k", y="share of all that arrives",
        xlim=(0, found.steps - 1), ylim=(0, 1.05),
        caption="A straight line is even-handed: the far past is heard like the near one.",
    )  # fmt: skip


def tell_ways(found: Ways) -> tuple[str, ...]:
    """The same in words."""
    last = {name: norms[-1] for name, norms in found.norms.items()}
    end = found.end("recurrence")
    first = (
        f"{found.steps - 1} steps back, the recurrence has {number(last['recurrence'], 2)} of the last "
        f"input's gradient left, the residual step {number(last['residual'], 2)}, the highway "
        f"{number(last['highway'], 2)}, attention {number(last['attention'], 2)}."
    )
    second = (
        "Through the recurrence a gradient passes a Jacobian at every step"
        + (", and arrives. " if end is None else f"; memory ends {end} steps back. ")
        + "Past it, it is only as good as what is let through: g at every step of a highway, 1 at every "
        "step of a residual one, which may also let it grow."
    )
    half = next(k for k in range(found.steps) if _within(found.norms["attention"], k) >= 0.5)
    third = (
        f"Attention's way is {found.layers} step{'s' * (found.layers > 1)} long at any distance. It "
        f"keeps every token for that; half of what arrives has come from within {half} steps, "
        f"{percent((half + 1) / found.steps)} of the way."
    )
    return first, second, third


def _within(norms: list[float], k: int) -> float:
    return sum(norms[: k + 1]) / sum(norms)

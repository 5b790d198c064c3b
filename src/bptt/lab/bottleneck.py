"""Page *Bottleneck*: what a state of H numbers can hold, beside attention, which keeps everything.

Both read the same kind of text, random bits. A recurrent state is asked for the bit of k steps ago by
:func:`bptt.probes.capacity`; so is what attention keeps of that step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bptt.models.attention import AttentionModel
from bptt.nn import RNN
from bptt.probes import capacity
from bptt.recurrence import Recurrence, trace
from bptt.remedies import start_recurrent
from bptt.report.chart import Chart, Line, Mark, number
from bptt.report.words import thousands

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

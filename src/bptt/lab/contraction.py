"""Pages *Contraction* and *Gates and starts*: what a product of Jacobians does to a gradient, on real
trajectories; and how a start of the matrix and of the gates changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from bptt.experiments.claims.products import lag_below
from bptt.nn import GRU, LSTM, RNN
from bptt.probes import JacobianProducts, jacobian_products
from bptt.probes.jacobians import MEMORY_LEFT
from bptt.recurrence import layer_gates, trace
from bptt.remedies import start_chrono, start_recurrent
from bptt.report.chart import Band, Chart, Line, Mark, number, raised
from bptt.report.words import percent

Activation = Literal["linear", "tanh", "ReLU"]
Start = Literal["orthogonal", "Gaussian"]

INPUTS, HIDDEN, LANES = 4, 16, 8
# States of this size are to tanh as good as none: its slope 1 - h² is 1 to the last digit of float64,
# and stays so through any growth the sliders allow. The linear recurrence is measured there.
TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Contraction:
    """What the page shows.

    Attributes:
        radius: ρ, spectral radius of W_hh.
        norm: σ_max, its spectral norm.
        stretch: κ; 1 leaves W_hh as normal as its start made it.
        products: ``norms`` ``(lanes, T)`` of J_T … J_{T-k+1} for k = 1 … T, and their ``bound``.
        typical: ``(T,)`` their median over the lanes.
        end: the first k from which on it stays under ``MEMORY_LEFT``; None if it does not within T.
    """

    activation: Activation
    start: Start
    radius: float
    norm: float
    stretch: float
    products: JacobianProducts
    typical: list[float]
    bound: list[float]
    end: int | None

    @property
    def steps(self) -> int:
        """T."""
        return len(self.typical)

    @property
    def by_radius(self) -> list[float]:
        """ρ^k."""
        return [self.radius**k for k in range(1, self.steps + 1)]


def contraction(
    radius: float,
    stretch: float = 1.0,
    steps: int = 30,
    activation: Activation = "tanh",
    start: Start = "orthogonal",
    *,
    seed: int = 0,
) -> Contraction:
    """Run a recurrence of 16 units along 8 trajectories under N(0, 1) input; measure its Jacobians.

    W_hh = D W₀ D⁻¹ with W₀ orthogonal or Gaussian, scaled to the radius, and D diagonal, its logarithms
    evenly spaced from -½ log κ to ½ log κ: every eigenvalue stays, the norm grows. With W₀ orthogonal
    ‖W_hh^k‖ ≤ κ ρ^k.

    Args:
        radius: ρ, above 0.
        stretch: κ, at least 1.
        steps: T, the trajectory's length and the longest product.
        activation: of the recurrence; linear has no trajectory, its Jacobian is W_hh everywhere.
        start: W₀.
        seed: of the matrix and the input.

    Cost: T products and singular value decompositions of eight 16 × 16 matrices.

    Example:
        >>> found = contraction(0.9, activation="linear", steps=10)
        >>> round(found.radius, 6), round(found.norm, 6), round(found.typical[-1] / 0.9**10, 6)
        (0.9, 0.9, 1.0)
    """
    generator = torch.Generator().manual_seed(seed)
    rnn = RNN(INPUTS, HIDDEN, bias=False, nonlinearity="relu" if activation == "ReLU" else "tanh")
    rnn = rnn.double()
    weights = dict(rnn.named_parameters())
    torch.nn.init.uniform_(weights["weight_ih_l0"], -0.25, 0.25, generator=generator)
    start_recurrent(rnn, f"{start.lower()}+radius:{radius!r}", generator=generator)
    scale = stretch ** torch.linspace(-0.5, 0.5, HIDDEN, dtype=torch.float64)
    with torch.no_grad():
        weights["weight_hh_l0"].mul_(scale[:, None] / scale)
    x = torch.randn(steps, LANES, INPUTS, dtype=torch.float64, generator=generator)
    if activation == "linear":
        x = x * TINY
    (recurrence,) = trace(rnn, x)
    found = jacobian_products(recurrence, steps, count=LANES)
    # The quantile takes the mean of the two middle ones; torch's median is the lower.
    typical = found.norms.quantile(0.5, 0)
    return Contraction(
        activation,
        start,
        cast(float, found.weight_radius),  # one RNN layer has all three
        cast(float, found.weight_norm),
        stretch,
        found,
        typical.tolist(),
        cast(Tensor, found.bound).tolist(),
        lag_below(typical.numpy(), MEMORY_LEFT),
    )


def draw_products(found: Contraction) -> Chart:
    """The product's norm by its length, beside the bound and ρ^k."""
    steps = list(range(1, found.steps + 1))
    norms = found.products.norms
    low, high = norms.amin(0).tolist(), norms.amax(0).tolist()
    # A bound far above everything says nothing, and a ReLU's dead product has no logarithm.
    shown = [v for v in (*found.typical, *found.by_radius, 1.0) if v > 1e-14]
    floor, top = min(shown) / 2, max(*shown, *high) * 30
    parts: list[Line | Band | Mark] = [
        Mark("", y=1.0),
        Band("lowest to highest", steps, low, high),
        Line("norm of the product, median", steps, found.typical),
        Line("bound (γ σₘₐₓ)ᵏ", steps, found.bound, "orange", "dashed"),
        Line("ρᵏ", steps, found.by_radius, "green", "dotted"),
    ]
    if found.end is not None:
        parts.append(Mark("memory ends", x=found.end))
    return Chart(
        "What is left of a gradient", parts, x="steps back, k", y="gain", log=True,
        xlim=(1, found.steps), ylim=(floor, top),
        caption=f"Largest gain of k Jacobians multiplied along {LANES} trajectories. "
        "No product exceeds the bound.",
    )  # fmt: skip


def draw_factor(found: Contraction) -> Chart:
    """The same per step: from the norm, which rules one step, towards the radius, which rules many."""
    steps = list(range(1, found.steps + 1))
    return Chart(
        "Radius against norm",
        [
            Mark("σₘₐₓ", y=found.norm, color="orange"),
            Mark("ρ", y=found.radius, color="green", start=True),
            Line("", steps, [v ** (1 / k) for k, v in zip(steps, found.typical, strict=True)]),
        ],
        x="steps back, k", y="factor per step", xlim=(1, found.steps),
        ylim=(0, 1.15 * max(found.norm, found.radius)),
        caption="The k-th root of the product's norm. One step is ruled by the norm σₘₐₓ; a linear "
        "recurrence comes down to the radius ρ in the end, however far above it began.",
    )  # fmt: skip


def tell(found: Contraction) -> tuple[str, ...]:
    """The same in words."""
    T = found.steps
    apart = found.norm / found.radius
    first = (
        f"The spectral radius ρ is {number(found.radius)}, the spectral norm σₘₐₓ {number(found.norm)}. "
        + (
            "They agree: the matrix is normal, every step scales a gradient by the same factor."
            if apart < 1 + 1e-6
            else "ρ says what repeating the matrix does in the end, σₘₐₓ what one step can do at most: "
            f"{number(apart)} times as much."
        )
    )
    last, peak = found.typical[-1], max(found.typical)
    at = found.typical.index(peak) + 1
    second = (
        f"Over {T} steps the bound allows a gain of {number(found.bound[-1])} and ρ{raised(T)} is "
        f"{number(found.by_radius[-1])}; the {found.activation} trajectories keep {number(last)}."
    )
    if peak > 1 and at < T and last < peak / 2:
        second += (
            f" On the way the gradient grows to {number(peak)} times its size, {_steps(at)} back."
        )
    if found.end is not None:
        third = (
            f"Memory ends {_steps(found.end)} back: from there on less than {100 * MEMORY_LEFT:g} % of a "
            "gradient is left."
        )
    elif last > 1:
        third = (
            f"Nothing is forgotten in {T} steps: a gradient arrives {number(last)} times as large."
        )
    else:
        third = (
            f"Memory does not end within {T} steps: {percent(last)} of a gradient is left there."
        )
    return first, second, third


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


# Gates and starts: the same products for gated cells, beside what their gates let through.

Cell = Literal["RNN", "GRU", "LSTM"]
Bias = Literal["one bias", "chrono"]
# A Jacobian is asked for row by row, and an LSTM has two states side by side.
GATED, RUNS = 8, 4
LAYERS = {"RNN": RNN, "GRU": GRU, "LSTM": LSTM}
MATRICES = {
    "torch's": "default",
    "orthogonal": "orthogonal",
    "identity": "identity",
    "small": "small",
    "Gaussian 1.5": "gaussian:1.5",
}
# The gate that says how much of the old state stays, and where its bias stands among torch's gates.
KEEPS = {"GRU": ("update", 1), "LSTM": ("forget", 1)}


@dataclass(frozen=True, eq=False)
class Gates:
    """What the page *Gates and starts* shows.

    Attributes:
        cell: RNN, GRU or LSTM.
        whole: ``(T,)`` norm of the product of k joint Jacobians, the median over the lanes.
        along: the same of an LSTM's cell state alone; None for the others.
        alone: ``(T,)`` the product of k gates of one unit, the median over units and lanes; of a plain
            RNN, which has none, of its slopes.
        keeps: ``(H,)`` what each unit keeps a step, its mean, ascending.
        end: where the longest-lived of these ways falls under ``MEMORY_LEFT``; None within T.
    """

    cell: Cell
    whole: list[float]
    along: list[float] | None
    alone: list[float]
    keeps: list[float]
    end: int | None

    @property
    def steps(self) -> int:
        """T."""
        return len(self.whole)


def gates(
    cell: Cell = "LSTM",
    matrix: str = "torch's",
    begin: Bias = "one bias",
    bias: float = 0.0,
    steps: int = 60,
    size: float = 1.0,
    *,
    seed: int = 0,
) -> Gates:
    """Run an untrained layer of 8 units along 4 trajectories; measure its Jacobians and its gates.

    Args:
        cell: which.
        matrix: a key of ``MATRICES``, the start of the recurrent matrices.
        begin: the gates that keep begin with one bias, or with chrono's, T as its longest time.
        bias: of the gate that keeps: an LSTM's forget gate, a GRU's update gate.
        steps: T.
        size: of the N(0, 1) input.
        seed: of weights and input.

    Cost: T products and singular value decompositions of four matrices, of an LSTM 16 × 16.

    Example:
        >>> found = gates("LSTM", bias=4.0, steps=10)
        >>> found.alone[-1] > 0.7, found.along is not None
        (True, True)
    """
    generator = torch.Generator().manual_seed(seed)
    layer = LAYERS[cell](INPUTS, GATED).double()
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, -(GATED**-0.5), GATED**-0.5, generator=generator)
    start_recurrent(layer, MATRICES[matrix], generator=generator)
    if cell != "RNN" and begin == "chrono":
        start_chrono(layer, max(steps, 3), generator=generator)
    elif cell != "RNN":
        weights, at = dict(layer.named_parameters()), KEEPS[cell][1]
        rows = slice(at * GATED, (at + 1) * GATED)
        with torch.no_grad():
            weights["bias_ih_l0"][rows] = bias
            weights["bias_hh_l0"][rows] = 0.0
    x = size * torch.randn(steps, RUNS, INPUTS, dtype=torch.float64, generator=generator)
    (recurrence,) = trace(layer, x)
    products = jacobian_products(recurrence, steps, count=RUNS)
    whole = products.norms.quantile(0.5, 0).tolist()
    along = None
    if cell == "LSTM":
        found = jacobian_products(recurrence, steps, count=RUNS, states=("c_l0",))
        along = found.norms.quantile(0.5, 0).tolist()
    (values,) = layer_gates(recurrence.linearize())
    kept = 1 - values["h"] ** 2 if cell == "RNN" else values[KEEPS[cell][0]]
    kept = kept.unflatten(0, (steps, RUNS))
    alone = kept.flip(0).cumprod(0).flatten(1).quantile(0.5, 1).tolist()
    longest = [max(pair) for pair in zip(whole, along or whole, strict=True)]
    return Gates(
        cell, whole, along, alone, kept.mean((0, 1)).sort().values.tolist(),
        lag_below(torch.tensor(longest).numpy(), MEMORY_LEFT),
    )  # fmt: skip


def draw_ways(found: Gates) -> Chart:
    """What is left over k steps: along every way together, along the cell, through the gates alone."""
    steps = list(range(1, found.steps + 1))
    name = "slopes alone" if found.cell == "RNN" else "gates alone, middle unit"
    parts: list[Line | Band | Mark] = [
        Mark("", y=1.0),
        Line("all ways together", steps, found.whole),
        Line(name, steps, found.alone, "green", "dotted"),
    ]
    if found.along is not None:
        parts.append(Line("cell to cell", steps, found.along, "orange", "dashed"))
    if found.end is not None:
        parts.append(Mark("memory ends", x=found.end))
    lines = [part for part in parts if isinstance(part, Line)]
    shown = [v for part in lines for v in part.y if v > 1e-12]
    return Chart(
        "What is left of a gradient", parts, x="steps back, k", y="gain", log=True,
        xlim=(1, found.steps), ylim=(min([*shown, 1.0]) / 2, max([*shown, 1.0]) * 4),
        caption="Largest gain of k Jacobians, the median over trajectories. The gates alone are what is "
        "left if nothing else changed with the state.",
    )  # fmt: skip


def draw_keeps(found: Gates) -> Chart:
    """What each unit keeps a step."""
    ranks = list(range(1, len(found.keeps) + 1))
    needed = MEMORY_LEFT ** (1 / found.steps)
    return Chart(
        "What each unit keeps a step",
        [
            Mark(f"needed to reach {found.steps} steps", y=needed, color="green", start=True),
            Line("", ranks, found.keeps, "blue", "none", dots=True),
        ],
        x="units, ranked", y="share kept", xlim=(0, len(ranks) + 1), ylim=(0, 1.08),
        caption="The mean of the gate that keeps; of a plain RNN the slope of tanh. On the green line "
        "just a ten-thousandth is left at T.",
    )  # fmt: skip


def tell_gates(found: Gates) -> tuple[str, ...]:
    """The same in words."""
    T, middle = found.steps, found.keeps[len(found.keeps) // 2]
    first = {
        "RNN": "A plain RNN has no gate: every step goes through its matrix and through a slope of tanh, "
        f"here {number(middle)} in the middle unit.",
        "GRU": f"The update gate keeps {percent(middle)} of the middle unit's state a step.",
        "LSTM": f"The forget gate keeps {percent(middle)} of the middle unit's cell a step, and along "
        "the cell that is the whole factor.",
    }[found.cell]
    second = (
        f"Over {T} steps the gates alone would leave {number(found.alone[-1], 2)}; with everything "
        f"that depends on the state {number(found.whole[-1], 2)} is left."
        if found.cell != "RNN"
        else f"Over {T} steps the slopes alone would leave {number(found.alone[-1], 2)}; with the matrix "
        f"{number(found.whole[-1], 2)} is left."
    )
    third = (
        f"Memory does not end within {T} steps."
        if found.end is None
        else f"Memory ends {_steps(found.end)} back."
    )
    return first, second, third

"""Random recurrent problems, and two ways to solve them: the reference, and autograd in torch.

A case holds everything one layer needs, in float64 NumPy: sizes down to 1, lengths, resets, cuts,
and the gradient of some loss by every output. ``autograd`` walks through time with torch's own
single-step cells, so nothing in it knows the equations of the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from bptt.reference import Weights, gru, lstm, rnn

CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm")
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4}
NAMES = ("w_ih", "w_hh", "b_ih", "b_hh")

_STEP: dict[str, Callable[..., Any]] = {
    "rnn_tanh": torch.rnn_tanh_cell,
    "rnn_relu": torch.rnn_relu_cell,
    "gru": torch.gru_cell,
    "lstm": torch.lstm_cell,
}

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Case:
    """One layer's problem; ``state0`` and ``dstate`` hold h, and for an LSTM also c."""

    cell: str
    x: Array  # (T, B, I)
    state0: tuple[Array, ...]  # each (B, H)
    weights: Weights
    dy: Array  # (T, B, H)
    dstate: tuple[Array, ...]  # each (B, H)
    lengths: NDArray[np.int64] | None = None  # (B,)
    reset: NDArray[np.bool_] | None = None  # (T, B)
    cut: NDArray[np.bool_] | None = None  # (T, B)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """T, B, I, H."""
        T, B, I = self.x.shape
        return T, B, I, self.dy.shape[2]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(T, B), True where a lane runs."""
        T, B, _, _ = self.sizes
        ends = np.full(B, T) if self.lengths is None else self.lengths
        return np.arange(T)[:, None] < ends

    def steps(self, start: int, stop: int) -> Case:
        """The same lanes, steps start..stop−1 only; not for cases with lengths."""
        assert self.lengths is None
        part = slice(start, stop)
        return replace(
            self,
            x=self.x[part],
            dy=self.dy[part],
            reset=None if self.reset is None else self.reset[part],
            cut=None if self.cut is None else self.cut[part],
        )

    def lane(self, b: int) -> Case:
        """Lane b alone, cut off at its length."""
        end = self.sizes[0] if self.lengths is None else int(self.lengths[b])
        return replace(
            self,
            x=self.x[:end, b : b + 1],
            state0=tuple(s[b : b + 1] for s in self.state0),
            dy=self.dy[:end, b : b + 1],
            dstate=tuple(s[b : b + 1] for s in self.dstate),
            lengths=None,
            reset=None if self.reset is None else self.reset[:end, b : b + 1],
            cut=None if self.cut is None else self.cut[:end, b : b + 1],
        )


def random_case(cell: str, T: int, B: int, I: int, H: int, seed: int) -> Case:
    """A case without lengths, resets or cuts."""
    rng = np.random.default_rng(seed)
    rows = GATES[cell] * H
    weights = Weights(
        w_ih=rng.normal(size=(rows, I)) / np.sqrt(I),
        w_hh=rng.normal(size=(rows, H)) / np.sqrt(H),
        b_ih=0.5 * rng.normal(size=rows),
        b_hh=0.5 * rng.normal(size=rows),
    )
    states = 2 if cell == "lstm" else 1
    return Case(
        cell=cell,
        x=rng.normal(size=(T, B, I)),
        state0=tuple(rng.normal(size=(B, H)) for _ in range(states)),
        weights=weights,
        dy=rng.normal(size=(T, B, H)),
        dstate=tuple(rng.normal(size=(B, H)) for _ in range(states)),
    )


@st.composite
def cases(
    draw: st.DrawFn,
    cells: tuple[str, ...] = CELLS,
    *,
    lengths: bool = True,
    reset: bool = True,
    cut: bool = True,
    empty: bool = True,
    min_steps: int = 1,
) -> Case:
    """Any case; ``lengths``, ``reset``, ``cut`` and ``empty`` (lanes) say what may occur in it."""
    T = draw(st.integers(min_steps, 7), label="T")
    B = draw(st.integers(1, 4), label="B")
    case = random_case(
        draw(st.sampled_from(cells), label="cell"),
        T,
        B,
        draw(st.integers(1, 4), label="I"),
        draw(st.integers(1, 5), label="H"),
        draw(st.integers(0, 2**32 - 1), label="seed"),
    )

    def mask(label: str) -> NDArray[np.bool_] | None:
        bits = st.lists(st.booleans(), min_size=T * B, max_size=T * B)
        drawn = draw(st.none() | bits, label=label)
        return None if drawn is None else np.array(drawn).reshape(T, B)

    ends = st.lists(st.integers(0 if empty else 1, T), min_size=B, max_size=B)
    drawn = draw(st.none() | ends, label="lengths") if lengths else None
    return replace(
        case,
        lengths=None if drawn is None else np.array(drawn),
        reset=mask("reset") if reset else None,
        cut=mask("cut") if cut else None,
    )


def module(cell: str) -> Any:
    """The file of the reference that holds this cell."""
    return {"gru": gru, "lstm": lstm}.get(cell, rnn)


def oracle_trace(case: Case) -> Any:
    """The reference's forward pass."""
    extra = {"nonlinearity": case.cell[4:]} if case.cell.startswith("rnn") else {}
    return module(case.cell).forward(
        case.x, *case.state0, case.weights, case.lengths, case.reset, case.cut, **extra
    )


def oracle(case: Case) -> dict[str, Array]:
    """Outputs and every gradient by the reference."""
    trace = oracle_trace(case)
    gradients = module(case.cell).backward(trace, case.dy, *case.dstate)
    final = {"h_n": trace.h_n}
    if case.cell == "lstm":
        final["c_n"] = trace.c_n
    return {"y": trace.y, **final, **vars(gradients)}


def leaves(case: Case) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], list[torch.Tensor]]:
    """Input, state and weights as torch leaves that ask for a gradient."""

    def leaf(a: Array) -> torch.Tensor:
        return torch.tensor(a, dtype=torch.float64, requires_grad=True)

    weights = [leaf(getattr(case.weights, name)) for name in NAMES]
    return leaf(case.x), tuple(leaf(s) for s in case.state0), weights


def autograd(case: Case) -> dict[str, torch.Tensor]:
    """Outputs and every gradient by torch: one cell call a step, masks by ``torch.where``."""
    T, B, _, _ = case.sizes
    x, state0, weights = leaves(case)
    never = np.zeros((T, B), dtype=bool)
    reset = torch.tensor(never if case.reset is None else case.reset)[:, :, None]
    cut = torch.tensor(never if case.cut is None else case.cut)[:, :, None]
    valid = torch.tensor(case.valid)[:, :, None]

    state: tuple[torch.Tensor, ...] = state0
    computed: list[Any] = []
    y: list[torch.Tensor] = []
    for t in range(T):
        before = tuple(torch.where(reset[t], torch.zeros_like(s), s) for s in state)
        before = tuple(torch.where(cut[t], s.detach(), s) for s in before)
        after = _STEP[case.cell](x[t], before if case.cell == "lstm" else before[0], *weights)
        after = after if case.cell == "lstm" else (after,)
        for s in after:
            s.retain_grad()
        computed.append(after)
        state = tuple(
            torch.where(valid[t], new, old) for new, old in zip(after, state, strict=True)
        )
        y.append(torch.where(valid[t], after[0], 0.0))

    outputs = torch.stack(y)
    loss = (outputs * torch.tensor(case.dy)).sum()
    for s, ds in zip(state, case.dstate, strict=True):
        loss = loss + (s * torch.tensor(ds)).sum()
    # The zero term gives every leaf a gradient, also where a reset has severed it from the loss.
    (loss + 0.0 * sum(leaf.sum() for leaf in (x, *state0, *weights))).backward()

    result: dict[str, Any] = {"y": outputs, "h_n": state[0], "dx": x.grad, "dh0": state0[0].grad}
    result |= {f"d{name}": w.grad for name, w in zip(NAMES, weights, strict=True)}
    result["state"] = torch.stack([after[0].grad for after in computed])
    if case.cell == "lstm":
        result |= {"c_n": state[1], "dc0": state0[1].grad}
        result["cell_state"] = torch.stack([after[1].grad for after in computed])
    return result

"""The cells: what each is called, how many gates and states it has, and how wide its rows are.

Everybody who has to know reads it here; no torch is needed for it. A new cell begins with a line here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One cell that the recurrence runs.

    Attributes:
        name: as users say it: ``--cell``.
        mode: as torch's layers and :func:`bptt.ops.recur` call it.
        gates: G, blocks of H rows in a weight.
        rows: what each block of rows is, in words, in torch's order.
        states: tensors carried from step to step: h, or h and c.
        saved, dz: widths, in multiples of H, of what the kernels' forward keeps of a step and of the
            cotangents at its pre-activations; as in ``csrc/kernels.h``.
    """

    name: str
    mode: str
    gates: int
    states: int
    saved: int
    dz: int
    rows: tuple[str, ...] = ("state",)

    @property
    def key(self) -> str:
        """As :mod:`bptt.reference` and :mod:`bptt.export` call it, e.g. ``"rnn_tanh"``."""
        return self.mode.lower()


GRU_ROWS = ("reset", "update", "candidate")
LSTM_ROWS = ("input", "forget", "candidate", "output")
# In the order of their numbers in the kernels.
CELLS = (
    Cell("rnn", "RNN_TANH", gates=1, states=1, saved=1, dz=1),
    Cell("rnn-relu", "RNN_RELU", gates=1, states=1, saved=1, dz=1),
    Cell("gru", "GRU", gates=3, states=1, saved=5, dz=4, rows=GRU_ROWS),
    Cell("lstm", "LSTM", gates=4, states=2, saved=6, dz=4, rows=LSTM_ROWS),
)
# Recurrences that a scan computes: no kernel, no gates on the state.
LINEAR = ("mingru", "lru")
NAMES = (*(cell.name for cell in CELLS), *LINEAR)
BY_NAME = {cell.name: cell for cell in CELLS}
BY_MODE = {cell.mode: cell for cell in CELLS}
BY_KEY = {cell.key: cell for cell in CELLS}

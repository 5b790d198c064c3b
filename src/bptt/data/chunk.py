"""A chunk: what one update of training sees of a text, time-major.

Both ways to cut a text, ``Lanes`` and ``RandomChunks``, hand out the same thing, so that a training
loop does not know which it runs on.

At the border of two documents two things hold. The state does not pass it: ``reset`` is True at
the step whose *input* is a document's first token. And nothing is scored across it: the *target*
that is a document's first token is ``IGNORED``, because nothing before it tells what it will be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt.choices import IGNORED
from bptt.data.encode import Starts
from bptt.errors import ArgumentError, DtypeError, ShapeError, whole
from bptt.files.read import shown

if TYPE_CHECKING:
    import torch


class Position(NamedTuple):
    """Where in the data: passes completed, and how far into this one."""

    epoch: int
    offset: int


@dataclass(frozen=True, eq=False)
class Chunk:
    """K steps of B lanes, time-major.

    Args:
        inputs: tokens (K, B), int64.
        targets: the token after each input (K, B), int64; ``IGNORED`` where it is not scored.
        reset: bool (K, B), True where the state is zero before the step; None where nowhere.
        fresh: every lane resets at the first step and none later: a loop may start from
            ``carry=None`` and leave the mask out.
        position: of this chunk.
        scored: how many targets are not ``IGNORED``.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    reset: torch.Tensor | None
    fresh: bool
    position: Position
    scored: int

    def to(self, device: torch.device) -> Chunk:
        """The same chunk on a device; itself where it is there already."""
        if self.inputs.device == device:
            return self
        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            reset=None if self.reset is None else self.reset.to(device, non_blocking=True),
        )


def assemble(
    window: NDArray[Any],
    begins: NDArray[np.int64],
    starts: Starts,
    position: Position,
    fresh: bool,
) -> Chunk:
    """Make the chunk of lanes that begin at given tokens.

    Args:
        window: tokens (K + 1, B), any integer dtype: the inputs, and the target of the last.
        begins: position (B,) in the stream of each lane's first input.
        starts: where documents begin (D,), ascending.
        position: of the chunk.
        fresh: reset every lane at the first step, whether or not a document begins there.

    Returns:
        The chunk, its tensors its own (nothing aliases the stream).

    Cost: O(K B + B log D).
    """
    import torch  # not above: reading a text needs no torch

    inputs, targets = window[:-1], window[1:]
    steps = len(inputs)
    reset = marks(starts, begins, steps)
    if fresh:
        later = reset is not None and bool(reset[1:].any())
        reset = np.zeros(inputs.shape, dtype=bool) if reset is None else reset
        reset[0] = True
        fresh = not later
    # astype copies always, so a read-only map never becomes a tensor's memory.
    wanted = targets.astype(np.int64, order="C")
    scored = wanted.size
    borders = marks(starts, begins + 1, steps)
    if borders is not None:
        wanted[borders] = IGNORED
        scored -= int(np.count_nonzero(borders))
    return Chunk(
        inputs=torch.from_numpy(inputs.astype(np.int64, order="C")),
        targets=torch.from_numpy(wanted),
        reset=None if reset is None else torch.from_numpy(reset),
        fresh=fresh,
        position=position,
        scored=scored,
    )


def marks(starts: Starts, begins: NDArray[np.int64], steps: int) -> NDArray[np.bool_] | None:
    """Where documents begin in windows of ``steps`` tokens: bool (K, B), None where nowhere.

    Example:
        >>> marks(np.array([0, 5]), np.array([3, 4]), 3)
        array([[False, False],
               [False,  True],
               [ True, False]])
    """
    low = np.searchsorted(starts, begins)
    high = np.searchsorted(starts, begins + steps)
    lanes = np.flatnonzero(high > low)
    if not len(lanes):
        return None
    found = np.zeros((steps, len(begins)), dtype=bool)
    for lane in lanes:
        found[starts[low[lane] : high[lane]] - begins[lane], lane] = True
    return found


def check_stream(tokens: object, starts: object) -> tuple[NDArray[Any], Starts]:
    """The stream (N,), (D,) as arrays; an error where they are not integers in one dimension."""
    stream, begins = np.asarray(tokens), np.asarray(starts)
    for name, array in (("tokens", stream), ("starts", begins)):
        if array.ndim != 1:
            raise ShapeError(f"{name} of shape (N,)", f"{array.shape}", "pass one stream")
        if array.dtype.kind not in "iu" and array.size:
            raise DtypeError(f"integer {name}", f"{array.dtype}", "pass the parts of a Corpus")
    begins = begins.astype(np.int64, copy=False)
    if len(begins) and (begins[0] < 0 or (np.diff(begins) <= 0).any()):
        raise ArgumentError(
            "starts that ascend from 0 or more",
            f"starts from {begins[0]}, not ascending" if begins[0] >= 0 else f"{begins[0]}",
            "sort them and drop repeats: numpy.unique(starts)",
        )
    return stream, begins


def check_size(name: str, value: object) -> int:
    """A size as int; an error where it is not a whole number of at least 1."""
    return whole(name, value, remedy="pass a size of 1 or more")


def check_lanes(lane_range: tuple[int, int] | None, batch: int) -> tuple[int, int]:
    """The lanes ``[low, high)`` to hand out; an error where they are not among ``batch``."""
    low, high = (
        (0, batch) if lane_range is None else (whole("lane", lane, None) for lane in lane_range)
    )
    if not 0 <= low < high <= batch:
        raise ArgumentError(
            f"lane_range=(low, high) with 0 <= low < high <= {batch}",
            f"lane_range=({low}, {high})",
            "split the lanes 0 .. batch-1 into ranges, one for each process",
        )
    return low, high


def check_state(state: object, expected: dict[str, int], *names: str) -> tuple[int, ...]:
    """The whole numbers a saved state names; an error where it belongs to other data."""
    if not isinstance(state, dict):
        raise DtypeError("a state as state() returns it", type(state).__name__, "pass a dict")
    for name in (*expected, *names):
        value = state.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise ArgumentError(
                f"a state with a whole number {name} from 0 to 2**63 - 1",
                shown(value),
                "pass what state() returned",
            )
        if name in expected and value != expected[name]:
            raise ArgumentError(
                f"a state saved with {name}={expected[name]}",
                f"{name}={value}",
                "continue on the same text with the same settings",
            )
    return tuple(state[name] for name in names)

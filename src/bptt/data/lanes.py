"""The sequential partition: a stream cut into lanes that are read side by side, state carried.

A stream of N tokens and a batch of B give B lanes of ``n = (N - 1) // B`` steps. Lane b reads the
inputs ``b n .. (b + 1) n - 1``; the target of each is the token after it. Chunk after chunk every
lane goes on where it stopped, so that the carry of one chunk is the start of the next. The last
chunk of a pass may be shorter; ``unused`` tokens, fewer than B, are never a target.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bptt.data.chunk import (
    Chunk,
    Position,
    assemble,
    check_lanes,
    check_size,
    check_state,
    check_stream,
)
from bptt.errors import ArgumentError, DataError, whole
from bptt.files.memory import require
from bptt.files.read import windows


class Lanes:
    """Chunks of a stream in order, every lane contiguous.

    Args:
        tokens: ids (N,), any integer dtype; may be a memory map.
        starts: where documents begin (D,), ascending.
        batch: B, the number of lanes, of all processes together.
        chunk: K, the steps of a chunk.
        lane_range: ``(low, high)``, hand out these lanes only; they are counted over all
            processes. None for all.

    Raises:
        DataError: the stream is shorter than one chunk of the batch, ``batch * chunk + 1`` tokens.
        ArgumentError, DtypeError, ShapeError: an argument is out of range or of another kind.

    Iterating yields the rest of the current pass, ``take()`` goes on over passes without an end.
    At the first step of a pass every lane resets.

    Cost: O(K B) time and memory a chunk; the stream is never copied as a whole.

    Example:
        >>> lanes = Lanes(np.arange(10), [0, 7], batch=2, chunk=3)
        >>> lanes.steps, lanes.unused, len(lanes)
        (4, 1, 2)
        >>> for chunk in lanes:
        ...     print(chunk.inputs.tolist(), chunk.targets.tolist(), chunk.reset is None)
        [[0, 4], [1, 5], [2, 6]] [[1, 5], [2, 6], [3, -100]] False
        [[3, 7]] [[4, 8]] False
        >>> lanes.position
        Position(epoch=1, offset=0)
    """

    def __init__(
        self,
        tokens: ArrayLike,
        starts: ArrayLike,
        *,
        batch: int,
        chunk: int,
        lane_range: tuple[int, int] | None = None,
    ) -> None:
        self._tokens, self._starts = check_stream(tokens, starts)
        self.batch, self.chunk = check_size("batch", batch), check_size("chunk", chunk)
        self.lane_range = check_lanes(lane_range, self.batch)
        if len(self._tokens) < self.batch * self.chunk + 1:
            longest = max((len(self._tokens) - 1) // self.batch, 0)
            raise DataError(
                f"at least batch * chunk + 1 = {self.batch * self.chunk + 1} tokens",
                f"{len(self._tokens)} tokens",
                f"pass chunk <= {longest}, or a smaller batch or a longer text"
                if longest
                else "pass a smaller batch and chunk, or a longer text",
            )
        self.steps = (len(self._tokens) - 1) // self.batch
        self.unused = len(self._tokens) - 1 - self.steps * self.batch
        low, high = self.lane_range
        self._begins = np.arange(low, high, dtype=np.int64) * self.steps
        self._epoch = self._offset = 0

    def __len__(self) -> int:
        """Chunks of one pass."""
        return -(-self.steps // self.chunk)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks from the current position to the end of the pass."""
        epoch = self._epoch
        while self._epoch == epoch:
            yield self.take()

    @property
    def position(self) -> Position:
        """Of the chunk that comes next; the offset counts steps."""
        return Position(self._epoch, self._offset)

    def take(self) -> Chunk:
        """Return the next chunk, the first of the next pass after the last of this one."""
        position, begin = self.position, self._offset
        end = min(begin + self.chunk, self.steps)
        self._epoch, self._offset = (
            (self._epoch + 1, 0)
            if end == self.steps
            else (
                self._epoch,
                end,
            )
        )
        begins = self._begins + begin
        window = windows(self._tokens, begins, end - begin + 1)
        return assemble(window, begins, self._starts, position, fresh=begin == 0)

    def state(self) -> dict[str, Any]:
        """The position as JSON-safe numbers, with the sizes that it holds for.

        It is the same in every process that shares the lanes.

        Example:
            >>> lanes = Lanes(np.arange(10), [0], batch=2, chunk=3)
            >>> _ = lanes.take()
            >>> lanes.state()
            {'tokens': 10, 'batch': 2, 'epoch': 0, 'offset': 3}
        """
        return {
            "tokens": len(self._tokens),
            "batch": self.batch,
            "epoch": self._epoch,
            "offset": self._offset,
        }

    def seek(self, position: Position | dict[str, Any]) -> None:
        """Go to a position, or to a saved state.

        Args:
            position: ``Position`` or what ``state()`` returned; the chunk length may be another
                now, and so may the lanes of this process.

        Raises:
            ArgumentError, DtypeError: it lies outside the stream, or the state is of other data.

        Example:
            >>> lanes = Lanes(np.arange(10), [0], batch=2, chunk=3)
            >>> lanes.seek(Position(epoch=4, offset=2))
            >>> lanes.take().inputs.tolist()
            [[2, 6], [3, 7]]
        """
        if isinstance(position, tuple):
            position = {**self.state(), **Position(*position)._asdict()}
        sizes = {"tokens": len(self._tokens), "batch": self.batch}
        epoch, offset = check_state(position, sizes, "epoch", "offset")
        if offset >= self.steps:
            raise ArgumentError(
                f"an offset under {self.steps} steps",
                f"offset={offset}",
                "continue on the same text with the same batch",
            )
        self._epoch, self._offset = epoch, offset


# Random chunks: each from anywhere in the stream, each with a fresh state.
#
# The B places of chunk number i are drawn by a counter-based generator keyed by the seed and set to
# i. So the place of every chunk is known without drawing the ones before it: the state is a count,
# every process draws the same, and going on after an interruption is going to a number.
#
# A chunk may cross the border of two documents; it resets there, and does not score the target
# across it, as lanes do.

SEEDS = 1 << 64


class RandomChunks:
    """Chunks from uniformly random places, without an end.

    Args:
        tokens: ids (N,), any integer dtype; may be a memory map.
        starts: where documents begin (D,), ascending.
        batch: B, the lanes of a chunk, of all processes together.
        chunk: K, the steps of a chunk.
        seed: 0 <= seed < 2**64; equal seeds give equal chunks, on any machine.
        lane_range: ``(low, high)``, hand out these lanes only. None for all.

    Raises:
        DataError: the stream has fewer than ``chunk + 1`` tokens.
        ArgumentError, DtypeError, ShapeError: an argument is out of range or of another kind.

    Iterating yields as many chunks as the stream would fill (``len``) and calls that a pass;
    ``take()`` goes on without an end. Every lane resets at the first step.

    Cost: O(K B) time and memory a chunk; the stream is never copied as a whole.

    Example:
        >>> chunks = RandomChunks(np.arange(100), [0], batch=2, chunk=3, seed=7)
        >>> first = chunks.take()
        >>> bool((first.targets == first.inputs + 1).all()), first.fresh, chunks.position
        (True, True, Position(epoch=0, offset=1))
        >>> chunks.seek(Position(epoch=0, offset=0))
        >>> bool((chunks.take().inputs == first.inputs).all())
        True
    """

    def __init__(
        self,
        tokens: ArrayLike,
        starts: ArrayLike,
        *,
        batch: int,
        chunk: int,
        seed: int,
        lane_range: tuple[int, int] | None = None,
    ) -> None:
        self._tokens, self._starts = check_stream(tokens, starts)
        self.batch, self.chunk = check_size("batch", batch), check_size("chunk", chunk)
        self.lane_range = check_lanes(lane_range, self.batch)
        require(
            2 * 8 * self.batch * (self.chunk + 1),
            f"batch={self.batch} and chunk={self.chunk}",
            "pass a smaller batch or chunk",
        )
        seed = whole("seed", seed, None, "pass a seed in 0 .. 2**64-1")
        if not 0 <= seed < SEEDS:
            raise ArgumentError("0 <= seed < 2**64", f"seed={seed}", "pass a seed in that range")
        self.seed = seed
        self._places = len(self._tokens) - self.chunk
        if self._places < 1:
            raise DataError(
                f"at least chunk + 1 = {self.chunk + 1} tokens",
                f"{len(self._tokens)} tokens",
                "pass a smaller chunk, or a longer text",
            )
        self._drawn = 0

    def __len__(self) -> int:
        """Chunks of one pass: as many as score about every token once, at least one."""
        return max((len(self._tokens) - 1) // (self.batch * self.chunk), 1)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks from the current position to the end of the pass."""
        epoch = self.position.epoch
        while self.position.epoch == epoch:
            yield self.take()

    @property
    def position(self) -> Position:
        """Of the chunk that comes next; the offset counts chunks."""
        return Position(*divmod(self._drawn, len(self)))

    def take(self) -> Chunk:
        """Return the next chunk."""
        position, low, high = self.position, *self.lane_range
        # 2**64 draws lie between two counts, so no two chunks share any.
        bits = np.random.Philox(key=self.seed, counter=self._drawn << 64)
        # Raw bits are the same in every version of NumPy; Generator.integers need not be. The
        # remainder favours low places by less than N / 2**64.
        raw = np.asarray(bits.random_raw(self.batch), dtype=np.uint64)[low:high]
        begins = (raw % np.uint64(self._places)).astype(np.int64)
        self._drawn += 1
        window = windows(self._tokens, begins, self.chunk + 1)
        return assemble(window, begins, self._starts, position, fresh=True)

    def state(self) -> dict[str, Any]:
        """How many chunks were drawn, JSON-safe, with the settings that it holds for.

        Example:
            >>> RandomChunks(np.arange(9), [0], batch=2, chunk=3, seed=7).state()
            {'tokens': 9, 'batch': 2, 'chunk': 3, 'seed': 7, 'drawn': 0}
        """
        return {**self._settings(), "drawn": self._drawn}

    def seek(self, position: Position | dict[str, Any]) -> None:
        """Go to a position, or to a saved state.

        Raises:
            ArgumentError, DtypeError: the state is of other data or settings.
        """
        if isinstance(position, tuple):
            epoch, offset = Position(*position)
            position = {**self._settings(), "drawn": epoch * len(self) + offset}
        (drawn,) = check_state(position, self._settings(), "drawn")
        self._drawn = drawn

    def _settings(self) -> dict[str, int]:
        return {
            "tokens": len(self._tokens),
            "batch": self.batch,
            "chunk": self.chunk,
            "seed": self.seed,
        }

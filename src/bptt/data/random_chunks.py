"""Random chunks: each from anywhere in the stream, each with a fresh state.

The B places of chunk number i are drawn by a counter-based generator keyed by the seed and set to
i. So the place of every chunk is known without drawing the ones before it: the state is a count,
every process draws the same, and going on after an interruption is going to a number.

A chunk may cross the border of two documents; it resets there, and does not score the target
across it, as lanes do.
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
from bptt.data.mapped import windows
from bptt.errors import ArgumentError, DataError
from bptt.memory import require
from bptt.numbers import whole

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

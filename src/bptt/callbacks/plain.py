"""A training loop of your own: a function is told the numbers whenever a step was measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import nn

from bptt.errors import BpttError
from bptt.watching import Flow, Watched, watch

# "horizon": 35, "decay": 0.93, "verdict": "healthy"; of several modules each under its name besides,
# as "encoder.lstm/horizon".
Numbers: TypeAlias = dict[str, Any]
Tell: TypeAlias = Callable[[int, Numbers], Any]


class Watcher:
    """``bptt.watch`` over a training run whose begin and end are two calls, as trainers have it.

    Args:
        model: any module that holds recurrent layers or cells.
        every: measure each n-th backward pass.
        options: further ones of :class:`bptt.watch`.

    Example:
        >>> import torch
        >>> gru = torch.nn.GRU(3, 5)
        >>> watcher = Watcher(gru, every=2)
        >>> for _ in range(3):
        ...     gru(torch.randn(9, 2, 3))[0].sum().backward()
        ...     print([sorted(numbers) for numbers in watcher.news()])
        [['decay', 'horizon', 'verdict']]
        []
        [['decay', 'horizon', 'verdict']]
        >>> watcher.stop()
    """

    def __init__(self, model: nn.Module, every: int = 50, **options: Any) -> None:
        self._watch = watch(model, every=every, **options)
        self.flow: Flow = self._watch.__enter__()
        self._told = 0
        self._open = True
        self._warned = False

    def news(self) -> Iterator[Numbers]:
        """The numbers of every step that was measured since the last call."""
        self._warn()
        new = self.flow.history[self._told :]
        self._told = len(self.flow.history)
        for measured in new:
            if measured.refusal is not None:
                self._warn(measured.refusal)
                continue
            found = _of(measured.main)
            if len(measured.modules) > 1:
                for module in measured.modules:
                    found |= {f"{module.name}/{name}": v for name, v in _of(module).items()}
            yield found

    def _warn(self, error: BpttError | None = None) -> None:
        """What is observed goes on: a measurement that failed is said once."""
        error = error or self._watch.error
        if error is not None and not self._warned:
            self._warned = True
            warnings.warn(f"the horizon was not measured: {error}", WatchWarning, stacklevel=3)

    def stop(self, failed: bool = False) -> None:
        """Take the hooks off. Calling it again does nothing.

        Args:
            failed: training ended with an error of its own, which is not to be covered by another.

        Raises:
            WatchError: no backward pass reached a recurrent module.
        """
        if self._open:
            self._open = False
            if self._watch.error is not None:
                self._warn()
                failed = True
            kind = RuntimeError if failed else None
            self._watch.__exit__(kind, None, None)


class WatchWarning(UserWarning):
    """A measurement failed, and training goes on."""


def _of(module: Watched) -> Numbers:
    return {"horizon": module.horizon, "decay": module.decay, "verdict": module.verdict}


@contextmanager
def told(
    model: nn.Module, tell: Tell, every: int = 50, **options: Any
) -> Iterator[Callable[[], None]]:
    """Tell a function how far back the gradient reaches, while you train.

    Args:
        model: any module that holds recurrent layers or cells.
        tell: called as ``tell(step, numbers)``; step counts your calls of what the block hands out.
        every: measure each n-th backward pass; at 50 it takes at most about 5 % of the time.
        options: further ones of :class:`bptt.watch`.

    Returns:
        on entering, a function to call after each step of training.

    Raises:
        ArgumentError, WatchError: as :class:`bptt.watch` does.

    Example:
        >>> import torch
        >>> gru = torch.nn.GRU(3, 5)
        >>> with told(gru, lambda step, numbers: print(step, sorted(numbers)), every=2) as after_step:
        ...     for _ in range(3):
        ...         gru(torch.randn(9, 2, 3))[0].sum().backward()
        ...         after_step()
        1 ['decay', 'horizon', 'verdict']
        3 ['decay', 'horizon', 'verdict']
    """
    watcher = Watcher(model, every, **options)
    step = 0

    def after_step() -> None:
        nonlocal step
        step += 1
        for numbers in watcher.news():
            tell(step, numbers)

    try:
        yield after_step
    except BaseException:
        watcher.stop(failed=True)
        raise
    watcher.stop()

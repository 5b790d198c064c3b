"""Horizon and decay in Lightning's own log."""

from __future__ import annotations

import math
from typing import Any

from bptt.callbacks.plain import Watcher
from bptt.errors import ArgumentError, DependencyError


def for_lightning(every: int = 50, **options: Any) -> Any:
    """A callback for ``lightning.Trainer(callbacks=[...])``.

    It logs ``bptt/horizon`` and ``bptt/decay`` to whatever logger the trainer has, after each
    measured step, and keeps everything in its ``flow``.

    Args:
        every: measure each n-th backward pass.
        options: further ones of :class:`bptt.watch`.

    Returns:
        a ``lightning.pytorch.Callback``.

    Raises:
        DependencyError: neither lightning nor pytorch-lightning is installed.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError:
            raise DependencyError("lightning", "none installed", "pip install lightning") from None

    class WatchCallback(Callback):
        """See :func:`for_lightning`."""

        watcher: Watcher | None = None

        @property
        def flow(self) -> Any:
            """What :func:`bptt.watch` saw; None before training began."""
            return None if self.watcher is None else self.watcher.flow

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.watcher = Watcher(pl_module, every, **options)

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if self.watcher is None:
                raise ArgumentError(
                    "a callback that saw the training begin",
                    "a step before on_train_start",
                    "give the trainer the callback before it starts",
                )
            for numbers in self.watcher.news():
                for name, value in numbers.items():
                    if not isinstance(value, str) and math.isfinite(value):
                        pl_module.log(f"bptt/{name}", float(value), on_step=True, on_epoch=False)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if self.watcher is not None:
                self.watcher.stop()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            if self.watcher is not None:
                self.watcher.stop(failed=True)

    return WatchCallback()

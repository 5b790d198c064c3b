"""Horizon and decay in the log history of Hugging Face's Trainer."""

from __future__ import annotations

import math
from typing import Any

from bptt.callbacks.plain import Numbers, Watcher
from bptt.errors import ArgumentError, DependencyError


def for_hugging_face(every: int = 50, **options: Any) -> Any:
    """A callback for ``transformers.Trainer(callbacks=[...])``.

    Each measured step leaves a line ``{"step", "bptt/horizon", "bptt/decay", "bptt/verdict"}`` in
    ``trainer.state.log_history``; the newest numbers also join the next line that the trainer logs,
    and so reach the reporters that come after this callback.

    Args:
        every: measure each n-th backward pass; gradient accumulation counts each part.
        options: further ones of :class:`bptt.watch`.

    Returns:
        a ``transformers.TrainerCallback``.

    Raises:
        DependencyError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise DependencyError(
            "transformers", "none installed", "pip install transformers accelerate"
        ) from None

    class WatchCallback(TrainerCallback):
        """See :func:`for_hugging_face`."""

        watcher: Watcher | None = None
        latest: Numbers | None = None

        @property
        def flow(self) -> Any:
            """What :func:`bptt.watch` saw; None before training began."""
            return None if self.watcher is None else self.watcher.flow

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.watcher = Watcher(kwargs["model"], every, **options)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.watcher is None:
                raise ArgumentError(
                    "a callback that saw the training begin",
                    "a step before on_train_begin",
                    "give the trainer the callback before it starts",
                )
            for numbers in self.watcher.news():
                self.latest = {
                    f"bptt/{name}": value
                    for name, value in numbers.items()
                    if isinstance(value, str) or math.isfinite(value)
                }
                state.log_history.append({"step": state.global_step, **self.latest})

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.latest is not None and kwargs.get("logs") is not None:
                kwargs["logs"].update(self.latest)
                self.latest = None

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.watcher is not None:
                self.watcher.stop()

    return WatchCallback()

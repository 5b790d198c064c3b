"""A guard around the loop of a trainer: Hugging Face's, Lightning's."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from bptt.errors import DependencyError, LoopWarning
from bptt.probes.guard import Finding, Guard, guard
from bptt.recurrence import off_backward, on_backward


class Guarded:
    """:class:`bptt.guard` over a training run whose begin and end are two calls, as trainers have it.

    Args:
        model, optimizers, options: as :class:`bptt.guard` takes them.
        tell: called with each finding, which is a warning as well.

    Attributes:
        guard: what it sees.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: torch.optim.Optimizer | Iterable[torch.optim.Optimizer],
        tell: Callable[[Finding], Any],
        **options: Any,
    ) -> None:
        def both(finding: Finding) -> None:
            tell(finding)
            warnings.warn(str(finding), LoopWarning, stacklevel=2)

        self._around: Any = guard(model, optimizers, tell=both, **options)
        self.guard: Guard = self._around.__enter__()
        # An error of a backward pass ends a trainer without a word to its callbacks.
        on_backward(self._began, self._ended, self.stop)
        self._open = True

    def stop(self, error: BaseException | None = None) -> None:
        """Take the hooks off; of an error say what is known. Calling it again does nothing."""
        if not self._open:
            return
        self._open = False
        off_backward(self._began, self._ended)
        if error is not None:
            found = self.guard.tell("on_error", error)
            if found and sys.version_info >= (3, 11):
                error.add_note(str(found[0]))
        self._around.__exit__(None, None, None)

    def _began(self, roots: list[Any], given: list[Any]) -> None:
        pass

    def _ended(self) -> None:
        pass


def guard_hugging_face(**options: Any) -> Any:
    """A callback for ``transformers.Trainer(callbacks=[...])`` that names mistakes of the training.

    Each finding is a :class:`bptt.LoopWarning` and a line ``{"step", "bptt/finding", "bptt/seen",
    "bptt/write"}`` of ``trainer.state.log_history``. What the trainer logs gains ``bptt/norm`` and
    ``bptt/norm_clipped``, the norms of the newest update before and after clipping. An error of a
    backward pass is torch's own; what is known of it is told before.

    Limits: of several processes the first one is looked at. An error of another kind ends the training
    without a word to callbacks: call ``callback.stop()`` then, or begin the next training with it.

    Args:
        options: of :class:`bptt.guard`: rules, off, measure_every.

    Returns:
        a ``transformers.TrainerCallback``; its ``guard`` has the findings and the report.

    Raises:
        DependencyError: transformers is not installed.
        ArgumentError: when the training begins, as :class:`bptt.guard` does.
    """
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise DependencyError(
            "transformers", "none installed", "pip install transformers accelerate"
        ) from None

    class GuardCallback(TrainerCallback):
        """See :func:`guard_hugging_face`."""

        guarded: Guarded | None = None

        @property
        def guard(self) -> Guard | None:
            """What the guard saw; None before training began."""
            return None if self.guarded is None else self.guarded.guard

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.stop()
            if not state.is_world_process_zero:
                return

            def tell(finding: Finding) -> None:
                line = {"bptt/finding": finding.code, "bptt/seen": finding.seen}
                line["bptt/write"] = finding.write
                state.log_history.append({"step": state.global_step, **line})

            self.guarded = Guarded(kwargs["model"], kwargs["optimizer"], tell, **options)

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.guarded is not None and kwargs.get("logs") is not None:
                norms = {f"bptt/{n}": norm for n, norm in self.guarded.guard.norms().items()}
                kwargs["logs"].update(norms)
                state.log_history[-1].update(norms)  # that line stands in the history already

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.stop()

        def stop(self) -> None:
            """Take the hooks off."""
            if self.guarded is not None:
                self.guarded.stop()

    return GuardCallback()


def guard_lightning(**options: Any) -> Any:
    """A callback for ``lightning.Trainer(callbacks=[...])`` that names mistakes of the training.

    Each finding is a :class:`bptt.LoopWarning`. The trainer's log has ``bptt/findings``, how many there
    are, and ``bptt/norm`` and ``bptt/norm_clipped``, the norms of the newest update before and after
    clipping; beside :func:`for_lightning` those are that one's. An error that ends the training is
    torch's own; what is known of it is told before.

    Limits: of several processes the first one is looked at.

    Args:
        options: of :class:`bptt.guard`: rules, off, measure_every.

    Returns:
        a ``lightning.pytorch.Callback``; its ``guard`` has the findings and the report.

    Raises:
        DependencyError: neither lightning nor pytorch-lightning is installed.
        ArgumentError: when the training begins, as :class:`bptt.guard` does.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError:
            raise DependencyError("lightning", "none installed", "pip install lightning") from None

    class GuardCallback(Callback):
        """See :func:`guard_lightning`."""

        guarded: Guarded | None = None

        @property
        def guard(self) -> Guard | None:
            """What the guard saw; None before training began."""
            return None if self.guarded is None else self.guarded.guard

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.stop()
            if trainer.is_global_zero:
                self.guarded = Guarded(pl_module, trainer.optimizers, lambda _: None, **options)

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if self.guarded is None or self.guarded.guard.loop.updates == 0:
                return
            found = {"findings": float(len(self.guarded.guard.findings))}
            if not any(getattr(other, "logs_norms", False) for other in trainer.callbacks):
                found |= self.guarded.guard.norms()
            for name, value in found.items():
                pl_module.log(f"bptt/{name}", value, on_step=True, on_epoch=False)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.stop()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            if self.guarded is not None:
                self.guarded.stop(exception)

        def stop(self) -> None:
            """Take the hooks off."""
            if self.guarded is not None:
                self.guarded.stop()

    return GuardCallback()

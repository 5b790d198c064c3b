"""Watch a training: a function of your own is told, or Hugging Face, Lightning or TensorBoard."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn

from bptt.errors import ArgumentError, BpttError, DependencyError, real
from bptt.probes import VERDICTS, Verdict
from bptt.probes.watch import Flow, Watched, watch
from bptt.recurrence import off_backward, on_backward

# A training loop of your own: a function is told the numbers whenever a step was measured.

# "horizon": 35, "decay": 0.93, "verdict": "healthy"; of several modules horizon and decay of each under
# its name besides, as "encoder.lstm/horizon". The verdict is one, that of :meth:`bptt.Flow.judge`.
Numbers: TypeAlias = dict[str, Any]
Tell: TypeAlias = Callable[[int, Numbers], Any]


class Watcher:
    """``bptt.watch`` over a training run whose begin and end are two calls, as trainers have it.

    Args:
        model: any module that holds recurrent layers or cells.
        every: measure each n-th backward pass.
        guess: the loss of a model that has learned nothing, e.g. log of the number of classes: training
            that stands above it is called diverged.
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

    def __init__(
        self, model: nn.Module, every: int = 50, *, guess: float | None = None, **options: Any
    ) -> None:
        self._model = model
        self._guess = None if guess is None else real("guess", guess)
        self._loss: float | None = None
        self._watch = watch(model, every=every, **options)
        self.flow: Flow = self._watch.__enter__()
        on_backward(self._began, self._ended)
        self._norms: Numbers = {}
        self._told = 0
        self._open = True
        self._clips = False
        self._warned = False

    def news(self, loss: float | None = None) -> Iterator[Numbers]:
        """The numbers of every step that was measured since the last call.

        Args:
            loss: of training by now, to be judged beside ``guess``; default the last one that was given.
        """
        self._warn()
        self._loss = self._loss if loss is None else real("loss", loss)
        new = self.flow.history[self._told :]
        self._told = len(self.flow.history)
        norms, self._norms = self._norms, {}
        for measured in new:
            if measured.refusal is not None:
                self._warn(measured.refusal)
                continue
            found = {**_of(measured.main), "verdict": self._judged().word}
            if len(measured.modules) > 1:
                for module in measured.modules:
                    found |= {f"{module.name}/{name}": v for name, v in _of(module).items()}
            yield found | (norms if measured is new[-1] and self._clips else {})

    def _judged(self) -> Verdict:
        loss = None if self._guess is None else self._loss
        return self.flow.judge(loss=loss, guess=self._guess)

    def clipped(self) -> None:
        """The gradient is clipped now, and not used yet: add both norms to the next numbers.

        Cost: none where no step waits to be told; else one norm of all gradients.
        """
        self._clips = True
        if self._waiting:
            self._norms["norm_clipped"] = self._norm()

    @property
    def _waiting(self) -> bool:
        return len(self.flow.history) > self._told

    def _norm(self) -> float:
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        return float(nn.utils.get_total_norm(gradients))

    def _began(self, roots: list[Any], given: list[Any]) -> None:
        pass

    def _ended(self) -> None:
        """Of all parts of a gradient that is accumulated, the last one has the whole norm."""
        if self._waiting:
            self._norms = {"norm": self._norm()}

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
            off_backward(self._began, self._ended)
            if self._watch.error is not None:
                self._warn()
                failed = True
            kind = RuntimeError if failed else None
            self._watch.__exit__(kind, None, None)


class WatchWarning(UserWarning):
    """A measurement failed, and training goes on."""


def _of(module: Watched) -> Numbers:
    return {"horizon": module.horizon, "decay": module.decay}


@contextmanager
def told(
    model: nn.Module,
    tell: Tell,
    every: int = 50,
    *,
    guess: float | None = None,
    **options: Any,
) -> Iterator[Callable[..., None]]:
    """Tell a function how far back the gradient reaches, while you train.

    Args:
        model: any module that holds recurrent layers or cells.
        tell: called as ``tell(step, numbers)``; step counts your calls of what the block hands out.
        every: measure each n-th backward pass; at 50 it takes at most about 5 % of the time.
        guess: the loss of a model that has learned nothing, see :class:`Watcher`.
        options: further ones of :class:`bptt.watch`.

    Returns:
        on entering, a function to call after each step of training, with its loss where ``guess`` is
        given.

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
    watcher = Watcher(model, every, guess=guess, **options)
    step = 0

    def after_step(loss: float | None = None) -> None:
        nonlocal step
        step += 1
        for numbers in watcher.news(loss):
            tell(step, numbers)

    try:
        yield after_step
    except BaseException:
        watcher.stop(failed=True)
        raise
    watcher.stop()


# Horizon, verdict and norms in the log history of Hugging Face's Trainer.


def for_hugging_face(every: int = 50, *, guess: float | None = None, **options: Any) -> Any:
    """A callback for ``transformers.Trainer(callbacks=[...])``.

    Each measured step leaves a line ``{"step", "bptt/horizon", "bptt/decay", "bptt/verdict",
    "bptt/norm", "bptt/norm_clipped"}`` in ``trainer.state.log_history``: the norms of the gradient of
    all parameters before and after clipping. The newest numbers also join the next line that the trainer
    logs, and so reach the reporters that come after this callback.

    Limits: with float16 and a scaled loss, the norm before clipping is that of the scaled gradient.

    Args:
        every: measure each n-th backward pass; gradient accumulation counts each part.
        guess: the loss of a model that has learned nothing, see :class:`Watcher`.
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
            self.watcher = Watcher(kwargs["model"], every, guess=guess, **options)

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.watcher is not None:
                self.watcher.clipped()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.watcher is None:
                raise ArgumentError(
                    "a callback that saw the training begin",
                    "a step before on_train_begin",
                    "give the trainer the callback before it starts",
                )
            lost = [line["loss"] for line in state.log_history[-1:] if "loss" in line]
            for numbers in self.watcher.news(*lost):
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


# Horizon, verdict and norms in Lightning's own log.


def for_lightning(every: int = 50, *, guess: float | None = None, **options: Any) -> Any:
    """A callback for ``lightning.Trainer(callbacks=[...])``.

    It logs ``bptt/horizon``, ``bptt/decay``, ``bptt/verdict``, ``bptt/norm`` and
    ``bptt/norm_clipped`` to whatever logger the trainer has, at each measured step and at no other,
    whatever ``log_every_n_steps`` says, and keeps everything in its ``flow``. The norms are those of
    the gradient of all parameters, before and after the trainer clips it. A verdict is a number there:
    -1 vanishing, 0 healthy, 1 exploding; the others are in ``bptt.probes.VERDICTS``.

    Limits: with manual optimisation there are no norms, because the trainer does not see the clipping.

    Args:
        every: measure each n-th backward pass.
        guess: the loss of a model that has learned nothing, see :class:`Watcher`.
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
        stepped = False
        logs_norms = True  # a guard beside it leaves them to this one: a name is logged once

        @property
        def flow(self) -> Any:
            """What :func:`bptt.watch` saw; None before training began."""
            return None if self.watcher is None else self.watcher.flow

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            self.stepped = True

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.watcher = Watcher(pl_module, every, guess=guess, **options)

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if self.watcher is None:
                raise ArgumentError(
                    "a callback that saw the training begin",
                    "a step before on_train_start",
                    "give the trainer the callback before it starts",
                )
            if pl_module.automatic_optimization:
                if not self.stepped:  # a part of a gradient: its norm comes with the step
                    return
                self.watcher.clipped()  # the gradient stays until the next batch sets it to zero
                self.stepped = False
            lost = outputs.get("loss") if isinstance(outputs, dict) else outputs
            known = float(lost) if guess is not None and isinstance(lost, Tensor) else None
            for numbers in self.watcher.news(known):
                found = {
                    f"bptt/{name}": VERDICTS[value].number
                    if isinstance(value, str)
                    else float(value)
                    for name, value in numbers.items()
                }
                found = {name: value for name, value in found.items() if math.isfinite(value)}
                # Lightning repeats what a hook has logged at every later step that it logs; so the
                # loggers are told here, and callbacks that monitor a name there.
                pl_module.log_dict(found, on_step=True, on_epoch=False, logger=False)
                trainer.logged_metrics.update(found)
                for logger in trainer.loggers:
                    logger.log_metrics(found, step=max(trainer.global_step - 1, 0))

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if self.watcher is not None:
                self.watcher.stop()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            if self.watcher is not None:
                self.watcher.stop(failed=True)

    return WatchCallback()


# Horizon and decay as curves in TensorBoard.


def for_tensorboard(writer: Any, prefix: str = "bptt") -> Tell:
    """A function for :func:`told` that writes to TensorBoard.

    Args:
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or a folder to make one in.
        prefix: stands before every name: ``bptt/horizon``, ``bptt/decay``; verdicts become text,
            written when they change.

    Raises:
        DependencyError: a folder was given, and tensorboard is not installed.

    Cost: three scalars a measured step.
    """
    if isinstance(writer, (str, os.PathLike)):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise DependencyError(
                "tensorboard", "none installed", "pip install tensorboard"
            ) from None
        writer = SummaryWriter(os.fspath(writer))
    before: dict[str, str] = {}

    def tell(step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            if isinstance(value, str):
                if before.get(name) != value:
                    writer.add_text(f"{prefix}/{name}", value, step)
                    before[name] = value
            elif math.isfinite(value):
                writer.add_scalar(f"{prefix}/{name}", value, step)

    return tell

"""A run of ``bptt train`` in TensorBoard, Weights & Biases or MLflow, beside its own run folder.

Each is a reporter of :func:`bptt.training.train` around another one, as one of your own would be. The
run folder stays the source of truth: what a logger cannot write is said once, and training goes on.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

from bptt.errors import ArgumentError, DependencyError, RunError

if TYPE_CHECKING:
    from bptt.probes import Verdict
    from bptt.training.evaluate import Look, Score
    from bptt.training.loop import Reporter
    from bptt.training.session import Session

Kind: TypeAlias = Literal["tensorboard", "wandb", "mlflow"]
KINDS: tuple[str, ...] = get_args(Kind)
_INSTALL = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
PROJECT = "bptt"  # of Weights & Biases, experiment of MLflow, unless their variables name another


class Log(Protocol):
    """Where numbers go."""

    def begin(self, run: Path, settings: dict[str, Any], step: int) -> str:
        """A run begins, or goes on after ``step``; say where it can be seen."""

    def numbers(self, step: int, numbers: dict[str, float]) -> None:
        """Finite numbers of one step."""

    def words(self, step: int, words: dict[str, str]) -> None:
        """Words that changed."""

    def end(self, failed: bool) -> None:
        """The run ended."""


class LoggedReporter:
    """Tells another reporter, and a logger; a context, so that the logger is always closed.

    Names are ``train/loss``, ``train/horizon`` … for a line of the metrics, ``valid/bits`` … for a
    held-out score, and ``final/bits`` … for the one at the end.

    Args:
        inner: e.g. ``bptt.training.TerminalReporter()``.
        kind: ``"tensorboard"``, ``"wandb"`` or ``"mlflow"``.

    Raises:
        ArgumentError: of another kind.
        DependencyError: its library is not installed.

    Cost: what the library takes for a dozen numbers at each line of the metrics.
    """

    def __init__(self, inner: Reporter, kind: str) -> None:
        if kind not in KINDS:
            raise ArgumentError(f"--log-to {', '.join(KINDS)}", f"{kind!r:.80}", "pick one of them")
        self._inner, self._kind = inner, kind
        self._log: Log = _open(kind)
        self._begun = False
        self._words: dict[str, str] = {}

    def begin(self, run: Path, session: Session) -> None:
        """Begin there too.

        Raises:
            RunError: the logger cannot be reached; the run can be gone on with.
        """
        self._inner.begin(run, session)
        settings = {k: v for k, v in dataclasses.asdict(session.settings).items() if v is not None}
        try:
            place = self._log.begin(run, settings, session.progress.step)
        except Exception as error:  # of any kind: each library has its own
            raise RunError(
                f"a place that {self._kind} can log to",
                _said(error),
                f"mend it, then: bptt train --resume {run} --log-to {self._kind}",
            ) from error
        self._begun = True
        self._inner.note(f"logged to {self._kind}: {place}")

    def step(self, progress: float, record: dict[str, Any]) -> None:
        """Pass a line of the metrics on."""
        self._inner.step(progress, record)
        self._write(record["step"], "train", record)

    def score(self, step: int, score: Score | None) -> None:
        """Pass a score on."""
        self._inner.score(step, score)
        if score is not None:
            self._write(step, "valid", score.as_dict())

    def look(self, step: int, found: Look) -> None:
        """Pass the words on."""
        self._inner.look(step, found)
        self._write(step, "look", dataclasses.asdict(found))

    def note(self, text: str) -> None:
        """Pass it on."""
        self._inner.note(text)

    def listening(self) -> bool:
        """Whoever reads the inner reporter."""
        return self._inner.listening()

    def final(self, step: int, score: Score) -> None:
        """The exact score that a run ended with."""
        self._write(step, "final", score.as_dict())

    def judged(self, step: int, verdict: Verdict) -> None:
        """The verdict that a run ended with."""
        self._write(step, "final", {"verdict": verdict.word, "horizon": verdict.horizon})

    def __enter__(self) -> LoggedReporter:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if self._begun:
            self._guarded(lambda: self._log.end(kind is not None))

    def _write(self, step: int, where: str, record: dict[str, Any]) -> None:
        numbers, words = {}, {}
        for name, value in record.items():
            full = f"{where}/{name}"
            if isinstance(value, str):
                if self._words.get(full) != value:
                    words[full] = self._words[full] = value
            elif isinstance(value, (int, float)) and name != "step" and math.isfinite(value):
                numbers[full] = float(value)
        if self._begun:
            self._guarded(lambda: self._log.numbers(step, numbers))
        if self._begun and words:
            self._guarded(lambda: self._log.words(step, words))

    def _guarded(self, write: Any) -> None:
        try:
            write()
        except Exception as error:  # of any kind: the training that is observed goes on
            self._begun = False
            self._inner.note(
                f"{self._kind} takes nothing any more ({_said(error)}); the run goes on, and its "
                "metrics.jsonl is complete"
            )


def _said(error: Exception) -> str:
    return f"{type(error).__name__} ({str(error).strip().partition(chr(10))[0][:200]})"


def _open(kind: str) -> Log:
    try:
        return _LOGS[kind]()
    except ImportError as error:
        # A part of it may be missing, whose name is not the library's.
        raise DependencyError(
            f"{kind} for --log-to {kind}", f"{error}", f"pip install {_INSTALL[kind]}"
        ) from None


class TensorBoardLog:
    """Event files in the folder ``tensorboard`` of the run folder."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make: Any = SummaryWriter
        self._writer: Any = None

    def begin(self, run: Path, settings: dict[str, Any], step: int) -> str:
        """Open them; lines after ``step``, from before an interruption, are shown no more."""
        folder = run / "tensorboard"
        if folder.is_symlink():
            raise RunError(f"a folder of the run's own at {folder}", "a link", "remove it")
        self._writer = self._make(str(folder), purge_step=step + 1 if step else None)
        if not step:
            rows = "\n".join(f"    {name} = {value!r}" for name, value in settings.items())
            self._writer.add_text("settings", rows, 0)
        return f"tensorboard --logdir {folder}"

    def numbers(self, step: int, numbers: dict[str, float]) -> None:
        """Scalars."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def words(self, step: int, words: dict[str, str]) -> None:
        """Texts."""
        for name, value in words.items():
            self._writer.add_text(name, value, step)

    def end(self, failed: bool) -> None:
        """Write what is left."""
        self._writer.close()


class WandbLog:
    """A run of Weights & Biases; WANDB_MODE, WANDB_PROJECT and WANDB_DIR are theirs."""

    def __init__(self) -> None:
        import wandb

        self._wandb: Any = wandb
        self._run: Any = None

    def begin(self, run: Path, settings: dict[str, Any], step: int) -> str:
        """Each part of a run that was resumed is one of theirs, in a group of the run folder's name."""
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name if not step else f"{run.name} from step {step}",
            group=run.name,
            config=settings | {"run": str(run)},
            # stdout may belong to a JSON document, and what it says we say.
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        return str(self._run.url or self._run.dir)

    def numbers(self, step: int, numbers: dict[str, float]) -> None:
        """One row of its history."""
        self._run.log(numbers, step=step)

    def words(self, step: int, words: dict[str, str]) -> None:
        """Words of the same row."""
        self._run.log(words, step=step)

    def end(self, failed: bool) -> None:
        """Wait until it has everything."""
        self._run.finish(exit_code=int(failed))


class MlflowLog:
    """A run of MLflow; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are theirs."""

    def __init__(self) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        self._make: Any = MlflowClient
        self._metric, self._param, self._tag = Metric, Param, RunTag
        self._client: Any = None
        self._id = ""

    def begin(self, run: Path, settings: dict[str, Any], step: int) -> str:
        """Each part of a run that was resumed is one of theirs, tagged with the run folder."""
        self._client = self._make()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        made = self._client.create_run(experiment, run_name=run.name, tags={"bptt.run": str(run)})
        self._id = made.info.run_id
        # It takes no more than this of a value.
        parameters = [self._param(name, str(value)[:500]) for name, value in settings.items()]
        self._client.log_batch(self._id, params=parameters)
        return f"run {self._id} of experiment {name} at {self._client.tracking_uri}"

    def numbers(self, step: int, numbers: dict[str, float]) -> None:
        """One call for all of them."""
        now = int(1000 * time.time())
        rows = [self._metric(name, value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=rows)

    def words(self, step: int, words: dict[str, str]) -> None:
        """As tags: the newest stays."""
        self._client.log_batch(self._id, tags=[self._tag(n, v) for n, v in words.items()])

    def end(self, failed: bool) -> None:
        """Say how it ended."""
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


_LOGS: dict[str, Callable[[], Log]] = {
    "tensorboard": TensorBoardLog,
    "wandb": WandbLog,
    "mlflow": MlflowLog,
}

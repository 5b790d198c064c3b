"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from bptt.data import Corpus
from bptt.errors import NonFiniteError
from bptt.models import CountModel
from bptt.ops.device import choose
from bptt.probes.guard import Finding, guard
from bptt.recurrence.loops import LAYERS
from bptt.training import checkpoint as checkpoints
from bptt.training.begin import open_run
from bptt.training.build import build_model
from bptt.training.checkpoint import load_weights
from bptt.training.distributed import (
    Group,
    gathered,
    joined,
    shared,
)
from bptt.training.evaluate import Look, Score, evaluate, look
from bptt.training.run_folder import RunFolder
from bptt.training.schedule import (
    SHARE,
    Budget,
    Tally,
    nothing_left,
    rate,
    scores_in,
    until_interrupted,
)
from bptt.training.session import Session
from bptt.training.settings import Settings
from bptt.training.threads import AUTO, Threads
from bptt.training.update import Broken, meet, update

Record = dict[str, Any]
# On the way a long held-out text is scored in so many pieces at once, none shorter than this.
PIECES, PIECE = 64, 256


class Reporter(Protocol):
    """Whoever watches a run."""

    def begin(self, run: Path, session: Session) -> None:
        """The parts are made and the folder exists."""

    def step(self, progress: float, record: Record) -> None:
        """The means of the last steps: a line of the metrics, or before a score where none was due."""

    def score(self, step: int, score: Score | None) -> None:
        """A score was due; None where nothing is held out."""

    def look(self, step: int, found: Look) -> None:
        """What the model makes of its text by now."""

    def note(self, text: str) -> None:
        """Something happened that does not happen in a healthy run."""

    def listening(self) -> bool:
        """Whether somebody still reads what is said; if not, the run ends as if interrupted."""


@dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    Attributes:
        run: its folder.
        rank: of this process among those that trained together; process 0 wrote the run folder.
        model: with the weights of the best held-out score, on the device it was trained on.
        corpus: what it was trained on.
        valid: the exact held-out score of that model, None where nothing is held out.
        steps: updates made.
        seconds: of training, earlier parts of a resumed run included.
        tokens: predictions trained on.
        interrupted: ended by a signal, before its budget was spent.
        best_step: that of the weights of ``model``.
    """

    run: Path
    model: nn.Module
    corpus: Corpus
    valid: Score | None
    steps: int
    seconds: float
    tokens: int
    interrupted: bool
    rank: int = 0
    best_step: int = 0


def train(
    settings: Settings,
    *,
    resume: str | Path | None = None,
    reporter: Reporter | None = None,
    on_step: Callable[[Session], None] | None = None,
    group: Group | None = None,
) -> Outcome:
    """Train a language model and leave a run folder behind.

    Args:
        settings: what to train; with ``resume``, those of that run, its budget perhaps extended.
        resume: run folder to go on with; the loss curve continues exactly where it stopped.
        reporter: told what happens.
        on_step: called after every update, before that update is logged, scored or saved.
        group: the processes that train together; default: those that torchrun started this one with,
            or those of torch.distributed where that is initialised. All of them call this function;
            the first writes the run folder and is the only one to report.

    Returns:
        The :class:`Outcome`. An interrupt (Ctrl-C, SIGTERM, SIGHUP) ends the run cleanly with a
        checkpoint; further ones wait until that is written.

    Raises:
        DataError, RunError, ArgumentError: before anything is written.
        NonFiniteError: a loss, state, gradient or parameter stopped being finite, and
            ``settings.on_nonfinite`` says to stop or its limit is reached; that update is not made.
    """
    if isinstance(settings.threads, int):
        torch.set_num_threads(settings.threads)
    with ExitStack() as stack:
        group = stack.enter_context(joined(choose(settings.device))) if group is None else group
        session, run = open_run(settings, resume, group, stack)
        reporter = None if group.rank else reporter
        if reporter is not None:
            reporter.begin(run.path, session)
        if session.optimizer is None:
            return _count(session, run)
        return _descend(session, session.optimizer, run, reporter, on_step)


def _descend(
    session: Session,
    optimizer: torch.optim.Optimizer,
    run: RunFolder,
    reporter: Reporter | None,
    on_step: Callable[[Session], None] | None,
) -> Outcome:
    """Update until the budget is spent, scoring and saving on the way."""
    settings = session.settings
    budget, progress = Budget.of(settings), session.progress
    spent, clock = progress.seconds, time.perf_counter()
    session.guard.remember(session, run.flush_metrics())
    done = budget.share(session.spent)
    lr = rate(done, settings.learning_rate, settings.warmup, settings.decay)
    group = session.group
    threads, cost = _threads(session, budget), 0.0
    if reporter is not None and (done >= 1 or _impatient(session)):
        reporter.note(nothing_left(budget, session.spent, session.progress.without_best, run.path))
    watched = _guarded(session, optimizer, run, reporter)
    with until_interrupted() as interrupted, watched, _put_back(threads):

        def stopped() -> bool:
            alone = reporter is not None and not reporter.listening()
            return group.any(interrupted() or alone)

        while done < 1 and not stopped() and not _impatient(session):
            lr = rate(done, settings.learning_rate, settings.warmup, settings.decay)
            broken = _update(session, optimizer, lr, threads)
            now = spent + time.perf_counter() - clock
            # By the clock or not, all processes must come to the same end.
            session.progress.seconds = now if budget.minutes is None else group.of_first(now)
            if broken is not None:
                _meet(session, run, broken, reporter)
                progress = session.progress  # rolled back, perhaps
                done = budget.share(session.spent)
                continue
            if on_step is not None:
                on_step(session)  # before a checkpoint, which then has what it drew and changed
            done = budget.share(session.spent)
            if progress.step % settings.log_every == 0:
                record = _log(session, run, lr, threads)
                if reporter is not None:
                    reporter.step(done, record)
            every = settings.sample_every
            if every and progress.step % every == 0 and not group.rank:
                _look(session, run, reporter)
            if _score_is_due(session, budget, cost):
                _tell_means(session, lr, done, reporter)
                began = time.perf_counter()
                _score_and_save(session, run, reporter)
                cost = time.perf_counter() - began
                progress.seconds = spent + time.perf_counter() - clock
        ended = stopped()
        if not ended and progress.scored.steps != progress.step:
            _tell_means(session, lr, done, reporter)
            _score_and_save(session, run, reporter)  # the weights that it ends with
        if group.first(lambda: checkpoints.steps(run.checkpoints)[-1:]) != [progress.step]:
            _save(session, run)
        best = _best(session, run)
    return _finish(session, run, best, ended)


@contextmanager
def _guarded(
    session: Session, optimizer: torch.optim.Optimizer, run: RunFolder, reporter: Reporter | None
) -> Iterator[None]:
    """Look for mistakes of the loop: in the first process, of a model that has a recurrence."""
    recurrent = any(isinstance(module, LAYERS) for module in session.model.modules())
    if session.group.rank or not session.settings.guard or not recurrent:
        yield
        return

    def tell(finding: Finding) -> None:
        run.append_metrics({"step": session.progress.step, "finding": asdict(finding)})
        if reporter is not None:
            reporter.note(str(finding))

    # The horizon is measured by the run itself, and handed over.
    with guard(session.model, optimizer, measure_every=None, tell=tell) as session.watched:
        try:
            yield
        finally:
            session.watched = None


def _threads(session: Session, budget: Budget) -> Threads | None:
    """Who chooses the number of threads; None where it stays, so that a run repeats to the bit."""
    if session.settings.threads != AUTO or budget.minutes is None or session.group.size > 1:
        return None
    return Threads(torch.get_num_threads(), torch.set_num_threads)


@contextmanager
def _put_back(threads: Threads | None) -> Iterator[None]:
    """A number that was chosen holds for the updates alone."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def _update(
    session: Session, optimizer: torch.optim.Optimizer, lr: float, threads: Threads | None
) -> Broken | None:
    """An update; one of the plain kind is timed for whoever chooses the number of threads."""
    progress, clock = session.progress, time.perf_counter()
    tokens, horizon = progress.tokens, progress.horizon
    broken = update(session, optimizer, lr)
    if threads is not None and broken is None and progress.horizon is horizon:
        threads.note(progress.tokens - tokens, time.perf_counter() - clock)
    return broken


def _meet(session: Session, run: RunFolder, broken: Broken, reporter: Reporter | None) -> None:
    """A number was not finite: stop, or say so and go on."""
    try:
        told = meet(session, broken, lambda: _save(session, run))
    except NonFiniteError:
        stop = {"action": "stop", "values": broken.values}
        run.append_metrics({"step": session.progress.step, "nonfinite": stop})
        raise
    if told["action"] == "rollback":
        run.rewind_metrics(session.guard.metrics)
    text = told.pop("text")
    run.append_metrics({"step": session.progress.step, "nonfinite": told})
    if told["action"] == "rollback":
        session.guard.metrics = run.flush_metrics()  # going back once more keeps this line
    if reporter is not None:
        reporter.note(text)


def _save(session: Session, run: RunFolder) -> Path:
    """Write a checkpoint, and remove those that are no longer kept."""
    step, best = session.progress.step, session.progress.best_step
    metrics = run.flush_metrics()
    saved = gathered(session.group, session.checkpoint(metrics))
    if session.group.rank == 0:
        checkpoints.save(run.checkpoints, saved)
        checkpoints.prune(run.checkpoints, session.settings.keep, best)
    session.guard.remember(session, metrics)
    return run.checkpoints / f"step-{step}"


def _log(session: Session, run: RunFolder, lr: float, threads: Threads | None) -> Record:
    """Write the means since the last line."""
    progress, tally = session.progress, session.progress.tally
    record = _means(session, lr)
    if threads is not None:
        record["threads"] = threads.count
    if progress.skipped or tally.skipped:
        progress.skipped += tally.skipped
        record["skipped"] = progress.skipped  # chunks left out in the run so far
    if progress.horizon is not None:
        record |= progress.horizon
        progress.horizon = None
    if session.regulariser is not None:
        done = tally.steps - tally.unregularised
        record["penalty"] = tally.penalty / max(done, 1)
        record["unregularised"] = tally.unregularised  # steps whose penalty was not finite
    run.append_metrics(record)
    progress.tally = Tally(seconds=progress.seconds)
    return record


def _means(session: Session, lr: float) -> Record:
    """Of the steps since the last line; the norm is that before clipping, and after it."""
    progress, tally = session.progress, session.progress.tally
    loss = tally.nats / tally.steps
    return {
        "step": progress.step,
        "epoch": session.epochs,
        "seconds": round(progress.seconds, 3),
        "loss": loss,
        "bits": loss / math.log(2),
        "perplexity": math.exp(min(loss, 700)),
        "norm": tally.norms / tally.steps,
        "norm_clipped": tally.norms_clipped / tally.steps,
        "clipped": tally.clipped / tally.steps,
        "lr": lr,
        "tokens": progress.tokens,
        "tokens_per_second": round(tally.tokens / max(progress.seconds - tally.seconds, 1e-9), 1),
    }


def _tell_means(session: Session, lr: float, done: float, reporter: Reporter | None) -> None:
    """Where no line of the metrics was due since the last score, whoever watches has the means."""
    progress = session.progress
    since = progress.step - progress.scored.steps
    if reporter is not None and 0 < progress.tally.steps >= since:
        reporter.step(done, _means(session, lr))


def _look(session: Session, run: RunFolder, reporter: Reporter | None) -> None:
    """Read the beginning of what is held out, else of the text, and let the model write."""
    corpus = session.corpus
    text = corpus.train if corpus.valid is None else corpus.valid
    found = look(session.model, corpus.vocabulary, text, seed=session.settings.seed)
    run.append_metrics({"step": session.progress.step, "look": asdict(found)})
    if reporter is not None:
        reporter.look(session.progress.step, found)


def _score_is_due(session: Session, budget: Budget, cost: float) -> bool:
    """Whether a score is due; ``cost``: what the last one took, in seconds."""
    every, scored, corpus = session.settings.eval_every, session.progress.scored, session.corpus
    if every is not None:
        return session.progress.step % every == 0
    if budget.minutes is not None:  # by the clock their time is known, and so is what it may be
        late = session.group.of_first(session.progress.seconds - scored.seconds)
        if session.group.of_first(cost) > SHARE * late:
            return False
    held_out = 0 if corpus.valid is None else len(corpus.valid.tokens)
    scores = scores_in(session.settings, len(corpus.train.tokens), held_out)
    # In the budget in force now: an earlier part of the run may have had another.
    now, then = budget.share(session.spent), budget.share(scored)
    return int(now * scores) > int(then * scores)


def _score_and_save(session: Session, run: RunFolder, reporter: Reporter | None) -> None:
    progress, score, valid = session.progress, None, session.corpus.valid
    progress.scored = session.spent
    if valid is not None:
        pieces = max(1, min(PIECES, len(valid.tokens) // PIECE))
        vocabulary = session.corpus.vocabulary
        score = evaluate(
            session.model, valid, lanes=pieces, group=session.group, vocabulary=vocabulary
        )
        session.note_score(score)
        told = {"pieces": score.pieces} if score.pieces > 1 else {}
        run.append_metrics({"step": progress.step, "valid": score.as_dict(), **told})
    _save(session, run)
    if reporter is not None:
        reporter.score(progress.step, score)


def _impatient(session: Session) -> bool:
    return 0 < session.settings.patience <= session.progress.without_best


def _count(session: Session, run: RunFolder) -> Outcome:
    """A count table learns in one pass and has no loop."""
    clock = time.perf_counter()
    cast(CountModel, session.model).fit(session.corpus.train.tokens, session.corpus.train.starts)
    session.progress.seconds = time.perf_counter() - clock
    session.progress.tokens = len(session.corpus.train.tokens)
    _save(session, run)
    return _finish(session, run, _best(session, run), interrupted=False)


def _best(session: Session, run: RunFolder) -> checkpoints.Checkpoint:
    return shared(session.group, lambda: checkpoints.best(run.checkpoints))


def _finish(
    session: Session, run: RunFolder, best: checkpoints.Checkpoint, interrupted: bool
) -> Outcome:
    model = build_model(session.settings, session.corpus.vocabulary.size).to(session.device)
    load_weights(model, best)
    group, valid, progress = session.group, None, session.progress
    if session.corpus.valid is not None and not interrupted:
        valid = evaluate(
            model, session.corpus.valid, group=group, vocabulary=session.corpus.vocabulary
        )
        if group.rank == 0:
            run.write_result(
                {"final": valid.as_dict(), "step": progress.step, "seconds": progress.seconds}
            )
    return Outcome(
        run.path,
        model,
        session.corpus,
        valid,
        progress.step,
        progress.seconds,
        progress.tokens,
        interrupted,
        group.rank,
        best.state["step"],
    )

"""A run's beginning: its parts made anew, or as its folder has them."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bptt.data import Corpus
from bptt.training import checkpoint as checkpoints
from bptt.training.build import held_out_share, open_corpus, require_documents
from bptt.training.distributed import Group, folder_to_go_on_with, gathered, own_part, shared
from bptt.training.restore import resumed_text
from bptt.training.run_folder import RunFolder
from bptt.training.schedule import undisturbed
from bptt.training.session import Session, require_same_text
from bptt.training.settings import Settings, default_folder
from bptt.training.update import sound_start


def open_run(
    settings: Settings, resume: str | Path | None, group: Group, stack: ExitStack
) -> tuple[Session, RunFolder]:
    """The run's parts and its folder, begun or gone on with; held until the stack is unwound.

    Args:
        resume: a run folder to go on with; None begins one, or goes on with the folder that the
            environment of several processes names.
        group: the processes of the run.
        stack: takes what is to be let go at the end.

    Raises:
        DataError, RunError, ArgumentError: before anything is written.
    """
    if resume is None:
        resume = folder_to_go_on_with(settings, group)
    if resume is not None:
        return _go_on(settings, Path(resume), group, stack)
    return _begin(settings, group, stack)


def _begin(settings: Settings, group: Group, stack: ExitStack) -> tuple[Session, RunFolder]:
    if settings.out is not None:
        # Known now, or only after reading a large text.
        group.first(RunFolder(settings.out).require_free)
    held_out_share(settings, group.size)  # what does not fit a small text is refused in one line
    corpus = _corpus(group, lambda: open_corpus(settings))
    require_documents(settings, corpus)
    session = Session(settings, corpus, group)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(settings.out) if settings.out is not None else default_folder(settings, now)
    first = None if session.optimizer is None else gathered(group, session.checkpoint())

    def create() -> str:
        made = RunFolder.create(path, session.settings, session.corpus.vocabulary, first)
        return str(made.path)

    run = RunFolder(group.first(create))
    _hold(run, group, stack)
    return session, run.unwritten() if group.rank else run


def _go_on(
    settings: Settings, path: Path, group: Group, stack: ExitStack
) -> tuple[Session, RunFolder]:
    run = RunFolder.open(path)
    run = run.unwritten() if group.rank else run
    _hold(run, group, stack)
    corpus = _corpus(group, lambda: resumed_text(run, settings))
    if settings.model in ("bigram", "ngram"):  # a count table is counted anew
        return Session(settings, corpus, group), run
    with undisturbed():
        saved = shared(group, lambda: checkpoints.recover(run.checkpoints))
    require_same_text(saved, corpus)  # before sizes are compared with it
    session = Session(settings, corpus, group)
    batch = session.settings.lanes
    session.restore(
        own_part(group, saved, batch, settings.seed)
    )  # what does not fit is refused here
    with undisturbed():
        saved = shared(group, lambda: sound_start(saved, session, run))
    run.rewind_metrics(session.restore(own_part(group, saved, batch, settings.seed)))
    return session, run


def _hold(run: RunFolder, group: Group, stack: ExitStack) -> None:
    """Take the run folder until the stack is unwound; process 0 does, for all."""

    def take() -> None:
        stack.enter_context(run.held())

    group.first(take)


def _corpus(group: Group, read: Callable[[], Corpus]) -> Corpus:
    """Read by process 0 first: the others find a large text encoded already."""
    found: list[Corpus] = []

    def sizes() -> list[int]:
        found.append(read())
        return [len(found[0].train.tokens), found[0].vocabulary.size]

    group.first(sizes)
    if not found:
        sizes()
    group.require_same("text", [len(found[0].train.tokens), found[0].vocabulary.size])
    return found[0]

"""The ladder of language models on one text, from counting to attention, with the same budget each.

A table of counts is made in one pass, whatever the budget; everything else is trained for as long, or
by as many updates, as everything else. What is published of the ladder is an order: each rung models
text better than the one before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bptt.errors import ArgumentError, NonFiniteError
from bptt.models import CountModel
from bptt.training import Settings, train

# By its word: what to call it, its settings, and the rung that it is published to be better than.
RUNGS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "bigram": ("bigram table", {"model": "bigram"}, None),
    "ngram": ("6-gram table", {"model": "ngram"}, "bigram"),
    "window": ("MLP over a window of 8", {"model": "window"}, "bigram"),
    "rnn": ("RNN", {"cell": "rnn", "lr": 0.002}, "window"),
    "gru": ("GRU", {"cell": "gru"}, "rnn"),
    "lstm": ("LSTM", {"cell": "lstm"}, "rnn"),
    "attention": ("attention over 64, 3 layers", {"model": "attention", "lr": 0.002}, "rnn"),
}


@dataclass(frozen=True)
class Rung:
    """What one rung came to.

    Attributes:
        word: as the command line calls it.
        name: in a few words.
        parameters: trained numbers; of a table the probabilities that it stores.
        bits: per token, on the held-out part in one piece; None where nothing is held out, or it failed.
        updates: made.
        seconds: of training.
        tokens_per_second: trained on; None for a table.
        better_than: the word of the rung that it is published to be better than.
        run: its folder, where it was kept.
        error: what kept it from ending, or None.
        interrupted: whether a signal ended it before its budget was spent.
    """

    word: str
    name: str
    parameters: int
    bits: float | None
    updates: int
    seconds: float
    tokens_per_second: float | None
    better_than: str | None
    run: str | None = None
    error: str | None = None
    interrupted: bool = False


def climb(
    settings: Settings, words: Sequence[str] = tuple(RUNGS), *, keep: str | Path | None = None
) -> Iterator[Rung]:
    """Train one rung after the other on the same text.

    Args:
        settings: the text and the budget; model, cell, rate and folder are each rung's own.
        words: of the rungs, from ``RUNGS``, in the order in which they are climbed.
        keep: a folder for their run folders; None: they are thrown away.

    Yields:
        what each came to. After an interrupt there is no further one.

    Raises:
        ArgumentError: there is no such rung.
        DataError: the text cannot be read.
        RunError: a run folder is there already.

    Cost: the budget for each but the tables, which take seconds.
    """
    for word in words:
        if word not in RUNGS:
            raise ArgumentError(f"--rungs among {', '.join(RUNGS)}", repr(word), "pick of these")
    with tempfile.TemporaryDirectory() as spare:
        for word in dict.fromkeys(words):
            found = _climbed(settings, word, Path(spare if keep is None else keep))
            if keep is None:
                found = Rung(**{**asdict(found), "run": None})
            yield found
            if found.interrupted:
                return


def _climbed(settings: Settings, word: str, folder: Path) -> Rung:
    name, own, before = RUNGS[word]
    values = {**asdict(settings), **own, "out": str(folder / word)}
    try:
        outcome = train(Settings(**values))
    except NonFiniteError as error:  # it diverged; the others may not
        return Rung(word, name, 0, None, 0, 0.0, None, before, error=str(error))
    model = outcome.model
    counted = isinstance(model, CountModel)
    return Rung(
        word,
        name,
        model.entries
        if isinstance(model, CountModel)
        else sum(p.numel() for p in model.parameters()),
        None if outcome.valid is None else outcome.valid.bits,
        outcome.steps,
        outcome.seconds,
        None if counted else outcome.tokens / max(outcome.seconds, 1e-9),
        before,
        run=str(outcome.run),
        interrupted=outcome.interrupted,
    )


def compare_order(rungs: Sequence[Rung]) -> list[tuple[Rung, Rung, bool]]:
    """Each rung with the one that it is published to be better than, and whether it was.

    Returns:
        (the rung, the other, whether it is better), for every pair that was scored.

    Example:
        >>> a = Rung("window", "MLP", 1, 2.0, 1, 1.0, 1.0, "bigram")
        >>> b = Rung("rnn", "RNN", 1, 2.1, 1, 1.0, 1.0, "window")
        >>> [(one.word, other.word, better) for one, other, better in compare_order([a, b])]
        [('rnn', 'window', False)]
    """
    by_word = {rung.word: rung for rung in rungs}
    found = []
    for rung in rungs:
        other = by_word.get(rung.better_than or "")
        if other is not None and rung.bits is not None and other.bits is not None:
            found.append((rung, other, rung.bits < other.bits))
    return found

"""``bptt ladder``: models from counting to attention on one text, with the same budget each."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import tyro

from bptt.choices import suggest
from bptt.cli.parse import Device, File, Folder, check_place, check_texts, parse
from bptt.errors import ArgumentError
from bptt.shown.text import as_json
from bptt.training.settings import Settings

if TYPE_CHECKING:
    from bptt.experiments.ladder import Rung

WORDS = ("bigram", "ngram", "window", "rnn", "gru", "lstm", "attention")


@dataclass(frozen=True)
class Ladder:
    """Put language models side by side on one text: count tables, a window, RNN, GRU, LSTM, attention.

    Each but the tables is trained for as long as the others, and scored on the held-out end of the text.
    Beside the bits stands what is published of the ladder: which rung each should be better than.

    Example: bptt ladder my.txt --minutes 2
    """

    files: tyro.conf.Positional[tuple[str, ...]] = ()
    """UTF-8 texts, read one after another; with none, the text that every CPython carries."""
    rungs: tuple[str, ...] = WORDS
    """Among bigram, ngram, window, rnn, gru, lstm and attention."""
    minutes: float | None = None
    """Of training for each; default: 1."""
    steps: int | None = None
    """Updates of each, in place of --minutes."""
    seed: int = 0
    """Of the weights."""
    device: Device = "auto"
    """Where each is trained: cpu, cuda, cuda:N or mps. auto: cuda where there is one, else cpu."""
    threads: int | None = None
    """Threads of torch; default: torch's own choice."""
    out: Folder = None
    """Keep each run in this folder, by the rung's word; default: nothing is kept."""
    csv: File = None
    """Write the table into this file, with commas."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""

    def __post_init__(self) -> None:
        unknown = [word for word in self.rungs if word not in WORDS]
        if unknown or not self.rungs:
            received = repr(unknown[0]) if unknown else "none"
            remedy = suggest(unknown[0], WORDS, "pick of these") if unknown else "pick of these"
            raise ArgumentError(f"--rungs among {', '.join(WORDS)}", received, remedy)
        if self.minutes is not None and self.steps is not None:
            raise ArgumentError("--minutes or --steps", "both", "keep the one that should end each")

    @property
    def settings(self) -> Settings:
        """What all rungs have in common."""
        return Settings(
            self.files, minutes=self.minutes, steps=self.steps, seed=self.seed, device=self.device,
            threads=self.threads,
        )  # fmt: skip


def run(arguments: list[str]) -> int:
    """Climb it."""
    asked = parse(Ladder, "ladder", arguments)
    settings = asked.settings
    check_place(asked.csv)
    check_texts(asked.files)

    from bptt.cli.text import shown_reading
    from bptt.experiments.ladder import climb, compare_order
    from bptt.files.write import write_file

    rungs: list[Rung] = []
    with shown_reading():
        for rung in climb(settings, asked.rungs, keep=asked.out):
            if not asked.json and not rungs:
                print(
                    f"{'model':<28} {'parameters':>10}  {'bits a token':>12}  {'tokens/s':>9}  updates"
                )
            rungs.append(rung)
            if not asked.json:
                print(_line(rung), flush=True)
    order = compare_order(rungs)
    if asked.csv is not None:
        write_file(asked.csv, _table(rungs))
    if asked.json:
        pairs = [{"rung": a.word, "than": b.word, "better": better} for a, b, better in order]
        print(as_json({"rungs": [asdict(rung) for rung in rungs], "published": pairs}))
    else:
        _print_order(order)
        if all(rung.bits is None and rung.error is None for rung in rungs):
            print("the text is too short to hold a part out, so nothing was scored")
    return 130 if rungs and rungs[-1].interrupted else 0


def _line(rung: Rung) -> str:
    if rung.error is not None:
        return f"{rung.name:<28} {rung.error}"
    bits = "-" if rung.bits is None else f"{rung.bits:.3f}"
    speed = "-" if rung.tokens_per_second is None else f"{rung.tokens_per_second:,.0f}"
    ended = ", interrupted" if rung.interrupted else ""
    return f"{rung.name:<28} {rung.parameters:>10,}  {bits:>12}  {speed:>9}  {rung.updates or '-'}{ended}"


def _print_order(order: list[tuple[Rung, Rung, bool]]) -> None:
    if not order:
        return
    print("\npublished: each is better than the rung before it; here:")
    for one, other, better in order:
        gap = abs((one.bits or 0.0) - (other.bits or 0.0))
        word = "better" if better else "not better"
        print(f"  {one.name} against {other.name}: {word}, by {gap:.3f} bits")


def _table(rungs: list[Rung]) -> str:
    from bptt.experiments.ladder import Rung as Row

    text = io.StringIO()
    names = [field.name for field in fields(Row)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for rung in rungs:
        writer.writerow("" if (v := getattr(rung, name)) is None else v for name in names)
    return text.getvalue()

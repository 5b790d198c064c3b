"""``bptt remake``: the lessons' programs, figures, tables and exercises, made again."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from bptt.cli.parse import Folder, parse
from bptt.errors import ArgumentError
from bptt.shown.text import as_json


@dataclass(frozen=True)
class Remake:
    """Make a program, figure, table or exercise of the lessons again, with its own settings.

    Prints each number beside the published one, and what comes out in words.

    Example: bptt remake clipping truncation --out figures
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to make, e.g. clipping; --list names them all."""
    all: bool = False
    """Make all of them: under half an hour on two cores."""
    list: bool = False
    """Only list them: lesson and lines, about how many seconds, what it shows."""
    jobs: int | None = None
    """At a time; default: one a core."""
    out: Folder = None
    """Write each into this folder: NAME.json, .csv, -curves.csv, .svg, .png, and NAME.txt with what it
    prints. Made if it is missing; files of the same name are replaced."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise ArgumentError("--jobs >= 1", str(self.jobs), "leave it out for one a core")
        if self.all and self.names:
            raise ArgumentError(
                "names or --all", f"--all and {self.names[0]!r:.80}", "leave one of the two out"
            )
        if not (self.all or self.list or self.names):
            raise ArgumentError(
                "what to make", "no name", "bptt remake --list names all; --all makes them"
            )


def run(arguments: list[str]) -> int:
    """Run, print, write."""
    asked = parse(Remake, "remake", arguments)

    from bptt.experiments.lessons import find, remakes, run_remakes
    from bptt.experiments.lessons.registry import document
    from bptt.shown.console import Count

    every = [*remakes().values()]
    chosen = find(asked.names) if asked.names else every if asked.all or asked.list else []
    if asked.list:
        _list(chosen, asked.json)
        return 0
    out = None if asked.out is None else _folder(asked.out)
    with Count("remakes", len(chosen)) as count:
        results = run_remakes(chosen, jobs=asked.jobs, done=lambda made: count.advance(made.name))
    if asked.json:
        print(as_json(document(chosen, results), indent=1, ensure_ascii=False))
    else:
        for one, result in zip(chosen, results, strict=True):
            _show(one, result)
    if out is not None:  # last: a disk that is full takes no result with it
        _write(out, chosen, results)
    failed = [result for result in results if result.failed]
    for result in failed:
        print(f"bptt remake: {result.name}: {result.failed}", file=sys.stderr)
    return 1 if failed else 0


def _folder(path: str) -> Path:
    """The folder to write into, known to be one before any work is done."""
    place = Path(path)
    if not path or (place.exists() and not place.is_dir()):
        what = f"{path!r:.200}, a file" if path else "an empty name"
        raise ArgumentError("a folder to write into with --out", what, "choose another place")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ArgumentError(
            "a folder that can be made with --out",
            f"{path!r:.200}: {getattr(error, 'strerror', None) or error}",
            "choose another place",
        ) from None
    return place


def _list(chosen: list[Any], as_document: bool) -> None:
    if as_document:
        heads = ("name", "lesson", "lines", "shows", "settings", "seconds")
        print(as_json([{head: getattr(one, head) for head in heads} for one in chosen], indent=1))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from bptt.shown.console import Console

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("lesson: lines", no_wrap=True)
    table.add_column("s", justify="right")
    table.add_column("what it shows", ratio=1)
    for one in chosen:
        table.add_row(one.name, one.place, f"{one.seconds:.0f}", one.shows)
    Console().print(table)


def _show(one: Any, result: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from bptt.report.remade import reasons, rows
    from bptt.shown.console import Console, plain

    console = Console()
    console.print(f"{one.name}  ({one.place}, {result.seconds:.1f} s)  {one.shows}")
    if result.failed:
        return
    console.print(f"Settings: {one.settings}")
    for line in result.lines:
        console.print(plain(line))
    tables = [("", ("", "measured", "published", "agrees"), rows(result))] if result.numbers else []
    tables += [(table.title, table.heads, table.rows) for table in result.tables]
    for title, heads, cells in tables:
        shown = Table(
            title=title or None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for head in heads:
            shown.add_column(head)
        for row in cells:
            shown.add_row(*map(plain, row))
        console.print(shown)
    for sentence in [*reasons(result), *result.sentences]:
        console.print(sentence)
    console.print()


def _write(out: Path, chosen: list[Any], results: list[Any]) -> None:
    from bptt.files.write import write_file
    from bptt.report.remade import files

    for one, result in zip(chosen, results, strict=True):
        for name, content in files(one, result):
            write_file(out / name, content, "choose another folder with --out")

"""``bptt claims``: published claims, re-made and judged."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from bptt.cli.parse import File, Folder, check_place, parse
from bptt.errors import ArgumentError
from bptt.shown.text import as_json


@dataclass(frozen=True)
class Claims:
    """Re-make what lessons and papers state about BPTT, and say which of it holds.

    Without an id the quick ones run, each under a minute.

    Example: bptt claims A3 B4
    """

    ids: tyro.conf.Positional[tuple[str, ...]] = ()
    """Claims by their ids, e.g. A3; none for all quick ones."""
    all: bool = False
    """Run the long ones too: hours."""
    list: bool = False
    """Only list them."""
    jobs: int | None = None
    """Claims at a time; default: one a core."""
    threads: int = 1
    """Threads of each claim; no verdict should hang on it."""
    data: Folder = None
    """Where what no package carries lies: JSB_Chorales.mat (P5), Nottingham.mat (P6),
    tinyshakespeare.txt (P11). Claims whose file is missing are listed as not run."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""
    markdown: File = None
    """Write the whole ledger as a page to this file; what was not run is listed as such."""
    known: File = None
    """A document of --json: results in it are kept and not made again."""
    resume: Folder = None
    """Every finished measurement is kept in this folder at once. A run that was stopped goes on
    there; it must be of the same version of the code."""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise ArgumentError("--jobs >= 1", str(self.jobs), "leave it out for one a core")
        if self.threads < 1:
            raise ArgumentError("--threads >= 1", str(self.threads), "leave it out for one a claim")
        if self.resume is not None and Path(self.resume).is_file():
            raise ArgumentError(
                f"a folder at --resume {self.resume}", "a file", "choose another place"
            )


def run(arguments: list[str]) -> int:
    """Run, print, write."""
    asked = parse(Claims, "claims", arguments)
    check_place(asked.markdown)

    from bptt.experiments.claims import Result, find, ledger, not_asked, run_claims
    from bptt.experiments.claims.learn import VARIABLE
    from bptt.experiments.claims.page import document, markdown, summary, table
    from bptt.experiments.claims.run import THREADS, keep, open_folder, read_results
    from bptt.files.write import write_file
    from bptt.shown.console import Console, Count

    os.environ[THREADS] = str(asked.threads)
    claims = ledger()
    if asked.ids:
        chosen = find(asked.ids)
    else:
        chosen = [c for c in claims.values() if asked.all or c.quick]
    if asked.list:
        chosen = find(asked.ids) if asked.ids else [*claims.values()]
        if asked.json:
            print(as_json(document(claims, [not_asked(c) for c in chosen])))
        else:
            for c in chosen:
                print(f"{c.id:<4} {'quick' if c.quick else 'long':<6} {c.statement}")
        return 0
    if asked.data is not None:
        os.environ[VARIABLE] = str(Path(asked.data).resolve())
    kept = {} if asked.known is None else read_results(Path(asked.known))
    folder = None if asked.resume is None else Path(asked.resume)
    if folder is not None:
        kept |= open_folder(folder)
    fresh = [c for c in chosen if c.id not in kept]
    with Count("claims", len(fresh)) as count:

        def done(result: Result) -> None:
            if folder is not None:
                keep(folder, result)
            count.advance(result.id)

        made = run_claims(fresh, jobs=asked.jobs, done=done) if fresh else []
    found = kept | {r.id: r for r in made}
    results = [found[c.id] for c in chosen]
    if asked.json:
        print(as_json(document(claims, results)))
    else:
        console = Console()
        console.print(table(claims, results), highlight=True)
        for r in results:
            if r.instead:
                console.print(f"{r.id} {r.verdict}. {r.instead}")
        console.print(summary(results))
    if asked.markdown is not None:  # last: a disk that is full takes no result with it
        every = [found.get(c.id, not_asked(c)) for c in claims.values()]
        write_file(asked.markdown, markdown(claims, every, provenance(asked.threads)))
    failed = [r.id for r in results if r.failed]
    if failed:
        print(f"bptt claims: the code of {', '.join(failed)} failed", file=sys.stderr)
    return 1 if failed else 0


def provenance(threads: int) -> list[str]:
    """When, with what, on which machine."""
    import platform
    from datetime import datetime, timezone

    import numpy
    import torch

    from bptt import __version__, ops
    from bptt.experiments.benchmark import machine_name

    today = datetime.now(timezone.utc).date().isoformat()
    return [
        f"date: {today}",
        f"versions: bptt {__version__}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, NumPy {numpy.__version__}; backend {ops.backend()}",
        f"machine: {machine_name()}; {threads} thread{'s' * (threads > 1)} a claim",
    ]

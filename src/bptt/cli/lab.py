"""``bptt lab``: the interactive notebooks in a browser."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass

import tyro

from bptt.choices import suggest
from bptt.cli.parse import Run, parse


@dataclass(frozen=True)
class Lab:
    """Serve the interactive pages to this machine's browser, until Ctrl-C; nothing leaves the machine.

    Example: bptt lab contraction --port 0
    """

    page: tyro.conf.Positional[str | None] = None
    """A page to open; with none, the list of all."""
    port: int = 2718
    """Where to listen; 0 picks a free port."""
    host: str = "127.0.0.1"
    """The address to listen on. Another than this machine's own lets others in: there is no password."""
    open: bool = True
    """The browser is opened; --no-open only says the address."""
    run: Run = None
    """A run folder, for the page "Your run"."""


def run(arguments: list[str]) -> int:
    """Serve until interrupted."""
    asked = parse(Lab, "lab", arguments)

    from bptt.errors import ArgumentError
    from bptt.lab import available

    known = [page.slug for page in available()]
    if asked.page is not None and asked.page not in known:
        raise ArgumentError(
            f"a page among {', '.join(known)}",
            repr(asked.page),
            suggest(asked.page, known, "name one of these"),
        )
    if not 0 <= asked.port <= 65535:
        raise ArgumentError("--port from 0 to 65535", str(asked.port), "change --port")

    from bptt.lab.server import GRACE, ended, serve

    def ready(address: str) -> None:
        address += f"{asked.page}/" if asked.page else ""
        print(f"bptt lab: {address}  (Ctrl-C stops it)", flush=True)
        if asked.open:
            import webbrowser

            webbrowser.open(address)

    # Ctrl-C stops the server and is raised again after it, but for a process told to ignore it.
    with suppress(KeyboardInterrupt):
        serve(asked.host, asked.port, run=asked.run, ready=ready)
    print("\nbptt lab: stopped", flush=True)
    if not ended(GRACE):
        # A cell that computes cannot be stopped from outside: its thread ends with the cell, however
        # long that takes. Nor can the interpreter be taken down around it: a thread that comes back
        # from torch's C++ into an interpreter that is no more aborts the process. A page has nothing
        # to save, so the process ends here; what a run writes, it writes whole (see bptt.training).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0

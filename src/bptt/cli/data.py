"""``bptt data``: named data sets out of published packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from bptt.cli.parse import Folder, parse
from bptt.shown.text import as_json, inline


@dataclass(frozen=True)
class Data:
    """List the named data sets, or fetch one into a folder.

    Example: bptt data fetch shakespeare --out texts/shakespeare
    """

    job: tyro.conf.Positional[Literal["list", "fetch"]]
    """list names them, fetch writes the texts of one."""
    name: tyro.conf.Positional[str | None] = None
    """The data set to fetch."""
    out: Folder = None
    """New folder for its texts; default: data/NAME."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""


def run(arguments: list[str]) -> int:
    """List or fetch."""
    asked = parse(Data, "data", arguments)

    from bptt.data import DATA_SETS
    from bptt.data.fetch import fetch
    from bptt.errors import ArgumentError

    if asked.job == "list":
        if asked.name is not None:
            raise ArgumentError("bptt data list", f"a name, {asked.name!r}", "use fetch for one")
        if asked.json:
            fields = ("name", "summary", "origin", "licence")
            rows = [{f: getattr(d, f) for f in fields} for d in DATA_SETS.values()]
            print(as_json(rows))
        else:
            for each in DATA_SETS.values():
                print(f"{each.name:<12} {each.summary}\n{'':<12} {each.origin}; {each.licence}")
        return 0
    if asked.name is None:
        raise ArgumentError("a name to fetch", "none", "see bptt data list")
    paths = fetch(asked.name, Path("data") / asked.name if asked.out is None else asked.out)
    if asked.json:
        print(as_json({"name": asked.name, "files": [str(path) for path in paths]}))
    else:
        print("\n".join(inline(path) for path in paths))
    return 0

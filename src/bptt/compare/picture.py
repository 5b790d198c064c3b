"""What a comparison came to, as a figure and as a page of its own. Drawing only."""

from __future__ import annotations

import html
import importlib.util
import io
from pathlib import Path
from typing import Any

from bptt.compare.results import HEADS, Row, cells_of, varying
from bptt.errors import ArgumentError, DependencyError
from bptt.files.write import write_file
from bptt.shown import printable


def draw(rows: list[Row], title: str, metric: str, levels: dict[str, float]) -> Any:
    """The scores: over the length where there are several, else a bar for every point of the grid.

    Args:
        rows: from :func:`bptt.compare.summarise`.
        title: above it.
        metric: name of the score.
        levels: lines to draw, by name: chance, goal.

    Returns:
        a ``matplotlib.figure.Figure``. Whiskers and dots are the seeds.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise DependencyError(
            "the package matplotlib", "none", "install it: pip install matplotlib"
        )
    from matplotlib.figure import Figure

    axes_named = [a for a in varying(rows) if a != "length"]
    rows = [row for row in rows if row.scores]
    over_length = len({row.length for row in rows}) > 1
    labels = [" ".join(str(getattr(row, a)) for a in axes_named) for row in rows]
    height = 4.0 if over_length else 1.2 + 0.32 * len(rows)
    figure = Figure(figsize=(7, height), layout="constrained")
    axes: Any = figure.subplots()  # matplotlib's types know no None, which it draws as a gap
    if over_length:
        for label in dict.fromkeys(labels):
            line = [row for row, own in zip(rows, labels, strict=True) if own == label]
            axes.plot([r.length for r in line], [r.mean for r in line], marker="o", label=label)
            for row in line:
                axes.plot([row.length] * len(row.scores), row.scores, "k.", markersize=3)
        axes.set_xlabel("length")
        axes.set_ylabel(metric)
        axes.legend(fontsize="small")
    else:
        places = list(range(len(rows)))
        axes.barh(places, [row.mean for row in rows], color="tab:blue", alpha=0.6)
        for place, row in zip(places, rows, strict=True):
            axes.plot(row.scores, [place] * len(row.scores), "k.", markersize=4)
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.set_xlabel(metric)
    for number, (name, level) in enumerate(levels.items()):
        draw_level = axes.axhline if over_length else axes.axvline
        draw_level(level, color="gray", linestyle=("--", ":")[number % 2], linewidth=1, label=name)
    axes.set_title(title)
    return figure


def svg(figure: Any) -> str:
    """The figure as SVG text, the same for the same figure."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "bptt"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure; the ending of the name says in which format."""
    if path.suffix == ".svg":
        write_file(path, svg(figure) + "\n")
    else:
        drawn, known = io.BytesIO(), figure.canvas.get_supported_filetypes()
        if path.suffix[1:].lower() not in known:
            raise ArgumentError(
                f"a figure that ends in one of .{', .'.join(sorted(known))}",
                repr(path.name),
                "choose another name with --figure",
            )
        figure.savefig(drawn, format=path.suffix[1:].lower())
        write_file(path, drawn.getvalue())


def page(rows: list[Row], title: str, command: str, picture: str) -> str:
    """One HTML document that needs nothing else: the command, the table, the figure."""
    axes = varying(rows)
    heads = "".join(f"<th>{html.escape(h)}</th>" for h in (*axes, *HEADS))
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells_of(row, axes)) + "</tr>\n"
        for row in rows
    )
    return printable(
        "<!doctype html>\n<html lang=en><meta charset=utf-8>\n"
        f"<title>{html.escape(title)}</title>\n"
        "<style>body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:left;"
        "border-bottom:1px solid #ccc}svg{max-width:100%;height:auto}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n<pre>{html.escape(command)}</pre>\n"
        f"<table><thead><tr>{heads}</tr></thead>\n<tbody>{lines}</tbody></table>\n{picture}\n</html>\n"
    )

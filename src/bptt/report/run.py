"""The pages of a run folder and of a comparison."""

from __future__ import annotations

import html
import importlib.util
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bptt.errors import ArgumentError, DependencyError
from bptt.experiments.compare.grid import HEADS, Row, cells_of, varying
from bptt.files.write import write_file
from bptt.probes.diagnose import Diagnosis
from bptt.report.figures import Record, draw_heat, draw_horizon, draw_loss, series, spectra
from bptt.report.page import Fact, Picture, Section, page, picture
from bptt.report.sections import FOOTER, diagnosis_sections, footer, subtitle
from bptt.report.words import thousands
from bptt.shown.text import printable
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings

# The report of a run folder: its course out of ``metrics.jsonl``, and a diagnosis where there is one.


def write_run_report(
    run: str | os.PathLike[str],
    found: Diagnosis | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a run's report as one HTML file.

    Args:
        run: a run folder. Its numbers are drawn as they stand in ``metrics.jsonl``; nothing is
            measured anew.
        found: a diagnosis of its model, shown above its course.
        path: of the file; default ``report.html`` in the folder.

    Returns:
        The path.

    Raises:
        RunError: not a run folder, or the file cannot be written.

    Cost: under a second without a diagnosis.
    """
    folder = RunFolder.open(run)
    settings = folder.read_settings()
    records = list(folder.read_metrics())
    sections = [] if found is None else diagnosis_sections(found)
    sections.append(course_section(records, settings))
    under = _what(settings) if found is None else f"{_what(settings)}. {subtitle(found)}"
    below = FOOTER if found is None else footer(found)
    text = page(folder.path.resolve().name, under, sections, below)
    return folder.write_report(text) if path is None else write_file(path, text)


def own_k(settings: Settings) -> int | None:
    """How many steps back a run's gradient reaches at most; None if that is drawn or not bounded."""
    if settings.model != "recurrent":
        return None
    if settings.gradient == "truncated":
        return settings.k1
    if settings.gradient == "windowed":
        return min(settings.k2, settings.steps_per_update)
    return settings.steps_per_update if settings.gradient in ("full", "checkpointed") else None


def _what(settings: Settings) -> str:
    if settings.model != "recurrent":
        return f"A {settings.model} model"
    k = own_k(settings)
    how = settings.gradient if k is None else f"{settings.gradient}, at most {k} steps back"
    return f"Language model, {settings.cell.upper()}; gradient: {how}"


def course_section(records: Sequence[Record], settings: Settings) -> Section:
    """How the run went."""
    k = own_k(settings)
    pictures: list[Picture] = []
    facts = _facts(records)
    if len(series(records, "bits")[0]):
        pictures.append(
            picture("run-loss", _loss_words(records), lambda axes: draw_loss(axes, records))
        )
    if len(series(records, "horizon")[0]):
        words = (
            "How many steps back the gradient reaches (5 % bias), as measured while training. It "
            "usually grows as the model finds something in the past worth keeping."
        )
        pictures.append(picture("run-horizon", words, lambda axes: draw_horizon(axes, records, k)))
    if spectra(records):
        words = (
            "Each column is a moment of training, each row a truncation K: the colour is the bias that "
            "truncating to K would have had then. Yellow: all of the gradient is lost; dark blue: "
            "less than 0.01 %."
        )
        pictures.append(picture("run-heat", words, lambda axes: draw_heat(axes, records, k)))
    notes = () if pictures else ("The run has no line of metrics to draw.",)
    return Section("The run", facts=facts, pictures=tuple(pictures), notes=notes)


def _facts(records: Sequence[Record]) -> tuple[Fact, ...]:
    facts = []
    for name, key, form in (
        ("steps", "step", thousands),
        ("seconds", "seconds", thousands),
        ("tokens", "tokens", thousands),
        ("bits, training", "bits", "{:.3f}".format),
        ("horizon at the end", "horizon", "{:.0f} steps".format),
        ("factor per step", "decay", "{:.3f}".format),
    ):
        _, values = series(records, key)
        if len(values):
            facts.append(Fact(name, form(float(values[-1]))))
    verdicts = [r["verdict"] for r in records if isinstance(r.get("verdict"), str)]
    if verdicts:
        facts.append(Fact("verdict at the end", verdicts[-1], verdicts[-1]))
    return tuple(facts)


def _loss_words(records: Sequence[Record]) -> str:
    _, bits = series(records, "bits")
    return (
        f"Bits per token, from {bits[0]:.2f} to {bits[-1]:.2f}. Where the held-out curve rises while the "
        "other falls, the model learns the text by heart."
    )


# What a comparison came to, as a figure and as a page of its own. Drawing only.


def draw_comparison(rows: list[Row], title: str, metric: str, levels: dict[str, float]) -> Any:
    """The scores: over the length where there are several, else a bar for every point of the grid.

    Args:
        rows: from :func:`bptt.experiments.compare.summarise`.
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


def comparison_page(rows: list[Row], title: str, command: str, picture: str) -> str:
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

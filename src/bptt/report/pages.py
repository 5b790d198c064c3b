"""One self-contained HTML page out of sections of facts, words and pictures; those of a diagnosis."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from bptt.errors import DependencyError
from bptt.experiments.compare.results import AXES, HEADS, Row, cells_of, value_on, varying
from bptt.files.write import write_file
from bptt.probes import LagSpectrum, Reading, Saturation
from bptt.probes.diagnose import Diagnosis, ModuleDiagnosis
from bptt.report import on_text, words
from bptt.report.advice import advise
from bptt.report.chart import CYCLE, Bars, Chart, Color, Dash, Line, Mark, Part
from bptt.report.chart_figure import draw_figure, to_svg
from bptt.report.figures import (
    Record,
    chart_bias,
    chart_cosine,
    chart_course,
    chart_gates,
    chart_lags,
    chart_memory,
    chart_products,
    chart_spectrum,
    series,
)
from bptt.report.words import (
    has_gradient,
    on_tried,
    percent,
    thousands,
    tried_rows,
    tried_title,
    verdict_in_words,
)
from bptt.shown.text import printable
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings

# A page, whatever it shows.


@dataclass(frozen=True)
class Fact:
    """A number under its name; ``mood`` is a verdict, which colours it."""

    name: str
    value: str
    mood: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure as SVG, and what it says in words."""

    name: str
    svg: Any
    words: str


@dataclass(frozen=True)
class Section:
    """A part of the page; the first row of its table is the head, two columns of words lead it."""

    title: str
    facts: tuple[Fact, ...] = ()
    words: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()


def picture(name: str, chart: Chart) -> Picture:
    """A chart as a picture of the page; its caption stands under it.

    Args:
        name: unique in the page, of letters, digits and hyphens.
        chart: what to draw.
    """
    from markupsafe import Markup

    return Picture(name, Markup(to_svg(draw_figure(chart), name)), chart.caption)


def page(title: str, subtitle: str, sections: list[Section], footer: str) -> str:
    """The page; all text is escaped, pictures stand in it as they are, without control characters."""
    try:
        import jinja2
    except ImportError:
        raise DependencyError("jinja2", "none installed", "pip install jinja2") from None
    template = Path(__file__).with_name("page.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    made = environment.from_string(template)
    text = made.render(title=title, subtitle=subtitle, sections=sections, footer=footer)
    # A number keeps its unit on its line.
    return printable(text).replace(" %", "\N{NO-BREAK SPACE}%")


# The sections of a page that show a diagnosis.

FOOTER = "Measured by bptt on the named batch; another batch gives somewhat other numbers."
GATES_SHOWN = 4  # layers whose gates are drawn, the lowest ones


def write_report(
    found: Diagnosis, path: str | os.PathLike[str], *, title: str = "How far back it learns"
) -> Path:
    """Write a diagnosis as one HTML file that needs nothing else: pictures inside, no script.

    Args:
        found: what :func:`bptt.diagnose` returned.
        path: of the file; an existing one is replaced.
        title: of the page.

    Returns:
        The path.

    Raises:
        RunError: it cannot be written.
        DependencyError: matplotlib or jinja2 is missing.

    Cost: about a second and 200 kB a module.

    Example:
        >>> import tempfile, torch, bptt
        >>> batch = torch.randn(9, 2, 3), torch.randn(9, 2, 5)
        >>> found = bptt.diagnose(torch.nn.RNN(3, 5), batch, torch.nn.functional.mse_loss)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(found, folder + "/report.html").stat().st_size < 1e6
        True
    """
    return write_file(path, page(title, subtitle(found), diagnosis_sections(found), footer(found)))


def footer(found: Diagnosis) -> str:
    """Where the numbers come from, and whether they are those of the whole batch."""
    exact = words.how_exact(found.main.watched.spectrum)
    return f"{FOOTER} The bias of a truncation is {exact}."


def subtitle(found: Diagnosis) -> str:
    """What was measured, in a line."""
    spectrum = found.main.watched.spectrum
    kept, of = spectrum.lanes
    lanes = f"{kept} lanes" if kept == of else f"{kept} of {of} lanes"
    return f"One batch of {spectrum.steps} steps and {lanes}; its loss is {found.loss:.4g}."


def diagnosis_sections(found: Diagnosis) -> list[Section]:
    """One section a module, and one for the remedies that were tried."""
    sections = [_module(m, found.k, f"m{i}") for i, m in enumerate(found.modules)]
    if found.reading is not None:
        sections.append(_on_text(found.reading))
    if found.trials:
        sections.append(
            Section(
                tried_title(found.trials),
                words=(on_tried(found.trials),),
                table=tried_rows(found.trials),
            )
        )
    return sections


def _on_text(reading: Reading) -> Section:
    from markupsafe import Markup

    drawn = tuple(
        Picture(name, Markup(html), said) for name, html, said in on_text.pictures(reading)
    )
    return Section("On the text", pictures=drawn)


def _module(found: ModuleDiagnosis, k: int | None, place: str) -> Section:
    watched, spectrum = found.watched, found.watched.spectrum
    word = verdict_in_words(spectrum, watched.verdict)
    measured = has_gradient(spectrum)
    facts = [
        Fact("verdict", word, word),
        Fact("horizon, 5 %", f"{watched.horizon} steps" if measured else "-"),
        Fact("horizon, 1 %", f"{spectrum.horizon(0.01)} steps" if measured else "-"),
        Fact("factor per step", f"{watched.decay:.3f}"),
    ]
    if k is not None:
        facts.append(Fact(f"bias at k = {k}", percent(spectrum.bias_of(k))))
    if watched.saturation is not None:
        facts.append(Fact("saturated", percent(watched.saturation.share)))
    finite = is_drawable(spectrum)
    return Section(
        title=f"{watched.name or 'The model'} ({watched.kind})",
        facts=tuple(facts),
        words=(watched.explain(),),
        advice=tuple(a.text for a in advise(found, k)),
        pictures=tuple(_pictures(found, k, place)) if finite else (),
        notes=found.notes if finite else (*found.notes, "No pictures of such a gradient."),
    )


def is_drawable(spectrum: LagSpectrum) -> bool:
    """Whether every lag's gradient is finite, and not all of them are nothing."""
    return bool(spectrum.norms.isfinite().all()) and spectrum.gradient_norm > 0


def _pictures(found: ModuleDiagnosis, k: int | None, place: str) -> list[Picture]:
    return [picture(f"{place}-{name}", chart) for name, chart in module_charts(found, k).items()]


def module_charts(found: ModuleDiagnosis, k: int | None) -> dict[str, Chart]:
    """Every picture of a module, by name, with its caption; none of a gradient that cannot be drawn."""
    spectrum, gates = found.watched.spectrum, found.watched.saturation
    jacobians, exponents, memory = found.jacobians, found.lyapunov, found.capacity
    charts: dict[str, Chart] = {}
    if is_drawable(spectrum):
        charts["lags"] = replace(chart_lags(spectrum, k), caption=words.on_lags(found))
        charts["bias"] = replace(chart_bias(spectrum, k), caption=words.on_bias(found, k))
        charts["cosine"] = replace(chart_cosine(spectrum), caption=words.on_cosine(found))
    if jacobians is not None:
        charts["products"] = replace(chart_products(jacobians), caption=words.on_products(found))
    if jacobians is not None or exponents is not None:
        drawn = chart_spectrum(jacobians, exponents)
        charts["spectrum"] = replace(drawn, caption=words.on_spectrum(found))
    for layer in range(min(GATES_SHOWN, 0 if gates is None else len(gates.layers))):
        caption = words.on_gates(found) if layer == 0 else f"The same of layer {layer}."
        drawn = chart_gates(cast(Saturation, gates), layer)
        charts[f"gates{layer}"] = replace(drawn, caption=caption)
    if memory is not None:
        charts["memory"] = replace(chart_memory(memory, spectrum), caption=words.on_memory(found))
    return charts


# The pages of a run folder and of a comparison.

DASHES: tuple[Dash, ...] = ("", "dashed", "dotted")
COMPARED = "Every row is a point of the grid, trained from each of its seeds by bptt compare."

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
    model = describe_model(settings)
    under = f"{model}." if found is None else f"{model}. {subtitle(found)}"
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


def describe_model(settings: Settings) -> str:
    """The model of a run and how its gradient is taken, in a few words."""
    if settings.model != "recurrent":
        return f"A {settings.model} model; it has no gradient through time"
    k = own_k(settings)
    how = settings.gradient if k is None else f"{settings.gradient}, at most {k} steps back"
    return f"A language model, {settings.cell.upper()}; gradient: {how}"


def course_section(records: Sequence[Record], settings: Settings) -> Section:
    """How the run went."""
    charts = chart_course(records, own_k(settings))
    shown = [name for name in ("loss", "horizon", "heat") if name in charts]
    pictures = tuple(picture(f"run-{name}", charts[name]) for name in shown)
    notes = () if pictures else ("The run has no line of metrics to draw.",)
    found = tuple(_finding(r["finding"]) for r in records if isinstance(r.get("finding"), dict))
    return Section("The run", facts=_facts(records), advice=found, pictures=pictures, notes=notes)


def _finding(found: Mapping[str, Any]) -> str:
    """What a guard said of the loop, as a line of the metrics keeps it."""
    code, update, module, seen, why, write = (
        str(found.get(name, "")) for name in ("code", "update", "module", "seen", "why", "write")
    )
    return (
        f"{code}, update {update}, {module}: {seen} {why} Write: {write} (docs/mistakes.md#{code})"
    )


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


# The picture and the page of a comparison. Nothing is computed here.


def chart_comparison(
    rows: Sequence[Row], title: str, metric: str, levels: Mapping[str, float]
) -> Chart:
    """The scores: over the length where there are several, else a bar for every point of the grid.

    Args:
        rows: from :func:`bptt.experiments.compare.summarise`.
        title: above it.
        metric: name of the score.
        levels: lines to draw, by name: chance, goal.
    """
    names = [axis for axis in varying(rows) if axis != "length"]
    rows = [row for row in rows if row.scores]
    labels = [" ".join(value_on(row, name) for name in names) for row in rows]
    caption = "Dots: the seeds. Lines and bars: their means."
    parts: list[Part] = []
    if len({row.length for row in rows}) > 1:
        for place, label in enumerate(dict.fromkeys(labels)):
            own = [row for row, of in zip(rows, labels, strict=True) if of == label]
            look = CYCLE[place % len(CYCLE)], DASHES[place // len(CYCLE) % len(DASHES)]
            lengths, means = [float(r.length or 0) for r in own], [cast(float, r.mean) for r in own]
            parts.append(Line(label, lengths, means, *look, dots=True))
            parts += [
                Line("", [at] * len(row.scores), row.scores, "ink", "none", dots=True, thin=True)
                for at, row in zip(lengths, own, strict=True)
            ]
        parts += [Mark(name, y=v, dash="dashed", start=True) for name, v in levels.items()]
        low, high = _range([*levels.values(), *(s for row in rows for s in row.scores)], 0.1)
        first, last = _range([float(row.length or 0) for row in rows], 0.03)
        return Chart(
            title, parts, x="length", y=metric, caption=caption, xlim=(first, last), ylim=(low, high)
        )  # fmt: skip
    places = list(range(len(rows), 0, -1))  # the first on top
    means = [cast(float, row.mean) for row in rows]
    parts.append(Bars(places, means, "sky", 0.6, sideways=True))
    for place, row in zip(places, rows, strict=True):
        seeds = [place] * len(row.scores)
        parts.append(Line("", row.scores, seeds, "ink", "none", dots=True, thin=True))
    parts += [Mark(name, x=value, dash="dashed") for name, value in levels.items()]
    low, high = _range([0.0, *levels.values(), *(s for row in rows for s in row.scores)], 0.04)
    return Chart(
        title, parts, x=metric, caption=caption, grid=False, height=90 + 26 * len(rows),
        xlim=(low, high), ylim=(0.4, len(rows) + 0.9),
        yticks=tuple(zip(places, labels, strict=True)),
    )  # fmt: skip


def chart_progress(
    records: Sequence[Record], rows: Sequence[Row], metric: str, levels: Mapping[str, float]
) -> list[Chart]:
    """How the loss and the score of every job went, over its updates; empty where nothing was scored.

    Args:
        records: of the jobs, from :func:`bptt.experiments.compare.results.run_grid`.
        rows: of the same jobs, which say in what they differ.
        metric: name of the score.
        levels: lines to draw beside the scores, by name: chance, goal.
    """
    names = varying(rows)
    words = {
        tuple(getattr(row, a) for a in AXES): " ".join(value_on(row, name) for name in names)
        for row in rows
    }
    charts = []
    for key, title, axis in (("losses", "Training loss", "loss"), ("curve", "Held out", metric)):
        parts: list[Part] = []
        looks: dict[str, tuple[Color, Dash]] = {}
        for record in records:
            points = [(at, value) for at, value in record.get(key, []) if value is not None]
            if not points:
                continue
            at, values = zip(*points, strict=True)
            label = words[tuple(record["job"][a] for a in AXES)]
            place, known = len(looks), label in looks
            look = looks.setdefault(
                label, (CYCLE[place % len(CYCLE)], DASHES[place // len(CYCLE) % len(DASHES)])
            )
            name = "" if known else label
            parts.append(Line(name, at, values, *look, dots=len(at) < 3, thin=True))
        if not parts:
            continue
        if key == "curve":
            parts += [Mark(name, y=v, dash="dashed", start=True) for name, v in levels.items()]
        caption = "A line for every seed; a loss is the mean since the point before."
        charts.append(Chart(title, parts, x="updates", y=axis, caption=caption))
    return charts


def _range(values: Sequence[float], room: float) -> tuple[float, float]:
    apart = room * (max(values) - min(values)) or 0.5
    return (min(values) - apart, max(values) + apart)


def comparison_page(
    rows: Sequence[Row],
    title: str,
    command: str,
    charts: Sequence[Chart],
    levels: Mapping[str, float],
) -> str:
    """A comparison as one HTML document that needs nothing else: numbers, picture, table.

    Args:
        rows: from :func:`bptt.experiments.compare.summarise`.
        title: of the page.
        command: that made it, as it was typed.
        charts: of the scores, and of how they went.
        levels: what is known of the task, by name: chance, goal.
    """
    axes = varying(rows)
    table = ((*axes, *HEADS), *(tuple(cells_of(row, axes)) for row in rows))
    facts = [Fact(name, f"{level:.3g}") for name, level in levels.items()]
    solved = f"{sum(row.solved for row in rows)} of {sum(row.seeds for row in rows)}"
    facts.append(Fact("jobs that solved it", solved))
    shown: tuple[Picture, ...] = ()
    if any(row.scores for row in rows):
        shown = tuple(
            picture(f"scores-{n}" if n else "scores", chart) for n, chart in enumerate(charts)
        )
    sections = [Section("", facts=tuple(facts), pictures=shown), Section("The grid", table=table)]
    return page(title, command, sections, COMPARED)

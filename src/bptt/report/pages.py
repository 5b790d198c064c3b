"""One self-contained HTML page out of sections of facts, words and pictures; those of a diagnosis."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from bptt.errors import DependencyError
from bptt.experiments.judged import read_verdict, whole_text
from bptt.files.write import write_file
from bptt.probes import LagSpectrum, Reading, Saturation, Verdict
from bptt.probes.diagnose import Diagnosis, ModuleDiagnosis
from bptt.report import on_text, words
from bptt.report.advice import Advice, Run, advise, next_step
from bptt.report.chart import COLORS, DARK, Chart
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
    held_out,
    series,
)
from bptt.report.words import (
    has_gradient,
    on_tried,
    percent,
    thousands,
    tried_rows,
    tried_title,
)
from bptt.shown.text import printable
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings
from bptt.training.sizes import SIZES, own_k, used_sizes

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
    """A part of the page: ``command`` is what to type next, the first row of the table is its head."""

    title: str
    facts: tuple[Fact, ...] = ()
    words: tuple[str, ...] = ()
    command: str = ""
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


def page(
    title: str,
    subtitle: str,
    sections: list[Section],
    footer: str,
    about: Sequence[tuple[str, str]] = (),
) -> str:
    """The page; all text is escaped, pictures stand in it as they are, without control characters.

    Args:
        title: of the page.
        subtitle: what is shown, in a line.
        sections: its parts.
        footer: what stands below them.
        about: what it was made of, by name: text, date, command; a command is set so that none of its
            words is broken.
    """
    try:
        import jinja2
    except ImportError:
        raise DependencyError("jinja2", "none installed", "pip install jinja2") from None
    template = Path(__file__).with_name("page.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    made = environment.from_string(template)
    colors = {"light": {name: COLORS[name] for name in DARK}, "dark": DARK}
    text = made.render(
        title=title, subtitle=subtitle, sections=sections, footer=footer, about=about, colors=colors
    )
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
    count = len(found.spectra)
    batches = "One batch" if count < 2 else f"The middle one of {count} batches,"
    return f"{batches} of {spectrum.steps} steps and {lanes}; its loss is {found.loss:.4g}."


def verdict_section(judged: Verdict, step: Advice) -> Section:
    """The one verdict: why, how sure, and what to type next."""
    return Section(
        "Verdict",
        facts=(Fact("verdict", judged.word, judged.word.replace(" ", "-")),),
        words=(f"{judged.reason} {judged.sure}", step.text),
        command=step.command,
    )


def diagnosis_sections(found: Diagnosis, step: Advice | None = None) -> list[Section]:
    """The verdict, one section a module, and one for the remedies that were tried."""
    sections = [verdict_section(found.verdict, next_step(found.verdict) if step is None else step)]
    sections += [_module(found, m, f"m{i}") for i, m in enumerate(found.modules)]
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


def _module(whole: Diagnosis, found: ModuleDiagnosis, place: str) -> Section:
    watched, spectrum, k = found.watched, found.watched.spectrum, whole.k
    main = found is whole.main
    measured = has_gradient(spectrum)
    facts = [
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
        words=(whole.explain() if main else watched.explain(),),
        advice=tuple(a.text for a in advise(found, k, whole.verdict)) if main else (),
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
    known = Run(os.fspath(run), settings, whole_text(records, settings))
    judged = read_verdict(records) if found is None else found.verdict
    if found is not None:
        sections = diagnosis_sections(found, next_step(found.verdict, known))
    else:
        sections = [] if judged is None else [verdict_section(judged, next_step(judged, known))]
    sections.append(course_section(records, settings))
    model = describe_model(settings)
    under = f"{model}." if found is None else f"{model}. {subtitle(found)}"
    below = FOOTER if found is None else footer(found)
    text = page(folder.path.resolve().name, under, sections, below, about_run(folder, settings))
    return folder.write_report(text) if path is None else write_file(path, text)


def words_of(settings: Settings) -> list[str]:
    """What ``bptt train`` is given for these settings: the texts, and what is not as it is by itself."""
    words, plain = list(settings.files), Settings()
    unused = set(SIZES) - set(used_sizes(settings))
    for field in fields(Settings):
        value, flag = getattr(settings, field.name), "--" + field.name.replace("_", "-")
        said = field.name == "files" or (field.name == "tokens" and settings.bytes)
        if said or field.name in unused or value in (None, getattr(plain, field.name)):
            continue
        if field.name == "documents":  # as a shell hands it on
            for letter, escape in (("\\", "\\\\"), ("\n", r"\n"), ("\t", r"\t"), ("\r", r"\r")):
                value = value.replace(letter, escape)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            # One word, so that a value which begins with a dash is none.
            words += [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
    return words


def about_run(folder: RunFolder, settings: Settings) -> list[tuple[str, str]]:
    """On which text a run was trained, when it was begun, and with which command."""
    texts = (
        ", ".join(Path(name).name for name in settings.files) or "the default text of this Python"
    )
    # Nothing writes this file again, so its age is the run's.
    began = datetime.fromtimestamp(folder.config.stat().st_mtime)
    command = shlex.join(["bptt", "train", *words_of(settings)])
    return [("text", texts), ("date", began.isoformat(" ", "minutes")), ("command", command)]


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
    facts: list[Fact] = []
    scores = held_out(records)[1]
    if len(scores):
        facts.append(Fact("bits, held out", f"{min(scores):.3f}"))
    for name, key, form in (
        ("steps", "step", thousands),
        ("seconds", "seconds", thousands),
        ("tokens", "tokens", thousands),
        ("bits, training", "bits", "{:.3f}".format),
        ("horizon of one update", "horizon", "{:.0f} steps".format),
    ):
        _, values = series(records, key)
        if len(values):
            facts.append(Fact(name, form(float(values[-1]))))
    return tuple(facts)

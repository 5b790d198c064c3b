"""One self-contained HTML page out of sections of facts, words and pictures; those of a diagnosis."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from bptt.errors import DependencyError
from bptt.files.write import write_file
from bptt.probes import LagSpectrum, Reading, Saturation
from bptt.probes.diagnose import Diagnosis, ModuleDiagnosis
from bptt.report import on_text, words
from bptt.report.advice import advise
from bptt.report.chart import Chart
from bptt.report.chart_figure import draw_figure, to_svg
from bptt.report.figures import (
    chart_bias,
    chart_cosine,
    chart_gates,
    chart_lags,
    chart_memory,
    chart_products,
    chart_spectrum,
)
from bptt.report.words import (
    has_gradient,
    on_tried,
    percent,
    tried_rows,
    tried_title,
    verdict_in_words,
)
from bptt.shown.text import printable

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

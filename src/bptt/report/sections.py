"""The sections of a page that show a diagnosis."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from bptt.files.write import write_file
from bptt.probes import Reading
from bptt.probes.diagnose import Diagnosis, ModuleDiagnosis
from bptt.report import on_text, words
from bptt.report.advice import advise
from bptt.report.figures import (
    draw_bias,
    draw_cosine,
    draw_gates,
    draw_lags,
    draw_memory,
    draw_products,
    draw_spectrum,
)
from bptt.report.page import Fact, Picture, Section, page, picture
from bptt.report.words import (
    has_gradient,
    on_tried,
    percent,
    tried_rows,
    tried_title,
    verdict_in_words,
)

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
    finite = bool(spectrum.norms.isfinite().all()) and spectrum.gradient_norm > 0
    return Section(
        title=f"{watched.name or 'The model'} ({watched.kind})",
        facts=tuple(facts),
        words=(watched.explain(),),
        advice=tuple(a.text for a in advise(found, k)),
        pictures=tuple(_pictures(found, k, place)) if finite else (),
        notes=found.notes if finite else (*found.notes, "No pictures of such a gradient."),
    )


def _pictures(found: ModuleDiagnosis, k: int | None, place: str) -> list[Picture]:
    spectrum, gates = found.watched.spectrum, found.watched.saturation
    jacobians, exponents, memory = found.jacobians, found.lyapunov, found.capacity
    made = [
        picture(f"{place}-lags", words.on_lags(found), lambda a: draw_lags(a, spectrum, k)),
        picture(f"{place}-bias", words.on_bias(found, k), lambda a: draw_bias(a, spectrum, k)),
        picture(f"{place}-cosine", words.on_cosine(found), lambda a: draw_cosine(a, spectrum)),
    ]
    if jacobians is not None:
        made.append(
            picture(
                f"{place}-products",
                words.on_products(found),
                lambda a: draw_products(a, jacobians),
            )
        )
    if jacobians is not None or exponents is not None:
        made.append(
            picture(
                f"{place}-spectrum",
                words.on_spectrum(found),
                lambda a: draw_spectrum(a, jacobians, exponents),
            )
        )
    if gates is not None:
        for layer in range(min(GATES_SHOWN, len(gates.layers))):
            caption = words.on_gates(found) if layer == 0 else f"The same of layer {layer}."
            made.append(
                picture(
                    f"{place}-gates{layer}",
                    caption,
                    partial(draw_gates, found=gates, layer=layer),
                )
            )
    if memory is not None:
        made.append(
            picture(
                f"{place}-memory",
                words.on_memory(found),
                lambda a: draw_memory(a, memory, spectrum),
            )
        )
    return made

"""The report of a run folder: its course out of ``metrics.jsonl``, and a diagnosis where there is one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bptt.diagnosis import Diagnosis
from bptt.files.write import write_file
from bptt.report.course import Record, draw_heat, draw_horizon, draw_loss, series, spectra
from bptt.report.diagnosed import FOOTER, diagnosis_sections, footer, subtitle
from bptt.report.numbers import thousands
from bptt.report.page import Fact, Picture, Section, page, picture
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings


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

"""Every picture is one description: both renderers show its limits, ticks, curves and words."""

from __future__ import annotations

from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from torch import nn

from bptt.experiments.compare.results import Row
from bptt.report.chart import COLORS, Band, Bars, Chart, Heat, Label, Line, Mark, drawable, fit
from bptt.report.chart_figure import draw_figure
from bptt.report.chart_svg import draw_svg
from bptt.report.compared import chart_comparison
from bptt.report.figures import chart_course
from bptt.report.pages import module_charts
from report_cases import of


def record(step: int) -> dict:
    spectrum = {"truncations": [1, 2, 4, 8], "bias": [0.5, 0.2, 0.01, 0.0]}
    return {
        "step": step, "bits": 5 - step / 99, "norm": 1 / step, "horizon": 2 + step // 9,
        "spectrum": spectrum, "valid": {"bits": 4.0},
    }  # fmt: skip


def row(length: int, cell: str, *scores: float) -> Row:
    mean = sum(scores) / len(scores) if scores else None
    return Row(
        length, cell, "default", "norm:1", "none", "full", "none", 2, scores, mean, None, 0, None, 1.0, ()
    )  # fmt: skip


def pictures() -> dict[str, Chart]:
    torch.manual_seed(0)
    charts = {f"module {n}": c for n, c in module_charts(of(nn.LSTM(3, 6, 2), k=5).main, 5).items()}
    below = [Line("", [1, 2], [-0.5, 1.0]), Band("", [1, 2], [-0.5, 0], [0, 0], "orange")]
    wrong_way = replace(charts["module cosine"], parts=below)
    charts |= {f"run {n}": c for n, c in chart_course([*map(record, range(1, 90))], 4, 1.0).items()}
    levels = {"chance": 0.1, "goal": 0.9}
    bars = [row(5, "gru", 0.5, 0.7), row(5, "<b>", 0.2), row(5, "rnn")]
    lines = [row(n, c, 0.5, 0.1 * n) for n in (3, 9) for c in ("gru", "rnn")]
    return charts | {
        "wrong way": wrong_way,
        "comparison, bars": chart_comparison(bars, "a & b", "accuracy", levels),
        "comparison, lengths": chart_comparison(lines, "a & b", "accuracy", levels),
    }


PICTURES = pictures()


@pytest.mark.parametrize("chart", PICTURES.values(), ids=PICTURES)
def test_matplotlib_draws_what_the_chart_says(chart: Chart) -> None:
    figure = draw_figure(chart)
    axes, bounds = figure.axes[0], fit(chart)
    np.testing.assert_allclose(axes.get_xlim(), bounds.xlim)
    np.testing.assert_allclose(axes.get_ylim(), bounds.ylim)
    for axis, ticks in ((axes.xaxis, bounds.xticks), (axes.yaxis, bounds.yticks)):
        assert [label.get_text() for label in axis.get_ticklabels()] == [word for _, word in ticks]
        np.testing.assert_allclose(axis.get_ticklocs(), [value for value, _ in ticks])
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == (
        chart.title, chart.x, chart.y,
    )  # fmt: skip
    drawn = [p for p in chart.parts if isinstance(p, (Line, Mark))]
    assert len(axes.lines) == len(drawn)
    for line, part in zip(axes.lines, drawn, strict=True):
        assert to_hex(line.get_color()) == COLORS[part.color]
        if isinstance(part, Line):
            assert np.array_equal(line.get_xdata(), drawable(part.x, chart.xlog), equal_nan=True)
            assert np.array_equal(line.get_ydata(), drawable(part.y, chart.log), equal_nan=True)
        else:
            place = line.get_xdata() if part.x is not None else line.get_ydata()
            assert set(place) == {part.x if part.x is not None else part.y}
    sizes = [size for p in chart.parts if isinstance(p, Bars) for size in p.sizes]
    sideways = any(isinstance(p, Bars) and p.sideways for p in chart.parts)
    bars = [b.get_width() if sideways else b.get_height() for b in axes.patches]
    np.testing.assert_allclose(bars, sizes)
    for heat in (p for p in chart.parts if isinstance(p, Heat)):
        assert np.array_equal(axes.collections[0].get_array(), heat.values.T)


@pytest.mark.parametrize("chart", PICTURES.values(), ids=PICTURES)
def test_both_write_the_same_words(chart: Chart) -> None:
    figure, text = draw_figure(chart), draw_svg(chart)
    axes, shown = figure.axes[0], unescape(text)
    legend = axes.get_legend()
    written = [t.get_text() for t in (legend.get_texts() if legend else [])]
    written += [t.get_text() for t in axes.texts]
    words = [p.word for p in chart.parts if isinstance(p, (Mark, Label))]
    words += [p.name for p in chart.parts if isinstance(p, (Line, Band))]
    assert sorted(filter(None, written)) == sorted(filter(None, words))
    for word in (*words, chart.title, chart.caption, chart.x, chart.y):
        assert word in shown
    for _, word in (*fit(chart).xticks, *fit(chart).yticks):
        for line in word.split("\n"):
            assert f">{line}</text>" in shown
    assert "nan" not in text
    assert "<b>" not in text


def test_words_of_upright_marks_do_not_overlap() -> None:
    marks = [Mark(f"horizon {n}", x=n) for n in (4, 5, 6)]
    text = draw_svg(Chart("t", [Line("", [0, 20], [0, 1]), *marks]))
    rows = [
        part.split('y="')[1].split('"')[0]
        for part in text.split("<text ")
        if 'class="mark"' in part
    ]
    assert len(set(rows)) == 3


def test_a_count_has_thin_spaces_and_no_exponent() -> None:
    words = [word for _, word in fit(Chart("t", [Line("", [0, 4e6], [0, 1])])).xticks]
    assert words == [
        "0",
        "1\u2009000\u2009000",
        "2\u2009000\u2009000",
        "3\u2009000\u2009000",
        "4\u2009000\u2009000",
    ]

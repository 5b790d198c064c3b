"""A made-up series of hours, forecast: the end of its test part, and the error by steps ahead."""

import numpy as np

from bptt.data.calendar import SECOND, Calendar
from bptt.data.series import Series
from bptt.experiments.ladder import fit_forecasters
from bptt.report.chart_figure import draw_figure
from bptt.report.compared import chart_ahead, chart_forecasts
from bptt.training.forecast import Plan


def draw():
    """A load with a day, a quiet weekend and noise with a memory."""
    rng = np.random.default_rng(0)
    hours = np.arange(24 * 7 * 12)
    working = hours // 24 % 7 < 5
    noise = np.convolve(rng.normal(0, 2, len(hours) + 19), 0.8 ** np.arange(20), "valid")
    values = 60 + working * (12 + 15 * np.sin(2 * np.pi * hours / 24)) + noise
    calendar = Calendar(int(np.datetime64("2024-01-01", "us").astype(np.int64)), 3600 * SECOND)
    series = Series("load", values, np.ones(len(values), bool), calendar)
    found = fit_forecasters(Plan(steps=150, hidden=24, k=48), series)
    scores = {score.name: score for score in found.scores}
    kept = found.scores[-1]
    return [draw_figure(chart_forecasts(found, series)), draw_figure(chart_ahead(found))], {
        "kept": kept.name,
        "mase": f"{kept.mase:.2f}",
        "linear": f"{scores['linear'].mase:.2f}",
        "seasonal": f"{scores['seasonal naive'].mase:.2f}",
        "held": f"{100 * kept.held:.0f} %",
    }

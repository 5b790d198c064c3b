"""Gates of an LSTM as torch starts it, and with a chrono start."""

from dataclasses import replace

import torch
from panels import one

import bptt
from bptt.probes import saturation
from bptt.remedies import start_chrono
from bptt.report.chart_figure import draw_figure
from bptt.report.figures import chart_gates


def draw():
    """Histograms of every gate on random input."""
    torch.manual_seed(4)
    x = torch.randn(100, 8, 8)
    figures, numbers = [], {}
    for name, title in (("plain", "Default start"), ("chrono", "chrono:200")):
        lstm = bptt.nn.LSTM(8, 32)
        if name == "chrono":
            start_chrono(lstm, 200)
        found = saturation(one(lstm, x))
        figures.append(draw_figure(replace(chart_gates(found, 0), title=title)))
        numbers[name] = f"{100 * found.layers[0]['forget'].high:.0f} %"
    return figures, numbers

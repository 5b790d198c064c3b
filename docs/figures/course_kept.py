"""What a stream has to keep: a state, beside keys and values."""

from bptt.lab.bottleneck import bottleneck, draw_memory
from bptt.report.chart_figure import draw_figure


def draw():
    """The chart of the lab's page, for forty tokens."""
    found = bottleneck(hidden=32, lags=40, width=8)
    return [draw_figure(draw_memory(found))], {
        "state": str(found.hidden),
        "width": str(found.width),
    }

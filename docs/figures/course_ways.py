"""Four ways back to the input k steps before: through a recurrence, past it, through attention."""

from bptt.lab.bottleneck import draw_gradient, draw_shares, ways
from bptt.report.chart import number
from bptt.report.chart_figure import draw_figure


def draw():
    """The charts of the lab's page, at its first setting."""
    found = ways()
    last = {name: number(norms[-1], 2) for name, norms in found.norms.items()}
    figures = [draw_figure(draw_gradient(found)), draw_figure(draw_shares(found))]
    return figures, {
        "far": str(found.steps - 1),
        "rnn": last["recurrence"],
        "residual": last["residual"],
        "highway": last["highway"],
        "attention": last["attention"],
    }

"""What keeping fewer states costs, and the walk back through a chain of segments."""

from panels import panel

from bptt.gradients.checkpointed import advanced, plan
from bptt.report.chart import BLUE, ORANGE

SEGMENTS = 100
SHORT, KEPT = 24, 4


def draw():
    """Extra forward runs by kept states; the plan for a short chain, move by move."""
    first, axes = panel()
    states = [1, 2, 3, 4, 5, 6, 8, 10, 14, 20, 30, 50, 75, 100]
    runs = [1 + advanced(SEGMENTS, c) / SEGMENTS for c in states]
    axes.loglog(states, runs, "o-", markersize=4)
    axes.set(
        title=f"{SEGMENTS} segments", xlabel="states kept", ylabel="forward runs of a segment, mean"
    )
    axes.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axes.set_yticks([1, 2, 5, 10, 50], ["1", "2", "5", "10", "50"])
    axes.minorticks_off()
    second, axes = panel()
    clock = 0
    for move in plan(SHORT, KEPT):
        length = move.stop - move.start
        axes.plot([clock, clock + length], [move.start, move.stop], color=BLUE, linewidth=1.2)
        clock += length
        if move.reverse:
            axes.plot([clock, clock + 1], [move.stop + 1, move.stop], color=ORANGE, linewidth=1.8)
            clock += 1
        else:
            axes.plot([clock], [move.stop], "o", color=BLUE, markersize=4)
    axes.set(title=f"{SHORT} segments, {KEPT} states", xlabel="runs of a segment", ylabel="segment")
    ten = 1 + advanced(SEGMENTS, 10) / SEGMENTS
    return [first, second], {"ten": f"{ten:.1f}", "runs": str(clock)}

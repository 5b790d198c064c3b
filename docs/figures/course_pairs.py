"""Every pair of a loss and a use of the weight, and how much each adds to the gradient."""

import numpy as np
from panels import panel

from bptt.lab.unrolled import unrolled
from bptt.report.chart import INK

WORD = "recurrent"


def draw():
    """A triangle: the loss of step t reaches the uses of steps 1 to t."""
    made, axes = panel()
    T = len(WORD) - 1
    sizes = np.full((T, T), np.nan)
    for t in range(1, T + 1):
        found = unrolled(WORD, follow=t)
        for k in range(t):
            sizes[k, t - 1] = np.linalg.norm(found.pairs[k].dw_h)
    shown = np.log10(np.where(sizes > 0, sizes, np.nan))
    edges = np.arange(T + 1) + 0.5
    image = axes.pcolormesh(edges, edges, shown, cmap="viridis")
    axes.plot([0.5, T + 0.5], [0.5, T + 0.5], color=INK, linewidth=1)
    bar = made.colorbar(image, ax=axes)
    bar.outline.set_visible(False)
    axes.set(
        title="Share of dW by pair, log10 of its norm",
        xlabel="loss of step t",
        ylabel="use at step k",
    )
    axes.grid(False)
    # Step 1 uses W on a state of zeros: its share is nothing, but it is one of the pairs.
    return [made], {"steps": str(T), "pairs": str(T * (T + 1) // 2)}

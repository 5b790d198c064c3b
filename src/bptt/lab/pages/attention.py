# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""A gradient goes back through a recurrence, past it, and through attention."""

import marimo

app = marimo.App(width="full", app_title="Ways back · bptt lab")

with app.setup:
    import marimo as mo

    from bptt.lab import bottleneck as lab
    from bptt.lab import live as layout
    from bptt.report.chart import number


@app.cell
def _():
    layout.head("attention")


@app.cell
def _():
    steps = mo.ui.slider(10, 80, 5, value=60, label="Steps T", show_value=True, full_width=True)
    radius = mo.ui.slider(
        0.5, 1.5, 0.1, value=1.0, label="Spectral radius ρ of the recurrence", show_value=True,
        full_width=True,
    )  # fmt: skip
    share = mo.ui.slider(
        steps=[0.01, 0.03, 0.06, 0.1, 0.3, 1],
        value=0.06,
        label="Residual step: share a of F",
        show_value=True,
        full_width=True,
    )
    bias = mo.ui.slider(
        0.0,
        6.0,
        0.5,
        value=4.0,
        label="Highway: bias b of its gate",
        show_value=True,
        full_width=True,
    )
    layers = mo.ui.radio(["1", "2", "3"], "1", label="Layers of attention", inline=True)
    layout.controls(steps=steps, radius=radius, share=share, bias=bias, layers=layers)
    return bias, layers, radius, share, steps


@app.cell
def _(bias, layers, radius, share, steps):
    found = lab.ways(steps.value, radius.value, bias.value, share.value, int(layers.value))
    return (found,)


@app.cell
def _(found):
    layout.show(
        layout.facts({f"{name}, {found.steps - 1} back": number(norms[-1], 2) for name, norms in
                      found.norms.items()}),
        layout.charts(lab.draw_gradient(found), lab.draw_shares(found)),
        layout.words(*lab.tell_ways(found)),
        layout.values({**found.norms, "end": found.end("recurrence")}),
    )  # fmt: skip


@app.cell
def _():
    layout.show(layout.exercises("attention"))


if __name__ == "__main__":
    app.run()

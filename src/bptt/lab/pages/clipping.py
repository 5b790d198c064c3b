# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""A run that explodes, and the same run with its gradient clipped in each way."""

import marimo

app = marimo.App(width="full", app_title="Clipping · bptt lab")

with app.setup:
    import marimo as mo

    from bptt.lab import clipping as lab
    from bptt.lab import live
    from bptt.lab import live as layout


@app.cell
def _():
    layout.head("clipping")


@app.cell
def _():
    work = live.Work()
    return (work,)


@app.cell
def _(work):
    radius = mo.ui.slider(
        0.6, 2.4, 0.2, value=1.8, label="Spectral radius ρ at the start", show_value=True,
        full_width=True,
    )  # fmt: skip
    rate = mo.ui.slider(
        steps=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1], value=0.03, label="SGD's rate", show_value=True,
        full_width=True,
    )  # fmt: skip
    threshold = mo.ui.slider(
        steps=[0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30], value=1, label="Threshold θ", show_value=True,
        full_width=True,
    )  # fmt: skip
    again, stop = live.buttons(work)
    layout.controls(radius=radius, rate=rate, threshold=threshold, run=layout.beside(again, stop))
    return again, radius, rate, threshold


@app.cell
def _(again, radius, rate, threshold, work):
    _ = again.value
    setting = lab.Setting(threshold.value, rate.value, radius.value)
    work.show(lambda: lab.compare(setting), lab.draw)
    return (setting,)


@app.cell
def _():
    layout.show(layout.exercises("clipping"))


if __name__ == "__main__":
    app.run()

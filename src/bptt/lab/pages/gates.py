# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""How a cell, its start and the bias of its gates change what is left of a gradient."""

import marimo

app = marimo.App(width="full", app_title="Gates and starts · bptt lab")

with app.setup:
    import marimo as mo

    from bptt.lab import contraction as lab
    from bptt.lab import live as layout
    from bptt.report.chart import number
    from bptt.report.words import percent


@app.cell
def _():
    layout.head("gates")


@app.cell
def _():
    cell = mo.ui.radio(list(lab.LAYERS), "LSTM", label="Cell", inline=True)
    matrix = mo.ui.dropdown(list(lab.MATRICES), "torch's", label="Matrix begins")
    begin = mo.ui.radio(["one bias", "chrono"], "one bias", label="Gates", inline=True)
    bias = mo.ui.slider(
        -2.0,
        6.0,
        0.5,
        value=0.0,
        label="Bias of the gate that keeps",
        show_value=True,
        full_width=True,
    )
    steps = mo.ui.slider(10, 60, 5, value=40, label="Steps T", show_value=True, full_width=True)
    size = mo.ui.slider(
        steps=[0.01, 0.1, 0.3, 1, 3], value=1, label="Size of the input", show_value=True,
        full_width=True,
    )  # fmt: skip
    layout.controls(cell=cell, matrix=matrix, begin=begin, bias=bias, steps=steps, size=size)
    return begin, bias, cell, matrix, size, steps


@app.cell
def _(begin, bias, cell, matrix, size, steps):
    found = lab.gates(cell.value, matrix.value, begin.value, bias.value, steps.value, size.value)
    return (found,)


@app.cell
def _(found):
    layout.show(
        layout.facts(
            {
                "middle unit keeps": percent(found.keeps[len(found.keeps) // 2]) + " a step",
                f"gates alone, {found.steps} steps": number(found.alone[-1], 2),
                f"all ways, {found.steps} steps": number(found.whole[-1], 2),
                "memory ends": "not here" if found.end is None else f"{found.end} steps back",
            }
        ),
        layout.charts(lab.draw_ways(found), lab.draw_keeps(found)),
        layout.words(*lab.tell_gates(found)),
        layout.values(
            {
                "whole": found.whole,
                "along": found.along,
                "alone": found.alone,
                "keeps": found.keeps,
                "end": found.end,
            }
        ),
    )


@app.cell
def _():
    layout.show(layout.exercises("gates"))


if __name__ == "__main__":
    app.run()

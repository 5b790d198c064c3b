# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""What padding does to a state, a graph to memory, and an estimator to both."""

import marimo

app = marimo.App(width="full", app_title="Padding, detach and memory · bptt lab")

with app.setup:
    import marimo as mo

    from bptt.lab import live as layout
    from bptt.lab import padding as lab
    from bptt.report.chart import number
    from bptt.report.words import percent, thousands


@app.cell
def _():
    layout.head("padding")


@app.cell
def _():
    cell = mo.ui.radio(list(lab.LAYERS), "GRU", label="Cell", inline=True)
    padding = mo.ui.slider(
        1, 40, 1, value=20, label="Steps of padding", show_value=True, full_width=True
    )
    chunks = mo.ui.slider(2, 20, 1, value=12, label="Chunks", show_value=True, full_width=True)
    chunk = mo.ui.slider(
        steps=[5, 10, 20, 30],
        value=20,
        label="Steps of a chunk, K",
        show_value=True,
        full_width=True,
    )
    layout.controls(cell=cell, padding=padding, chunks=chunks, chunk=chunk)
    return cell, chunk, chunks, padding


@app.cell
def _(cell, chunk, chunks, padding):
    found = lab.habits(cell.value, padding.value, chunks.value, chunk.value)
    return (found,)


@app.cell
def _(found):
    layout.show(
        layout.facts(
            {
                "state off, over padding": percent(found.off[-1]),
                "state off, lengths told": percent(found.lengths),
                "held, not detached": f"{thousands(round(found.kept[-1] / 1e3))} kB",
                "held, detached": f"{thousands(round(found.detached[-1] / 1e3))} kB",
                "grown": f"{number(found.kept[-1] / found.kept[0])} times",
            }
        ),
        layout.charts(lab.draw_padding(found), lab.draw_memory(found)),
        lab.list_peaks(found),
        layout.words(*lab.tell(found)),
        layout.values(
            {
                "off": found.off,
                "lengths": found.lengths,
                "kept": found.kept,
                "detached": found.detached,
                "peaks": found.peaks,
            }
        ),
    )


@app.cell
def _():
    layout.show(layout.exercises("padding"))


if __name__ == "__main__":
    app.run()

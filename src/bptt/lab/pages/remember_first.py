# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""Train a network to recall the first symbol, and watch how far back it comes to see."""

import marimo

app = marimo.App(width="full", app_title="Remember the first · bptt lab")

with app.setup:
    import marimo as mo

    from bptt.lab import live
    from bptt.lab import live as layout
    from bptt.lab import remember_first as lab


@app.cell
def _():
    layout.head("remember_first")


@app.cell
def _():
    work = live.Work()
    return (work,)


@app.cell
def _(work):
    steps = mo.ui.slider(
        steps=[5, 10, 15, 20, 30, 40, 50, 75, 100],
        value=20,
        label="Symbols T",
        show_value=True,
        full_width=True,
    )
    rate = mo.ui.slider(
        steps=[0.1, 0.3, 1, 2, 5, 10, 20, 50, 100, 300, 1000],
        value=5,
        label="Rate, in thousandths",
        show_value=True,
        full_width=True,
    )
    updates = mo.ui.slider(
        steps=[40, 100, 200, 400, 800, 1500, 3000],
        value=400,
        label="Updates at most",
        show_value=True,
        full_width=True,
    )
    cell = mo.ui.radio(lab.CELLS, "RNN", label="Cell", inline=True)
    matrix = mo.ui.dropdown(list(lab.STARTS), "torch's", label="Matrix begins")
    gates = mo.ui.dropdown(list(lab.GATES), "torch's", label="Gates begin")
    optimiser = mo.ui.radio(list(lab.OPTIMISERS), "Adam", label="Optimiser", inline=True)
    train = mo.ui.run_button(label="Train")
    stop = live.stop_button(work)
    layout.controls(
        steps=steps,
        cell=cell,
        matrix=matrix,
        gates=gates,
        optimiser=optimiser,
        rate=rate,
        updates=updates,
        train=layout.beside(train, stop),
    )
    return cell, gates, matrix, optimiser, rate, steps, train, updates


@app.cell
def _(cell, gates, matrix, optimiser, rate, steps, updates):
    setting = lab.Setting(
        steps.value,
        cell.value,
        lab.start_of(cell.value, matrix.value, gates.value, steps.value),
        optimiser.value,
        rate.value / 1000,
        updates.value,
    )
    layout.show(lab.draw_task(setting))
    return (setting,)


@app.cell
def _(setting, train, work):
    work.show(
        lambda: lab.train(setting),
        lab.draw,
        when=train.value,
        idle="The network reads the letters one by one and must name the first after the last. Press "
        "Train and watch three things: whether it does, how much of the error's gradient arrives at "
        "the first letter, and from how many steps on nothing of weight is missing. Then start its "
        "matrix orthogonal; try a gru, and give its gates the chrono start; make T longer.",
    )


@app.cell
def _():
    layout.show(layout.exercises("remember_first"))


if __name__ == "__main__":
    app.run()

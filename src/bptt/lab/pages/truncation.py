# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""Choose K: what each way of cutting the gradient leaves out, and what it costs."""

import marimo

app = marimo.App(width="full", app_title="Truncation · bptt lab")

with app.setup:
    import marimo as mo

    from bptt.lab import live
    from bptt.lab import live as layout
    from bptt.lab import truncation as lab


@app.cell
def _():
    layout.head("truncation")


@app.cell
def _():
    work = live.Work("piece")
    get_found, set_found = mo.state(None)
    return get_found, set_found, work


@app.cell
def _(work):
    k = mo.ui.slider(
        steps=list(lab.KS), value=8, label="Truncated to K steps", show_value=True, full_width=True
    )
    cell = mo.ui.radio(
        {"RNN": "rnn", "GRU": "gru", "LSTM": "lstm"}, "GRU", label="Cell", inline=True
    )
    again, stop = live.buttons(work)
    layout.controls(k=k, cell=cell, run=layout.beside(again, stop))
    return again, cell, k


@app.cell
def _(again, cell, set_found, work):
    _ = again.value
    set_found(None)
    work.show(lambda: lab.prepare(cell.value), lab.draw_training, done=set_found)
    begun = True
    return (begun,)


@app.cell
def _(begun, get_found, k):
    found = get_found() if begun else None
    layout.show(
        layout.words(
            "The figures come when the model is trained and measured. If you stopped that, press Start "
            "again."
        )
        if found is None
        else lab.draw(found, k.value)
    )
    return (found,)


@app.cell
def _():
    layout.show(layout.exercises("truncation"))


if __name__ == "__main__":
    app.run()

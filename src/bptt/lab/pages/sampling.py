# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""What a trained model believes comes next, what that costs, and how to draw from it."""

import marimo

app = marimo.App(width="full", app_title="Sampling and perplexity · bptt lab")

with app.setup:
    import marimo as mo

    from bptt.errors import BpttError
    from bptt.lab import live
    from bptt.lab import live as layout
    from bptt.lab import sampling as lab


@app.cell
def _():
    layout.head("sampling")


@app.cell
def _():
    work = live.Work()
    get_found, set_found = mo.state(None)
    return get_found, set_found, work


@app.cell
def _(work):
    prompt = mo.ui.text(lab.PROMPT, label="What to continue", full_width=True)
    temperature = mo.ui.slider(
        steps=[0, 0.2, 0.4, 0.6, 0.8, 1, 1.3, 1.6, 2], value=0.6, label="Temperature", show_value=True,
        full_width=True,
    )  # fmt: skip
    top_k = mo.ui.dropdown(["all", "1", "2", "5", "10", "20"], "all", label="Among the likeliest")
    warm_up = mo.ui.radio(["prompt", "one letter"], "prompt", label="Warm-up", inline=True)
    draw = mo.ui.slider(1, 20, 1, value=1, label="Draw", show_value=True, full_width=True)
    cell = mo.ui.radio(
        {"RNN": "rnn", "GRU": "gru", "LSTM": "lstm"}, "GRU", label="Cell", inline=True
    )
    again, stop = live.buttons(work)
    layout.controls(
        prompt=prompt, temperature=temperature, top_k=top_k, warm_up=warm_up, draw=draw, cell=cell,
        run=layout.beside(again, stop),
    )  # fmt: skip
    return again, cell, draw, prompt, temperature, top_k, warm_up


@app.cell
def _(again, cell, set_found, work):
    _ = again.value
    set_found(None)
    work.show(lambda: lab.prepare(cell.value), lab.draw_training, done=set_found)
    begun = True
    return (begun,)


@app.cell
def _(begun, draw, get_found, prompt, temperature, top_k, warm_up):
    found = get_found() if begun else None
    among = None if top_k.value == "all" else int(top_k.value)
    if found is None:
        shown = layout.words(
            "The figures come when the model is trained. If you stopped that, press Start again."
        )
    elif not prompt.value:
        shown = layout.words("Type at least one character to continue.")
    else:
        try:
            warm = warm_up.value == "prompt"
            shown = lab.draw(found, prompt.value, temperature.value, among, warm, draw.value)
        except BpttError as error:
            shown = layout.words(str(error))
    layout.show(shown)
    return (found,)


@app.cell
def _():
    layout.show(layout.exercises("sampling"))


if __name__ == "__main__":
    app.run()

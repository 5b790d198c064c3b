# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""A word goes through a recurrent network letter by letter, then the gradient comes back."""

import marimo

app = marimo.App(width="full", app_title="Unrolled · bptt lab")

with app.setup:
    import marimo as mo

    from bptt.lab import live as layout
    from bptt.lab import unrolled as lab
    from bptt.report.chart_svg import draw_svg


@app.cell
def _():
    layout.head("unrolled")


@app.cell
def _():
    text = mo.ui.text(lab.DEFAULT, label="Your word", full_width=True)
    hidden = mo.ui.slider(1, 6, 1, value=4, label="Units H", show_value=True, full_width=True)
    radius = mo.ui.slider(
        0.1, 1.6, 0.1, value=0.9, label="Spectral radius ρ of Wₕ", show_value=True, full_width=True
    )
    return hidden, radius, text


@app.cell
def _(text):
    word, note = lab.letters(text.value)
    T = len(word) - 1
    follow = mo.ui.slider(
        1, T, 1, value=T, label="Follow the loss of step", show_value=True, full_width=True
    )
    position = mo.ui.slider(
        1, 2 * T, 1, value=1, label=f"Go: {T} steps forward, {T} back", full_width=True
    )
    return follow, note, position, word


@app.cell
def _(follow, hidden, position, radius, text):
    layout.controls(word=text, hidden=hidden, radius=radius, follow=follow, position=position)


@app.cell
def _(follow, hidden, radius, word):
    found = lab.unrolled(word, hidden.value, radius.value, follow.value)
    return (found,)


@app.cell
def _(found, note, position):
    at = position.value
    layout.show(
        layout.words(note) if note else "",
        layout.facts(lab.summary(found, at)),
        layout.charts(
            lab.draw(found, at),
            f"<div>{lab.equations(found, at)}{draw_svg(lab.draw_sizes(found, at))}</div>",
        ),
        layout.words(*lab.tell(found, at)),
        layout.values(
            {
                "word": found.word,
                "step": lab.place(found, at)[0],
                "back": lab.place(found, at)[1],
                "states": found.trace.h.tolist(),
                "losses": found.trace.losses.tolist(),
                "deltas": found.deltas,
                "total": found.total.tolist(),
            }
        ),
    )


@app.cell
def _():
    layout.show(layout.exercises("unrolled"))


if __name__ == "__main__":
    app.run()

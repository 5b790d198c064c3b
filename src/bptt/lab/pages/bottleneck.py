# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""What a state of H numbers can hold, beside attention, which keeps everything."""

import marimo

app = marimo.App(width="full", app_title="Bottleneck · bptt lab")

with app.setup:
    import marimo as mo

    from bptt.lab import bottleneck as lab
    from bptt.lab import live as layout
    from bptt.report.chart import number
    from bptt.report.words import thousands


@app.cell
def _():
    layout.head("bottleneck")


@app.cell
def _():
    hidden = mo.ui.slider(
        steps=[1, 2, 4, 8, 16, 24, 32],
        value=16,
        label="Numbers in the state, H",
        show_value=True,
        full_width=True,
    )
    radius = mo.ui.slider(
        0.1, 1.2, 0.05, value=0.95, label="Spectral radius ρ", show_value=True, full_width=True
    )
    size = mo.ui.slider(
        steps=[0.01, 0.03, 0.1, 0.3, 1, 3],
        value=0.1,
        label="Size of the input, s",
        show_value=True,
        full_width=True,
    )
    lags = mo.ui.slider(
        10, 50, 5, value=40, label="Bits to recall, T", show_value=True, full_width=True
    )
    width = mo.ui.slider(
        steps=[4, 8, 16, 32],
        value=8,
        label="Attention's width d",
        show_value=True,
        full_width=True,
    )
    start = mo.ui.radio(["orthogonal", "Gaussian"], "orthogonal", label="Matrix W", inline=True)
    layout.controls(hidden=hidden, radius=radius, size=size, lags=lags, width=width, start=start)
    return hidden, lags, radius, size, start, width


@app.cell
def _(hidden, lags, radius, size, start, width):
    found = lab.bottleneck(
        hidden.value, radius.value, lags.value, size.value, start.value, width.value
    )
    return (found,)


@app.cell
def _(found):
    layout.show(
        layout.facts(
            {
                "the state keeps": f"{found.hidden} numbers",
                "it holds": f"{number(found.total)} of {found.lags} bits",
                "attention keeps": f"{thousands(found.kept)} numbers",
                "attention holds": f"{number(found.attended * found.lags)} of {found.lags} bits",
            }
        ),
        layout.charts(lab.draw_recall(found), lab.draw_memory(found)),
        layout.words(*lab.tell(found)),
        layout.values(
            {
                "recalled": found.recalled,
                "attended": found.attended,
                "total": found.total,
                "kept": found.kept,
            }
        ),
    )


@app.cell
def _():
    layout.show(layout.exercises("bottleneck"))


if __name__ == "__main__":
    app.run()

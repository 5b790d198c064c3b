# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""Three steps of backpropagation through time with every number shown, beside what autograd finds."""

import marimo

app = marimo.App(width="full", app_title="BPTT by hand · bptt lab")

with app.setup:
    import marimo as mo

    from bptt.lab import by_hand as lab
    from bptt.lab import layout
    from bptt.lab.chart import number


@app.cell
def _():
    layout.head("by_hand")


@app.cell
def _():
    def slider(label, value):
        return mo.ui.slider(
            -2.0, 2.0, 0.1, value=value, label=label, show_value=True, full_width=True
        )

    w = [slider(f"W{place}", v) for place, v in zip(("₁₁", "₁₂", "₂₁", "₂₂"), lab.W, strict=True)]
    w_x = [slider(f"wₓ{'₁₂'[i]}", v) for i, v in enumerate(lab.W_X)]
    w_y = [slider(f"w_y{'₁₂'[i]}", v) for i, v in enumerate(lab.W_Y)]
    x = [slider(f"x{'₁₂₃'[i]}", v) for i, v in enumerate(lab.X)]
    y = [slider(f"y{'₁₂₃'[i]}", v) for i, v in enumerate(lab.Y)]
    losses = mo.ui.radio(["every step", "the last step"], "every step", label="Loss at")
    digits = mo.ui.slider(2, 6, 1, value=4, label="Digits shown", show_value=True, full_width=True)
    step = mo.ui.radio(["1", "2", "3"], "3", label="Write out step", inline=True)
    mo.vstack(
        [
            layout.controls(
                "Weights",
                **{f"w{n}": one for n, one in zip((11, 12, 21, 22), w, strict=True)},
                **{f"w_x{n}": one for n, one in enumerate(w_x, 1)},
                **{f"w_y{n}": one for n, one in enumerate(w_y, 1)},
            ),
            layout.controls(
                "Inputs x, targets y",
                **{f"x{n}": one for n, one in enumerate(x, 1)},
                **{f"y{n}": one for n, one in enumerate(y, 1)},
            ),
            layout.controls(losses=losses, digits=digits, step=step),
        ],
        gap=1,
    )
    # A cell follows an element it names, not one inside a list: one element for each group.
    return digits, losses, step, w, w_x, w_y, x, y


if __name__ == "__main__":
    app.run()

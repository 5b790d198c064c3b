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
    from bptt.lab import live as layout
    from bptt.report.chart import number


@app.cell
def _():
    layout.head("by_hand")


@app.cell
def _():
    def slider(label, value):
        return mo.ui.slider(
            -2.0, 2.0, 0.1, value=value, label=label, show_value=True, full_width=True
        )

    w11, w12, w21, w22 = (
        slider(f"W<sub>{n}</sub>", v) for n, v in zip((11, 12, 21, 22), lab.W, strict=True)
    )
    w_x1, w_x2 = (slider(f"w<sub>x{n}</sub>", v) for n, v in enumerate(lab.W_X, 1))
    w_y1, w_y2 = (slider(f"w<sub>y{n}</sub>", v) for n, v in enumerate(lab.W_Y, 1))
    x1, x2, x3 = (slider(f"x<sub>{n}</sub>", v) for n, v in enumerate(lab.X, 1))
    y1, y2, y3 = (slider(f"y<sub>{n}</sub>", v) for n, v in enumerate(lab.Y, 1))
    losses = mo.ui.radio(["every step", "the last step"], "every step", label="Loss at")
    digits = mo.ui.slider(2, 6, 1, value=4, label="Digits shown", show_value=True, full_width=True)
    step = mo.ui.radio(["1", "2", "3"], "3", label="Write out step", inline=True)
    weights = {"w11": w11, "w12": w12, "w21": w21, "w22": w22}
    weights |= {"w_x1": w_x1, "w_x2": w_x2, "w_y1": w_y1, "w_y2": w_y2}
    data = {"x1": x1, "x2": x2, "x3": x3, "y1": y1, "y2": y2, "y3": y3}
    mo.vstack(
        [
            layout.controls("Weights", **weights),
            layout.controls("Inputs x, targets y", **data),
            layout.controls(losses=losses, digits=digits, step=step),
        ],
        gap=1,
    )
    return digits, losses, step, w11, w12, w21, w22, w_x1, w_x2, w_y1, w_y2, x1, x2, x3, y1, y2, y3


@app.cell
def _(losses, w11, w12, w21, w22, w_x1, w_x2, w_y1, w_y2, x1, x2, x3, y1, y2, y3):
    found = lab.by_hand(
        [one.value for one in (w11, w12, w21, w22)],
        [w_x1.value, w_x2.value],
        [w_y1.value, w_y2.value],
        [one.value for one in (x1, x2, x3)],
        [one.value for one in (y1, y2, y3)],
        losses.value,
    )
    return (found,)


@app.cell
def _(digits, found, step):
    places = digits.value
    layout.show(
        layout.facts(
            {
                "loss L": number(float(found.losses.sum())),
                "‖dW‖": number(float((found.gradients[0] ** 2).sum() ** 0.5)),
                "largest difference from autograd": number(found.difference, 2),
            }
        ),
        layout.charts(
            lab.table(found, places),
            f"<div>{lab.sums(found, places)}<br>{lab.check(found, places)}</div>",
        ),
        layout.words(*lab.tell(found, places)),
        layout.charts(lab.written(found, int(step.value), places)),
        layout.values(
            {
                "h": found.h.tolist(),
                "delta": found.delta.tolist(),
                "terms": found.terms.tolist(),
                "dw": found.gradients[0].tolist(),
                "dw_x": found.gradients[1].tolist(),
                "dw_y": found.gradients[2].tolist(),
                "autograd": found.autograd[0].tolist(),
                "difference": found.difference,
                "digits": places,
                "step": step.value,
            }
        ),
    )


@app.cell
def _():
    layout.show(layout.exercises("by_hand"))


if __name__ == "__main__":
    app.run()

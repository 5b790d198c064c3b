# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""What a product of Jacobians does to a gradient: radius against norm, and where memory ends."""

import marimo

app = marimo.App(width="full", app_title="Contraction · bptt lab")

with app.setup:
    import marimo as mo

    from bptt.lab import contraction as lab
    from bptt.lab import live as layout
    from bptt.report.chart import number


@app.cell
def _():
    layout.head("contraction")


@app.cell
def _():
    radius = mo.ui.slider(
        0.1, 1.5, 0.05, value=0.9, label="Spectral radius ρ", show_value=True, full_width=True
    )
    stretch = mo.ui.slider(
        steps=[1, 1.5, 2, 3, 5, 10, 20, 50, 100],
        value=1,
        label="Non-normality κ",
        show_value=True,
        full_width=True,
    )
    steps = mo.ui.slider(5, 50, 1, value=30, label="Steps T", show_value=True, full_width=True)
    activation = mo.ui.radio(["linear", "tanh", "ReLU"], "tanh", label="Activation", inline=True)
    start = mo.ui.radio(["orthogonal", "Gaussian"], "orthogonal", label="Matrix", inline=True)
    layout.controls(radius=radius, stretch=stretch, steps=steps, activation=activation, start=start)
    return activation, radius, start, steps, stretch


@app.cell
def _(activation, radius, start, steps, stretch):
    found = lab.contraction(radius.value, stretch.value, steps.value, activation.value, start.value)
    return (found,)


@app.cell
def _(found):
    layout.show(
        layout.facts(
            {
                "spectral radius ρ": number(found.radius),
                "spectral norm σₘₐₓ": number(found.norm),
                f"gain over {found.steps} steps": number(found.typical[-1], 2),
                "memory ends": "not here" if found.end is None else f"{found.end} steps back",
            }
        ),
        layout.charts(lab.draw_products(found), lab.draw_factor(found)),
        layout.words(*lab.tell(found)),
        layout.values(
            {
                "radius": found.radius,
                "norm": found.norm,
                "end": found.end,
                "typical": found.typical,
                "bound": found.bound,
            }
        ),
    )


@app.cell
def _():
    layout.show(layout.exercises("contraction"))


if __name__ == "__main__":
    app.run()

# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""A run folder or a text of the reader's: how far back the model learns, while it trains."""

import marimo

app = marimo.App(width="full", app_title="Your run · bptt lab")

with app.setup:
    import os
    import tempfile
    from pathlib import Path

    import marimo as mo

    from bptt.errors import BpttError
    from bptt.lab import live
    from bptt.lab import live as layout
    from bptt.lab import your_run as lab
    from bptt.lab.server import RUN_VARIABLE


@app.cell
def _():
    layout.head("your_run")


@app.cell
def _():
    listed = lab.list_runs(Path.cwd(), os.environ.get(RUN_VARIABLE))
    training, measuring = live.Work(name="training_"), live.Work("part")
    get_measured, set_measured = mo.state(None)
    kept: dict[str, lab.Course] = {}
    return get_measured, kept, listed, measuring, set_measured, training


@app.cell
def _(listed, measuring):
    folder = mo.ui.dropdown(
        list(listed), next(iter(listed), None), label="Run folder", full_width=True
    )
    again = mo.ui.refresh(
        options=["1s", "5s", "30s"], default_interval="1s", label="Look again every"
    )
    measure = mo.ui.run_button(label="Measure the model")
    layout.controls(
        run=folder,
        again=again,
        measure=layout.beside(measure, live.stop_button(measuring)),
    )
    return again, folder, measure


@app.cell
def _(again, folder, kept, listed):
    _ = again.value
    try:
        course = lab.read_course(lab.choose(listed, folder.value), kept.get("course"))
        kept["course"] = course
        shown = lab.draw_course(course) + layout.words(*lab.tell(course))
    except BpttError as error:
        kept.pop("course", None)
        say = (
            "There is no run folder below the directory the lab was started in. Train one with "
            "bptt train, or drop a text below."
            if not listed
            else str(error)
        )
        shown = layout.words(say) + layout.values({"problem": say})
    layout.show(shown)


@app.cell
def _(folder, listed, measure, measuring, set_measured):
    measuring.show(
        lambda: lab.measure(lab.choose(listed, folder.value)),
        lab.draw_measured,
        when=measure.value,
        done=set_measured,
        idle="Measure the model: the gradient by lag and the gates on the text it did not train on, and "
        "what each checkpoint writes. It takes some seconds.",
    )


@app.cell
def _(get_measured):
    reading = None if get_measured() is None else get_measured().reading
    count, first = (1, 1) if reading is None else (len(reading.losses), reading.farthest() + 1)
    symbol = mo.ui.slider(
        1, count, value=first, show_value=True, full_width=True, label="Prediction of symbol"
    )
    layout.show("" if reading is None else layout.controls(symbol=symbol).text)
    return reading, symbol


@app.cell
def _(reading, symbol):
    layout.show("" if reading is None else lab.draw_reading(reading, symbol.value))


@app.cell
def _(training):
    text = mo.ui.file(filetypes=[".txt", ".md"], kind="area", label="Drop a text, or choose one",
        max_size=lab.LARGEST)  # fmt: skip
    cell = mo.ui.dropdown(["rnn", "gru", "lstm", "mingru", "lru"], "gru", label="Cell")
    train = mo.ui.run_button(label="Train on it")
    mo.vstack(
        [
            layout.show("<h2>Or a text</h2>"),
            layout.controls(
                text=text, cell=cell, train=layout.beside(train, live.stop_button(training))
            ),
        ]
    )
    return cell, text, train


@app.cell
def _(text):
    dropped = text.contents() or b""
    layout.show(
        layout.words(f"{text.name()}: {len(dropped):,} bytes.") if text.value else "",
        layout.values({"text_bytes": len(dropped)}),
    )
    return (dropped,)


@app.cell
def _(cell, dropped, train, training):
    def begin():
        place = tempfile.TemporaryDirectory(prefix="bptt-lab-")  # gone with what trains in it
        with place as made:
            yield from lab.train_text(dropped, Path(made), cell=cell.value)

    training.show(
        begin,
        lambda course: "" if course is None else lab.draw_course(course, "training_"),
        when=train.value,
        idle="A small model is trained on it here, for a quarter of a minute, and you see how far back "
        "it comes to look. Nothing of it is kept.",
    )


@app.cell
def _():
    layout.show(layout.exercises("your_run"))


if __name__ == "__main__":
    app.run()

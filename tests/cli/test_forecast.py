"""``bptt forecast`` as its users meet it, and what the other commands do with the run that it leaves."""

import contextlib
import csv
import io
import json
import shutil
import subprocess
import sys
from html import unescape

import numpy as np
import pytest

from bptt.cli import main
from bptt.probes import Verdict
from bptt.training.restore import load_forecaster
from c_code import WARNINGS, call, tool
from sealing import sealed_anew

SMALL = ["--steps", "24", "--hidden", "8", "--horizon", "6"]


def table(size=420, separator=",", gap=range(0)):
    rng = np.random.default_rng(0)
    noise = np.convolve(rng.normal(0, 1, size + 9), 0.7 ** np.arange(10), "valid")
    times = np.datetime64("2024-02-27T22:00") + np.arange(size).astype("timedelta64[h]")
    values = 50 + 8 * np.sin(2 * np.pi * np.arange(size) / 24) + 0.01 * np.arange(size) + noise
    rows = zip(times, values, strict=True)
    lines = [f"{t}{separator}{v:.3f}" for n, (t, v) in enumerate(rows) if n not in gap]
    return "\n".join([f"time{separator}load", *lines]) + "\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a series and three runs on it: of each network by itself, and of both."""
    folder = tmp_path_factory.mktemp("forecast")
    (folder / "load.csv").write_text(table())
    for onto in ("linear", "alone", "auto"):
        words = [str(folder / "load.csv"), *SMALL, "--onto", onto, "--out", str(folder / onto)]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main(["forecast", *words, *(["--json"] if onto != "auto" else [])]) == 0
        (folder / f"{onto}.txt").write_text(said.getvalue())
    return folder


def only_json(capsys):
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one document on stdout and nothing else"
    return json.loads(out)


def refuse(capsys, *words):
    """Run a command that must fail; return its one line."""
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith(f"bptt {words[0]}: expected ")
    return captured.err


def test_it_says_what_came_out_and_leaves_a_run(place):
    run = place / "auto"
    first, head, *rest = (place / "auto.txt").read_text().splitlines()
    assert first == "load, hourly: 420 values from 2024-02-27 22:00 to 2024-03-16 09:00"
    assert head.split() == [
        "forecaster",
        "MASE",
        "MAE",
        "1",
        "ahead",
        "3",
        "ahead",
        "6",
        "ahead",
        "interval",
        "holds",
    ]
    names = [line.split("  ")[0] for line in rest[:5]]
    assert names[:3] == ["naive", "seasonal naive", "linear"]
    assert {name.removesuffix(", kept") for name in names[3:]} == {"GRU alone", "GRU on linear"}
    assert names[4].endswith(", kept")
    assert rest[5].startswith("Best on the test part: ")
    assert any(
        line.startswith("Intervals are to hold 80 % of the values and hold ") for line in rest
    )
    assert rest[-2:] == [f"pictures: {run}/report.html", f"next: bptt sample {run}"]
    assert {path.name for path in run.iterdir()} == {
        "config.toml", "environment.json", "series.csv", "manifest.json", "metrics.jsonl", "result.json",
        "checkpoints", "report.html",
    }  # fmt: skip
    looks = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {look["onto"] for look in looks} == {"linear", "alone"}
    assert [look["step"] for look in looks[:13]] == list(range(0, 25, 2))


def test_the_table_holds_what_the_document_says(place):
    found = json.loads((place / "auto" / "result.json").read_text())
    rows = (place / "auto.txt").read_text().splitlines()[2:7]
    for row, score in zip(rows, found["scores"], strict=True):
        cells = row.replace(", kept", "").removeprefix(score["name"]).split()
        steps = [score["mae_by_step"][n - 1] for n in (1, 3, 6)]
        assert cells[:5] == [f"{score['mase']:.3f}", *(f"{v:.4g}" for v in (score["mae"], *steps))]
        assert np.mean(score["mae_by_step"]) == pytest.approx(score["mae"])
    kept = found["scores"][-1]
    assert kept["name"] == found["kept"]
    assert rows[-1].endswith(f"{100 * kept['interval_holds']:.0f} %")
    assert found["best"] == min(found["scores"], key=lambda score: score["mae"])["name"]
    assert found["origins"] == 420 - round(0.8 * 420) - 6 + 1


def test_line_document_and_page_have_one_verdict(place):
    run = place / "auto"
    found = json.loads((run / "result.json").read_text())["verdict"]
    verdict = Verdict.read(found)
    assert verdict.k == load_forecaster(run)[0].plan.k
    said = (place / "auto.txt").read_text()
    assert f"\nHow far back it learns: {verdict.word}. {verdict.reason}" in said
    assert ("Try --k" in said) == (verdict.word == "cut short")
    page = (run / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert str(verdict) in unescape(page)


def test_the_same_seed_gives_the_same_run(place):
    """Trained beside the other network, or by itself."""
    both = json.loads((place / "auto" / "result.json").read_text())
    kept = "linear" if both["onto"] == "linear" else "alone"
    printed = json.loads((place / f"{kept}.txt").read_text())
    assert printed.pop("run") == str(place / kept)
    assert printed == json.loads((place / kept / "result.json").read_text())
    by_name = {score["name"]: score for score in both["scores"]}
    assert all(by_name[score["name"]] == score for score in printed["scores"])
    weights = "checkpoints/step-*/model.safetensors"
    one, other = (next((place / name).glob(weights)).read_bytes() for name in ("auto", kept))
    assert one == other


def test_the_page_shows_it(place):
    page = (place / "linear" / "report.html").read_text()
    assert page.count("<svg") == 4
    for word in (
        "load, 6 steps ahead", "What was forecast, and what came", "What comes next",
        "Error by steps ahead", "How far back it learns", "seasonal naive", "GRU on linear",
    ):  # fmt: skip
        assert word in page
    assert "http" not in page.replace("http://www.w3.org", "")


def rows_of(capsys):
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


@pytest.mark.parametrize("onto", ["linear", "alone"])
def test_sample_goes_on_where_the_series_ends(place, onto, capsys):
    run = str(place / onto)
    assert main(["sample", run]) == 0
    rows = rows_of(capsys)
    assert [row["time"] for row in rows] == [f"2024-03-16 {hour}:00" for hour in range(10, 16)]
    model, series = load_forecaster(run)
    end = len(series.values) - 1
    said = model.forecast(series, range(end, end + 1))[0]
    assert np.allclose([float(row["load"]) for row in rows], said[:, 1], rtol=1e-6)
    assert all(float(row["low"]) <= float(row["load"]) <= float(row["high"]) for row in rows)
    assert main(["sample", run, "--length", "2"]) == 0
    assert rows_of(capsys) == rows[:2]
    assert main(["sample", run, "--length", "2", "--json"]) == 0
    document = only_json(capsys)
    assert document["coverage"] == 0.8
    assert [row["value"] for row in document["forecast"]] == pytest.approx(said[:2, 1].tolist())


def test_sample_refuses_what_belongs_to_texts(place, capsys):
    run = place / "linear"
    assert "--length up to 6, the horizon of" in refuse(capsys, "sample", run, "--length", 7)
    assert "--length >= 0" in refuse(capsys, "sample", run, "--length", -1)
    for words in (
        ["--prompt", "a"],
        ["--temperature", "1"],
        ["--top-k", "3"],
        ["--seed", "1"],
        ["--raw"],
    ):
        assert f"expected {words[0]} with a run of bptt train" in refuse(
            capsys, "sample", run, *words
        )


MAIN = """
#include <stdio.h>
#include "{name}_forecast.h"
int main(void)
{{
    static {name}_state state;
    float ahead[{NAME}_HORIZON][3], history[{NAME}_HISTORY], calendar[{NAME}_CALENDAR];
    {name}_init(&state);
    for (int t = 0; t < {steps}; t++) {{
        for (int j = 0; j < {NAME}_HISTORY; j++) {{ if (scanf("%f", &history[j]) != 1) return 1; }}
        for (int j = 0; j < {NAME}_CALENDAR; j++) {{ if (scanf("%f", &calendar[j]) != 1) return 1; }}
        {name}_forecast(&state, history, calendar, ahead);
    }}
    for (int h = 0; h < {NAME}_HORIZON; h++) {{
        printf("%.7g %.7g %.7g\\n", ahead[h][0], ahead[h][1], ahead[h][2]);
    }}
    return 0;
}}
"""


@pytest.mark.parametrize("onto", ["linear", "alone"])
def test_the_exported_c_forecasts_what_sample_prints(place, onto, tmp_path, capsys):
    from bptt.training.forecast import View

    folder = tmp_path / "c"
    words = ["--to", "c", "--name", "load", "--out", str(folder)]
    assert main(["export", str(place / onto), *words]) == 0
    assert "load_forecast.h" in capsys.readouterr().out
    model, series = load_forecaster(place / onto)
    size, plan = len(series.values), model.plan
    history = max(plan.width, plan.lags if onto == "linear" else 1)
    padded = np.concatenate([np.full(history - 1, series.values[0]), series.values])
    features = View(series, plan).features
    numbers = [[*padded[t : t + history], *features[t]] for t in range(size)]
    text = "\n".join(" ".join(f"{v:.9g}" for v in row) for row in numbers)
    (folder / "main.c").write_text(MAIN.format(name="load", NAME="LOAD", steps=size))
    program = folder / "program"
    files = [folder / "main.c", folder / "load.c"]
    call(tool("gcc"), "-std=c99", *WARNINGS, "-O2", *files, "-lm", "-o", program)
    out = call(program, input=text)
    said = np.array([[float(cell) for cell in line.split()] for line in out.splitlines()])
    wanted = model.forecast(series, range(size - 1, size))[0]
    assert np.abs(said - wanted).max() < 1e-3
    assert np.ptp(wanted) > 1


@pytest.mark.parametrize("onto", ["linear", "alone"])
def test_the_exported_onnx_forecasts_what_sample_prints(place, onto, tmp_path, capsys):
    import onnxruntime

    from bptt.training.forecast import View

    out = tmp_path / "load.onnx"
    assert main(["export", str(place / onto), "--to", "onnx", "--out", str(out), "--json"]) == 0
    assert only_json(capsys)["files"] == [str(out)]
    model, series = load_forecaster(place / onto)
    view, size = View(series, model.plan), len(series.values)
    given = {"input": view.inputs(1.0).numpy(), "h": np.zeros((1, 1, 8), np.float32)}
    if onto == "linear":
        given["window"] = view.window(range(size), 1.0)[:, None].astype(np.float32)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    said = session.run(["output"], given)[0][-1, 0].reshape(6, 3) + view.level[-1]
    wanted = model.forecast(series, range(size - 1, size))[0]
    assert np.abs(np.sort(said) - wanted).max() < 1e-3
    assert "a file that does not exist yet" in refuse(
        capsys, "export", place / onto, "--to", "onnx", "--out", out
    )


def test_export_refuses_integers(place, capsys):
    words = ["--to", "c", "--precision", "int8"]
    assert "--precision float32 for a run of" in refuse(capsys, "export", place / "linear", *words)


def test_runs_lists_it(place, capsys):
    assert main(["runs", str(place), "--json"]) == 0
    found = {row["run"].rpartition("/")[2]: row for row in only_json(capsys)["runs"]}
    assert set(found) == {"linear", "alone", "auto"}
    row = found["linear"]
    assert (row["state"], row["model"], row["steps"]) == ("finished", "gru on linear", 24)
    assert row["note"].startswith("a forecast of load, 6 steps ahead, MASE ")
    assert row["settings"]["hidden"] == 8
    assert main(["runs", str(place)]) == 0
    assert "6 steps ahead" in capsys.readouterr().out
    assert main(["runs", str(place), "--csv"]) == 0
    assert len(rows_of(capsys)) == 3


@pytest.mark.parametrize(
    "words", [["eval"], ["diagnose"], ["train", "--resume"]], ids=lambda words: words[0]
)
def test_commands_for_texts_say_whose_run_it_is(place, words, capsys):
    said = refuse(capsys, *words, place / "linear")
    assert "a run of bptt train at" in said
    assert "received one of bptt forecast" in said


def test_gaps_are_refused_or_filled(tmp_path, capsys):
    path = tmp_path / "load.csv"
    path.write_text(table(gap=range(100, 103)))
    words = ["forecast", path, *SMALL, "--onto", "alone", "--out", tmp_path / "run"]
    said = refuse(capsys, *words)
    assert "received none between 2024-03-03 01:00 and 2024-03-03 05:00, line 102: " in said
    assert not (tmp_path / "run").exists()
    assert main([str(word) for word in (*words, "--fill")]) == 0
    assert ", 3 of them put in\n" in capsys.readouterr().out
    _, series = load_forecaster(tmp_path / "run")
    assert (~series.known).sum() == 3
    assert main(["sample", str(tmp_path / "run")]) == 0


REFUSED = [
    (["--column", "laod"], "did you mean --column load?"),
    (["--column", "time"], "expected one column of times"),
    (["--time", "load"], "a time in every row of load"),
    (["--horizon", "0"], "--horizon from 1 to 65,536, received 0"),
    (["--horizon", "200"], "values for --horizon 200, received 420: lower --horizon"),
    (["--season", "300"], "--season up to"),
    (["--k", "300"], "--k up to"),
    (["--coverage", "80"], "--coverage between 0 and 1, received 80"),
    (["--lr", "0"], "--lr above 0"),
    (["--minutes", "-1"], "--minutes above 0"),
    (["--steps", "3", "--minutes", "1"], "--steps or --minutes, received both"),
    (["--seed", "-1"], "0 <= --seed < 2^63"),
    (["--hidden", "1000000"], "--hidden from 1 to"),
    (["--cell", "lru"], "--cell"),
    (["--lr", "1e30"], "a finite loss"),
    (["--device", "gpu"], "auto, cpu, cuda, cuda:N or mps for --device, received 'gpu'"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=str)
def test_what_is_typed_is_checked(place, tmp_path, words, said, capsys):
    given = {"--steps": "12", "--hidden": "4", **dict(zip(words[::2], words[1::2], strict=True))}
    if "--minutes" in given and words[0] != "--steps":
        del given["--steps"]
    flat = [word for pair in given.items() for word in pair]
    assert main(["forecast", str(place / "load.csv"), *flat, "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"\n", b"time,load\n", None, "folder"], ids=str)
def test_files_that_are_none(tmp_path, content, capsys):
    path = tmp_path / "load.csv"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    assert "load.csv" in refuse(capsys, "forecast", path, "--out", tmp_path / "run")


def test_a_run_that_is_there_is_not_written_over(place, capsys):
    said = refuse(capsys, "forecast", place / "load.csv", *SMALL, "--out", place / "linear")
    assert "a run folder that does not exist yet" in said
    assert "choose another --out" in said


@pytest.mark.parametrize("name", ["series.csv", "config.toml"])
def test_a_changed_run_is_refused(place, tmp_path, name, capsys):
    run = tmp_path / "run"
    shutil.copytree(place / "linear", run)
    with (run / name).open("a") as file:
        file.write("\n")
    assert "as the run wrote it" in refuse(capsys, "sample", run)
    assert main(["runs", str(run)]) == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('cell = "gru"', 'cell = "eval"'), ("hidden = 8", "hidden = 99999999999"),
        ("hidden = 8", "hidden = 9"), ("horizon = 6", "horizon = 60000"),
        ("horizon = 6", 'horizon = "6"'), ("k = ", "q = "),
        ("coverage = 0.8", "coverage = 8.0"), ("seed = 0", "seed = -1"), ("lags = ", "lags = 1"),
    ],
)  # fmt: skip
def test_a_run_that_was_sealed_anew_is_read_with_care(place, tmp_path, old, new, capsys):
    run = tmp_path / "run"
    shutil.copytree(place / "linear", run)
    text = (run / "config.toml").read_text()
    assert old in text
    sealed_anew(run, "config.toml", text.replace(old, new))
    assert main(["sample", str(run)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_interrupted_training_leaves_nothing(place, tmp_path, monkeypatch, capsys):
    from bptt.experiments import ladder

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(ladder, "set_margins", stop)  # after the first network
    words = ["forecast", str(place / "load.csv"), *SMALL, "--out", str(tmp_path / "run")]
    assert main(words) == 130
    assert capsys.readouterr().err == "bptt forecast: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_minutes_end_a_training(place, tmp_path, capsys):
    words = ["--minutes", "0.02", "--hidden", "4", "--horizon", "2", "--out", str(tmp_path / "run")]
    assert main(["forecast", str(place / "load.csv"), *words, "--json"]) == 0
    found = only_json(capsys)
    assert found["steps"] > 2
    assert found["seconds"] < 30


def test_help_needs_no_torch():
    code = (
        "import sys, bptt.cli.forecast as f\n"
        "try: f.run(['--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Example: bptt forecast" in " ".join(done.stdout.split())

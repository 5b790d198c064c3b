"""``bptt train --log-to``: each library is given a run and asked what it has of it, without a network."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import pytest

from bptt.cli import main
from bptt.errors import ArgumentError, RunError
from bptt.integrations import loggers
from bptt.integrations.loggers import LoggedReporter
from bptt.training import train
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings

SMALL = ["--hidden", "4", "--batch", "2", "--k", "8", "--log-every", "2", "--eval-every", "4"]
SMALL += ["--horizon-every", "4", "--sample", "0"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a rose is a rose is a rose\n" * 40)
    return tmp_path


def metrics(run="run"):
    """By name and step, from the run folder."""
    found = {}
    for record in RunFolder(run).read_metrics():
        where = "valid" if "valid" in record else "train"
        for name, value in (record.get("valid") or record).items():
            if isinstance(value, (int, float)) and name not in ("step", "pieces"):
                found[f"{where}/{name}", record["step"]] = float(value)
    return found


class Kept:
    """A logger that keeps what it is given, and fails when it is told to."""

    def __init__(self):
        self.told, self.spoken, self.ended, self.fails = {}, [], [], ()

    def _perhaps(self, what):
        if what in self.fails:
            raise ConnectionResetError("the line is dead\nand more")

    def begin(self, run, settings, step):
        self._perhaps("begin")
        self.settings, self.step = settings, step
        return "nowhere"

    def numbers(self, step, numbers):
        self._perhaps("numbers")
        self.told |= {(name, step): value for name, value in numbers.items()}

    def words(self, step, words):
        self._perhaps("words")
        self.spoken.append((step, words))

    def end(self, failed):
        self._perhaps("end")
        self.ended.append(failed)


class Quiet:
    """The reporter inside."""

    def __init__(self):
        self.notes, self.steps = [], 0

    def begin(self, run, session):
        pass

    def step(self, progress, record):
        self.steps += 1

    def score(self, step, score):
        pass

    def note(self, text):
        self.notes.append(text)

    def listening(self):
        return True


@pytest.fixture
def kept(monkeypatch):
    log = Kept()
    monkeypatch.setitem(loggers._LOGS, "wandb", lambda: log)
    return log


def settings(**changes):
    return Settings(
        files=("text.txt",), hidden=4, batch=2, k=8, log_every=2, eval_every=4, horizon_every=4,
        out="run", **{"steps": 8, **changes},
    )  # fmt: skip


def test_what_is_told_is_what_the_run_folder_has(place, kept) -> None:
    inner = Quiet()
    with LoggedReporter(inner, "wandb") as reporter:
        outcome = train(settings(), reporter=reporter)
        reporter.final(outcome.steps, outcome.valid)
    assert kept.ended == [False]
    assert kept.settings["hidden"] == 4
    assert inner.notes == ["logged to wandb: nowhere"]
    final = {key: value for key, value in kept.told.items() if key[0].startswith("final/")}
    assert final["final/bits", 8] == outcome.valid.bits
    assert {k: v for k, v in kept.told.items() if k not in final} == metrics()
    assert ("train/norm", 8) in kept.told
    assert ("train/horizon", 4) in kept.told or ("train/horizon", 2) in kept.told
    assert all(set(words) == {"train/verdict"} for _, words in kept.spoken)
    verdicts = [words["train/verdict"] for _, words in kept.spoken]
    assert verdicts
    assert all(one != other for one, other in pairwise(verdicts))


@pytest.mark.parametrize("what", ["numbers", "words", "end"])
def test_a_logger_that_fails_does_not_end_the_run(place, kept, what) -> None:
    kept.fails = (what,)
    inner = Quiet()
    with LoggedReporter(inner, "wandb") as reporter:
        outcome = train(settings(), reporter=reporter)
    assert outcome.steps == 8
    assert inner.steps == 4
    said = [note for note in inner.notes if "takes nothing any more" in note]
    assert len(said) == 1
    assert "ConnectionResetError (the line is dead)" in said[0]


def test_one_that_cannot_begin_is_an_error_and_the_run_is_there(place, kept) -> None:
    kept.fails = ("begin",)
    with (
        pytest.raises(RunError, match="bptt train --resume run --log-to wandb"),
        LoggedReporter(Quiet(), "wandb") as reporter,
    ):
        train(settings(), reporter=reporter)
    kept.fails = ()
    with LoggedReporter(Quiet(), "wandb") as reporter:
        assert train(settings(), resume="run", reporter=reporter).steps == 8


def test_an_error_of_the_run_is_told(place, kept) -> None:
    def stumble(session):
        raise KeyError("theirs")

    with pytest.raises(KeyError), LoggedReporter(Quiet(), "wandb") as reporter:
        train(settings(), reporter=reporter, on_step=stumble)
    assert kept.ended == [True]


def test_another_kind() -> None:
    with pytest.raises(
        ArgumentError, match="--log-to tensorboard, wandb, mlflow, received 'excel'"
    ):
        LoggedReporter(Quiet(), "excel")


@pytest.mark.parametrize(
    ("kind", "module", "install"),
    [
        ("tensorboard", "tensorboard", "pip install tensorboard"),
        ("wandb", "wandb", "pip install wandb"),
        ("mlflow", "mlflow", "pip install mlflow"),
    ],
)
def test_without_the_library(place, monkeypatch, capsys, kind, module, install) -> None:
    for name in [
        n for n in sys.modules if n == "torch.utils.tensorboard" or n.split(".")[0] == module
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert (
        main(["train", "text.txt", *SMALL, "--steps", "2", "--log-to", kind, "--out", "run"]) == 2
    )
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert install in err
    assert not (place / "run").exists()


def tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"scalars": 0, "tensors": 0}).Reload()
    found = {
        (name, event.step): event.value
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    }
    return found, events.Tags()["tensors"]


def close(found, expected):
    """Both hold the same, one of them in float32."""
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key], rel=1e-6) for key in expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
def test_tensorboard(place, capsys) -> None:
    assert (
        main(
            ["train", "text.txt", *SMALL, "--steps", "8", "--out", "run", "--log-to", "tensorboard"]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "logged to tensorboard: tensorboard --logdir run/tensorboard" in printed
    found, texts = tensorboard("run/tensorboard")
    close({k: v for k, v in found.items() if not k[0].startswith("final/")}, metrics())
    assert "train/verdict/text_summary" in texts
    assert "settings/text_summary" in texts
    more = ["train", "--resume", "run", "--steps", "16", "--log-to", "tensorboard", "--json"]
    assert main(more) == 0
    document = json.loads(capsys.readouterr().out)  # stdout is the document's alone
    found, _ = tensorboard("run/tensorboard")
    close({k: v for k, v in found.items() if not k[0].startswith("final/")}, metrics())
    assert found["final/bits", 16] == pytest.approx(document["valid"]["bits"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
def test_tensorboard_follows_no_link(place, capsys) -> None:
    words = ["train", "text.txt", *SMALL, "--out", "run", "--steps", "2"]
    assert main(words) == 0
    (place / "elsewhere").mkdir()
    (place / "run" / "tensorboard").symlink_to(place / "elsewhere")
    assert main(["train", "--resume", "run", "--steps", "4", "--log-to", "tensorboard"]) == 2
    assert not list((place / "elsewhere").iterdir())


def entries(data):
    """What a file of LevelDB's log holds, after the seven bytes of a head."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        if room < 7:  # the end of a block, filled
            place += room
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
def test_wandb_offline(place, monkeypatch, capfd) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ["train", "text.txt", *SMALL, "--steps", "8", "--out", "run", "--log-to", "wandb"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    (file,) = place.glob("wandb/offline-run-*/run-*.wandb")
    found, named = {}, set()
    for data in entries(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            named.add((record.run.project, record.run.display_name, record.run.run_group))
        row = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
        step = int(row.pop("_step", -1))
        found |= {
            (n, step): json.loads(v)
            for n, v in row.items()
            if n.split("/")[0] in ("train", "valid", "final")
        }
    assert ("bptt", "run", "run") in named
    words_of = {key: v for key, v in found.items() if isinstance(v, str)}
    assert {name for name, _ in words_of} == {"train/verdict"}
    assert found["final/bits", 8] == document["valid"]["bits"]
    numbers = {
        k: v for k, v in found.items() if k not in words_of and k[0].split("/")[0] != "final"
    }
    close(numbers, metrics())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
def test_mlflow_in_a_folder(place, monkeypatch, capsys) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (place / "mlruns").as_uri())
    words = ["train", "text.txt", *SMALL, "--steps", "8", "--out", "run", "--log-to", "mlflow"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("bptt").experiment_id])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["hidden"] == "4"
    assert run.data.tags["train/verdict"] in ("vanishing", "healthy", "exploding")
    found = {
        (name, metric.step): metric.value
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    }
    assert found["final/bits", 8] == document["valid"]["bits"]
    close({k: v for k, v in found.items() if not k[0].startswith("final/")}, metrics())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
def test_mlflow_that_cannot_be_reached(place, monkeypatch, capsys) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (place / "mlruns").as_uri())
    assert main(["train", "text.txt", *SMALL, "--out", "run", "--log-to", "mlflow"]) == 2
    err = capsys.readouterr().err
    assert "a place that mlflow can log to" in err.splitlines()[-1]
    assert "bptt train --resume run --log-to mlflow" in err.splitlines()[-1]

"""The page stands alone: nothing is fetched, nothing runs, every id is its own."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser

import pytest
from torch import nn

from bptt.data.vocabulary import CharVocabulary
from bptt.errors import RunError
from bptt.report import document, write_report, write_run_report
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings
from report_cases import of


class Reader(HTMLParser):
    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open, self.ids, self.uses, self.tags, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.note(attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.note(attributes)

    def note(self, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src") and not value.startswith("data:image/png"):
                assert value.startswith("#"), value
                self.uses.append(value[1:])
            assert not name.startswith("on"), "a script"
            self.uses += re.findall(r"url\(#([^)]*)\)", value or "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path) -> Reader:
    text = path.read_text("utf-8")
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert "@import" not in text
    assert len(reader.ids) == len(set(reader.ids))
    assert set(reader.uses) <= set(reader.ids)
    assert path.stat().st_size < 1_000_000
    assert "prefers-color-scheme: dark" in text
    return reader


def test_everything_is_shown(gru, tmp_path) -> None:
    reader = read(write_report(gru, tmp_path / "gru.html"))
    text = " ".join(reader.text).replace("\N{NO-BREAK SPACE}", " ")
    assert reader.tags.count("svg") == 7
    for title in (
        "Gradient by lag", "Bias of the truncated gradient", "Cosine with the full gradient",
        "Products of Jacobians", "Jacobian spectrum", "Gates and saturation", "Memory of the input",
    ):  # fmt: skip
        assert title in text
    module = gru.main.watched
    assert gru.explain() in text
    assert f"{gru.verdict.reason} {gru.verdict.sure}" in text
    assert f"horizon 5 %: {module.horizon}" in text
    assert "bias at k = 5" in text


def test_the_same_bytes_twice(lstm, tmp_path) -> None:
    one, two = (write_report(lstm, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == two


def test_a_gradient_that_overflows(exploding, tmp_path) -> None:
    reader = read(write_report(exploding, tmp_path / "x.html"))
    assert "svg" not in reader.tags
    assert "not finite" in " ".join(reader.text)
    json.dumps(document(exploding), allow_nan=False)


def test_names_are_text(tmp_path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("<b>", nn.GRU(3, 2))

        def forward(self, x):
            return getattr(self, "<b>")(x)[0]

    reader = read(write_report(of(Model(), 6), tmp_path / "x.html", title="<i>"))
    assert not {"b", "i"} & set(reader.tags)


def test_a_place_that_cannot_be_written(gru, tmp_path) -> None:
    with pytest.raises(RunError, match="choose another place"):
        write_report(gru, tmp_path / "no" / "x.html")


def run_folder(path, lines: list[str]) -> RunFolder:
    settings = Settings(steps=5, k=7)
    run = RunFolder.create(path, settings, CharVocabulary.from_text("abc"))
    run.metrics.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


def line(step: int, **more) -> str:
    return json.dumps({"step": step, "bits": 5 - step / 100, "seconds": step, **more})


@pytest.mark.timing
def test_a_run_of_a_thousand_lines(tmp_path) -> None:
    at = [1, 2, 4, 8, 16]
    lines = [
        line(s, horizon=3 + s // 100, decay=0.9, verdict="vanishing",
             spectrum={"truncations": at, "bias": [0.5, 0.2, 0.1, 0.01, 0.0]})
        for s in range(1, 1001)
    ]  # fmt: skip
    lines.insert(500, json.dumps({"step": 500, "valid": {"bits": 2.5}}))
    run = run_folder(tmp_path / "run", lines)
    start = time.perf_counter()
    path = write_run_report(run.path)
    # Asked for: 5 s. It takes one; the rest is for a machine under load.
    assert time.perf_counter() - start < 5
    reader = read(path)
    assert path == tmp_path / "run" / "report.html"
    text = " ".join(reader.text)
    assert "Bias by truncation, over training" in text
    assert "Horizon over training" in text
    assert "13 steps" in text
    assert reader.tags.count("svg") == 3


def test_a_run_with_odd_lines(tmp_path) -> None:
    """Whatever else stands in the metrics, a report comes out."""
    lines = [
        json.dumps({"step": 1, "bits": None, "horizon": "far", "valid": 3}),
        line(2, spectrum={"truncations": [1], "bias": [0.3]}),
        line(3, spectrum={"truncations": [1, 2], "bias": [0.3]}, verdict=["?"]),
        line(4, spectrum="none", decay=float("nan")),
        "{broken",
    ]
    read(write_run_report(run_folder(tmp_path / "run", lines).path))


def test_a_run_without_a_line(tmp_path) -> None:
    run = run_folder(tmp_path / "run", [])
    assert "no line of metrics" in " ".join(read(write_run_report(run.path)).text)


def test_a_diagnosis_joins_the_run(gru, tmp_path) -> None:
    run = run_folder(tmp_path / "run", [line(1), line(2)])
    reader = read(write_run_report(run.path, gru, tmp_path / "both.html"))
    assert reader.tags.count("svg") == 8

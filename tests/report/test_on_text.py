"""A text as a model reads it: the connectivity against single backward passes and finite differences, and
what is drawn of it."""

from __future__ import annotations

import io
import json

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console as RichConsole
from torch import nn

import bptt
from bptt.errors import ArgumentError, BpttError, ShapeError
from bptt.lab import your_run
from bptt.models import LanguageModel, token_loss
from bptt.models.language import CELLS
from bptt.probes import connectivity, read_text, telling_units
from bptt.probes.on_text import features
from bptt.report import document, show, write_report
from bptt.report import on_text as drawing
from bptt.shown.console import Console

T = 12
# What a terminal would obey, what a page would, what is wider than a letter, and what joins another.
HOSTILE = [*'a<b>"', "\x1b", "\u202e", "\n", "\t", "日", "\u0301", "&", "$"]


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def model_of(cell: str = "gru", vocabulary: int = 9) -> LanguageModel:
    model = LanguageModel(vocabulary, cell=cell, hidden=6, layers=2, embedding=5, dropout=0.3)
    nn.init.normal_(model.output.weight)  # it starts at zero, where nothing depends on anything
    return model


def loss_at(model, vectors, tokens, t, reset=None):
    marks = {} if reset is None else {"reset": reset[: len(vectors), None]}
    h, _ = model.recurrent(vectors, **marks)
    return F.cross_entropy(model.output(h[t]), tokens[t + 1 : t + 2])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("documents", [False, True])
def test_connectivity_is_one_backward_pass_for_each_prediction(cell, documents):
    model, tokens = model_of(cell), torch.randint(9, (T + 1,))
    reset = None
    if documents:
        reset = torch.zeros(T + 1, dtype=torch.bool)
        reset[[0, 5]] = True
    state = torch.get_rng_state()
    reading = read_text(model, tokens, [str(int(t)) for t in tokens], reset=reset)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    vectors = model.embedding(tokens[:-1]).detach().unsqueeze(1).requires_grad_()
    for t in range(T):
        if documents and t == 4:
            assert bool(reading.losses[t].isnan())
            assert float(reading.row(t).sum()) == 0  # what comes next is another document
            continue
        loss = loss_at(model, vectors, tokens, t, reset)
        (gradient,) = torch.autograd.grad(loss, vectors)
        torch.testing.assert_close(
            reading.connectivity[t], gradient[:, 0].norm(dim=1), rtol=1e-10, atol=1e-13
        )
        assert float(reading.losses[t]) == pytest.approx(float(loss.detach()), rel=1e-10)
        if documents and t >= 5:
            assert float(reading.row(t)[:5].sum()) == 0


@pytest.mark.parametrize("cell", ["gru", "lru"])
def test_connectivity_is_what_finite_differences_give(cell):
    model, tokens = model_of(cell), torch.randint(9, (T + 1,))
    reading = read_text(model, tokens, [str(int(t)) for t in tokens])
    model.eval()
    vectors = model.embedding(tokens[:-1]).detach().unsqueeze(1)
    t, s, step = T - 1, 4, 1e-5
    slopes = []
    with torch.no_grad():
        for i in range(vectors.shape[2]):
            ends = []
            for sign in (1, -1):
                moved = vectors.clone()
                moved[s, 0, i] += sign * step
                ends.append(float(loss_at(model, moved, tokens, t)))
            slopes.append((ends[0] - ends[1]) / (2 * step))
    assert float(reading.row(t)[s]) == pytest.approx(float(torch.tensor(slopes).norm()), rel=1e-6)


def test_blocks_of_lanes_change_nothing(monkeypatch):
    model, tokens = model_of(), torch.randint(9, (T + 1,))
    symbols = [str(int(t)) for t in tokens]
    whole = read_text(model, tokens, symbols).connectivity
    monkeypatch.setattr("bptt.probes.on_text.BLOCK", 3 * T * 5)
    torch.testing.assert_close(read_text(model, tokens, symbols).connectivity, whole)


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ArgumentError, match="embedding, recurrent and output, received GRU"):
        read_text(nn.GRU(2, 2), torch.zeros(3, dtype=torch.int64), "abc")
    with pytest.raises(ArgumentError, match="a symbol for each"):
        read_text(model_of(), torch.zeros(3, dtype=torch.int64), "ab")
    with pytest.raises(ShapeError, match=r"vectors \(T, I\)"):
        connectivity(lambda x, at: x.sum((0, 2)), torch.zeros(3, 1, 2))
    with pytest.raises(ArgumentError, match="a prediction from 0 to 2, received 3"):
        read_text(model_of(), torch.zeros(4, dtype=torch.int64), "abcd").row(3)


def test_the_prediction_that_looks_back_the_farthest():
    model, tokens = model_of(), torch.randint(9, (T + 1,))
    reading = read_text(model, tokens, [str(int(t)) for t in tokens])
    reach = [
        float(sum((t - s) * c for s, c in enumerate(row.tolist())) / row.sum())
        for t, row in enumerate(reading.connectivity)
    ]
    assert reading.reach.tolist() == pytest.approx(reach)
    assert reading.farthest() == max(range(T // 2, T), key=lambda t: reach[t])


def test_units_that_follow_something_are_found_and_named():
    text = 'A line of 12 "words" (in [it])\nand 345 more\n' * 8
    told = features(text)
    assert {name for name, v in told.items() if float(v.std()) > 0} == set(told)
    noise = torch.randn(len(text), 20)
    for unit, (name, values) in enumerate(told.items()):
        activation = noise.clone()
        activation[:, unit] = 0.1 * noise[:, unit] - 3 * values / values.std()
        found = telling_units(activation, text)
        first = found[0]
        assert (first.number, first.follows) == (unit, name)
        assert first.correlation < -0.9
    silent = telling_units(torch.zeros(len(text), 5), text)
    assert [u.follows for u in silent] == ["variance"] * 2


def flow_of(cell: str, lanes: int = 1):
    model, tokens = model_of(cell), torch.randint(9, (T + 1, lanes))
    model.eval()
    with bptt.watch(model) as flow:
        token_loss(model(tokens[:-1])[0], tokens[1:]).backward()
    return model, tokens, flow


@pytest.mark.parametrize("cell", CELLS)
def test_a_flow_on_its_text_is_the_same_gradient(cell):
    model, tokens, flow = flow_of(cell, lanes=2)
    kept = flow._kept[flow.spectrum.name]
    for lane in (0, 1):
        reading = read_text(model, tokens[:, lane], [str(int(t)) for t in tokens[:, lane]])
        for t in (0, 7, T - 1):
            found = bptt.probes.on_text.input_gradients(kept.recurrence, kept.direct, lane, t)
            # The loss of the batch is a mean over its terms.
            torch.testing.assert_close(found * 2 * T, reading.row(t), rtol=1e-9, atol=1e-12)


def test_plot_on_a_text():
    _, _, flow = flow_of("gru")
    text = "abc\nde $f$ <"
    figure = bptt.plot(flow, on=text)
    assert figure.texts[0].get_text() == f"What the loss at step {T - 1} depends on"
    said = "".join(t.get_text() for t in figure.axes[0].texts)
    assert said.startswith("abc↵de $f$ <")
    other = bptt.plot(flow, on=[*"abcdefghijk", "two words"], at=3)
    assert "step 3" in other.texts[0].get_text()
    assert len(bptt.plot(flow).axes) == 3


WRONG = [
    ({"on": "short"}, "a text of 12 symbols, one for each step of lane 0, received 5"),
    ({"on": "x" * 12, "at": 12}, "a step from 0 to 11, received 12"),
    ({"on": "x" * 12, "at": -1}, "at >= 0"),
    ({"on": "x" * 12, "lane": 1}, "a lane from 0 to 0, received 1"),
    ({"on": 12}, "on=: a text, or a list of its tokens, received int"),
    ({"on": [1] * 12}, "on=: a text, or a list of its tokens"),
]


@pytest.mark.parametrize(("given", "words"), WRONG, ids=[w for _, w in WRONG])
def test_a_text_that_does_not_fit_the_flow(given, words):
    _, _, flow = flow_of("gru")
    with pytest.raises(ArgumentError, match=words.replace("(", r"\(")):
        bptt.plot(flow, **given)


def test_a_flow_without_a_trajectory_has_no_text():
    model = nn.GRU(3, 4)
    with bptt.watch(model, every=2) as flow:
        model(torch.randn(5, 1, 3))[0].sum().backward()
    with pytest.raises(ArgumentError, match=r"trajectory was kept, received one of a watched run"):
        bptt.plot(flow, on="abcde")
    two = nn.GRU(3, 4, bidirectional=True)
    with bptt.watch(two) as flow:
        two(torch.randn(5, 1, 3))[0].sum().backward()
    with pytest.raises(ArgumentError, match="one direction"):
        bptt.plot(flow, on="abcde")
    with bptt.watch(model) as flow:
        model(torch.randn(5, 1, 3))[0][2].sum().backward()
    with pytest.raises(ArgumentError, match="whose state a loss asks for, received step 4"):
        bptt.plot(flow, on="abcde", at=4)
    assert "step 2" in bptt.plot(flow, on="abcde").texts[0].get_text()
    with pytest.raises(ArgumentError, match="the flow itself"):
        bptt.plot(flow.modules[0], on="abcde")


class Chain(nn.Module):
    """An encoder of one or two directions, and a decoder that is given its last state."""

    def __init__(self, directions=1):
        super().__init__()
        self.low = nn.GRU(3, 4, bidirectional=directions == 2)
        self.high = nn.GRU(4 * directions, 4)

    def forward(self, x):
        return self.high(self.low(x)[0])[0]


def test_a_text_on_a_chain_is_drawn_by_its_states():
    model = Chain()
    with bptt.watch(model) as flow:
        model(torch.randn(5, 2, 3))[[1, 3]].sum().backward()
    assert flow.method == "graded"
    figure = bptt.plot(flow, on="abcde", lane=1)
    assert figure.texts[0].get_text() == "What the loss at step 3 depends on, by the states"
    assert "step 1" in bptt.plot(flow, on=list("abcde"), at=1).texts[0].get_text()
    wrong = [
        ({"on": "abcd"}, "a text of 5 symbols"), ({"on": "abcde", "lane": 2}, "a lane from 0 to 1"),
        ({"on": "abcde", "at": 2}, "step 2, which none does"),
        ({"on": "abcde", "at": 5}, "a step from 0 to 4, received 5"),
    ]  # fmt: skip
    for given, words in wrong:
        with pytest.raises(ArgumentError, match=words):
            bptt.plot(flow, **given)


UNKEPT = [
    (2, {}, "one direction, received low.*_reverse, which reads in the other"),
    (1, {"every": 2}, "every=2 or more"),
    (1, {"cap": 3}, "followed up to 3"), (1, {"cap": 2, "at": [1]}, "followed up to 2"),
]  # fmt: skip


@pytest.mark.parametrize(("directions", "options", "words"), UNKEPT, ids=[w for *_, w in UNKEPT])
def test_a_chain_of_which_no_states_were_kept(directions, options, words):
    model = Chain(directions)
    with bptt.watch(model, **options) as flow:
        model(torch.randn(5, 2, 3)).sum().backward()
    assert flow.method == "graded"
    with pytest.raises(ArgumentError, match=words):
        bptt.plot(flow, on="abcde")


def test_a_step_too_long_for_a_text_says_so(monkeypatch):
    monkeypatch.setattr("bptt.recurrence.graded.KEPT", 24)
    model = Chain()
    with bptt.watch(model) as flow:
        model(torch.randn(5, 2, 3)).sum().backward()
    with pytest.raises(ArgumentError, match="5 steps, which are too many"):
        bptt.plot(flow, on="abcde")


@pytest.mark.filterwarnings("error")
def test_what_a_terminal_or_a_page_would_obey_is_shown(tmp_path):
    model, tokens = model_of(vocabulary=len(HOSTILE)), torch.arange(len(HOSTILE))
    reading = read_text(model, tokens, HOSTILE)
    for name, html, said in drawing.pictures(reading, [5]):
        assert "<b>&" not in html.replace("&lt;b&gt;", "")
        assert "&lt;" in html, name
        for obeyed in ("\x1b", "\u202e"):
            assert obeyed not in html + said
        assert r"\x1b" in html
    for options in ({"force_terminal": True, "color_system": "truecolor"}, {"no_color": True}):
        text = io.StringIO()
        drawing.in_terminal(reading, Console(file=text, width=30, **options), 6)
        assert r"\x1b" in text.getvalue()
        assert "\u202e" not in text.getvalue()
    plain = io.StringIO()
    drawing.in_terminal(reading, RichConsole(file=plain, width=30), 6)
    assert "\x1b" not in plain.getvalue()
    assert "^" in plain.getvalue()
    figure = drawing.draw(HOSTILE, [0.5] * len(HOSTILE), "a title", 3)
    figure.savefig(tmp_path / "x.png")
    assert drawing.sign("\u0301") == "◌\u0301"


def test_lines_fit_the_terminal_and_digits_stand_under_their_letters():
    text = io.StringIO()
    console = RichConsole(file=text, width=12)
    symbols = [*"abcdefg", "日", *"hijklmnopqr"]
    shades = [0.0, 1.0, *[0.5] * 17]
    for line in drawing.lines(symbols, shades, console, at=4):
        console.print(line)
    lines = text.getvalue().splitlines()
    assert lines[0] == "abcdefg日hij"
    assert lines[1] == " 9444^4444444"[: len(lines[1])]
    assert max(map(len, lines)) <= 12


def test_shades_are_logarithmic_over_two_decades():
    assert drawing.shades(torch.tensor([1.0, 0.1, 0.01, 0.001])) == [1.0, 0.5, 0.0, 0.0]
    assert drawing.shades(torch.zeros(2)) == [0.0, 0.0]
    assert drawing.shades(torch.tensor([float("nan"), 2.0])) == [0.0, 1.0]
    assert drawing.signed(torch.tensor([1.0, 3.0, 2.0])) == [-1.0, 1.0, 0.0]
    assert drawing.signed(torch.tensor([1.0, float("nan")])) == [0.0, 0.0]


def test_a_model_that_has_diverged_is_drawn_without_an_error():
    model, tokens = model_of(), torch.randint(9, (T + 1,))
    nn.init.constant_(model.output.weight, float("nan"))
    nn.init.constant_(model.recurrent.weight_hh_l0, float("nan"))
    reading = read_text(model, tokens, list("abcdefghijklm"))
    assert next(s for _, _, s in drawing.pictures(reading, [3])).endswith("was read.")


def test_a_diagnosis_with_a_reading_is_told_everywhere(tmp_path):
    from dataclasses import replace

    model, tokens = model_of(), torch.randint(9, (T + 1, 2))
    found = bptt.probes.diagnose.diagnose(model, (tokens[:-1], tokens[1:]), token_loss)
    assert document(found)["text"] is None
    reading = read_text(model, tokens[:, 0], list("abcdefghijklm"))
    found = replace(found, reading=reading)
    told = json.loads(json.dumps(document(found)))["text"]
    assert told["symbols"] == list("abcdefghijklm")
    first = told["predictions"][0]
    assert first["at"] == reading.farthest()
    assert first["connectivity"] == pytest.approx(reading.row(first["at"]).tolist())
    text = io.StringIO()
    show(found, RichConsole(file=text, width=80))
    assert "On the text" in text.getvalue()
    page = write_report(found, tmp_path / "page.html").read_text("utf-8")
    assert "On the text" in page
    assert "color-mix" in page


def test_the_lab_draws_the_prediction_that_was_chosen():
    model, tokens = model_of(), torch.randint(9, (T + 1,))
    reading = read_text(model, tokens, list("abcdefghijklm"))
    drawn = your_run.draw_reading(reading, 5)
    assert f'data-value="read_at">{4}<' in drawn
    assert "The prediction of “f”" in drawn
    assert your_run.draw_reading(reading, 99).count("symbol 12,") == 1
    assert your_run.draw_reading(None, 1) == ""


def test_a_model_of_ones_own_by_a_function():
    cell, read = nn.GRUCell(3, 4), nn.Linear(4, 2)

    def predict(x, at):
        h, found = x.new_zeros(x.shape[1], 4), []
        for value in x:
            h = cell(value, h)
            found.append(h)
        states = torch.stack(found)[at, torch.arange(len(at))]
        return read(states).square().sum(1)

    vectors = torch.randn(6, 3)
    found = connectivity(predict, vectors)
    x = vectors.clone().unsqueeze(1).requires_grad_()
    (gradient,) = torch.autograd.grad(predict(x, torch.tensor([4])).sum(), x)
    torch.testing.assert_close(found[4], gradient[:, 0].norm(dim=1))
    assert issubclass(ArgumentError, BpttError)

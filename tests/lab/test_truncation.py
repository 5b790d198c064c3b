"""Page *Truncation*: the estimators' gradients, on a model trained in front of the reader."""

import math
import time

import pytest
import torch

import bptt
from bptt.gradients import Full, Truncated
from bptt.lab.live import ANSWER
from bptt.lab.pages import truncation as page
from bptt.lab.truncation import KS, STEPS, _ids, _text, against, draw, measure, prepare, tell
from bptt.models import LanguageModel, token_loss


@pytest.fixture(scope="module")
def found():
    *_, tick = prepare("gru", updates=20)
    assert tick.done == tick.total
    return tick.frame


def test_the_exact_ones_are_exact_and_all_are_counted(found):
    by_name = {s.name: s for s in found.seen}
    for name in ("Full", "Checkpointed", "ForwardMode"):
        # Float64: 64 steps summed in another order.
        assert by_name[name].bias < 1e-12
        assert by_name[name].cosine == pytest.approx(1, abs=1e-12)
    assert by_name["Full"].run == by_name["ForwardMode"].run == STEPS
    assert by_name["Full"].kept == STEPS
    # A segment's last step needs no second run before it is known: all but the last segment run twice.
    assert by_name["Checkpointed"].run == 2 * STEPS - by_name["Checkpointed"].kept
    for k in KS:
        chunk, window, draw_ = found.by_k[k]
        assert chunk.run == draw_.run == STEPS
        assert chunk.kept == window.kept == k
        assert window.run >= STEPS
    assert [s.bias < 1e-12 for s in found.by_k[STEPS]] == [True] * 3


def test_the_spectrum_is_the_package_and_truncated_is_torch():
    """On a batch of our own: g_K by the definition, chunks by hand."""
    vocabulary, tokens = _text()
    torch.manual_seed(1)
    model = LanguageModel(vocabulary.size, "rnn", 5, embedding=3).double()
    torch.nn.init.normal_(model.output.weight)  # it begins with zeros: nothing would go back
    x, y = (_ids(tokens[i : i + 2 * STEPS]).view(2, STEPS).t().contiguous() for i in (0, 1))
    *_, tick = measure(prepare_nothing("rnn"), model, x, y, 0, 2 + len(KS))
    found = tick.frame
    model.zero_grad()
    with bptt.watch(model, at="every") as flow:
        token_loss(model(x)[0], y).backward()
    assert found.spectrum.measured_bias.tolist() == pytest.approx(
        flow.spectrum.measured_bias.tolist(), rel=1e-9, abs=1e-12
    )
    full = grads(model)
    for k in (1, 8, 48):
        model.zero_grad()
        Truncated(k).backward(model, x, y, loss=token_loss)
        bias, cosine = against(grads(model), full)
        assert found.by_k[k][0].bias == pytest.approx(bias, rel=1e-9)
        assert found.by_k[k][0].cosine == pytest.approx(cosine, rel=1e-9)
    model.zero_grad()
    Full().backward(model, x, y, loss=token_loss)
    assert against(grads(model), full)[0] < 1e-12


def prepare_nothing(cell):
    return next(prepare(cell, updates=1)).frame


def grads(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_distance_and_cosine():
    one, other = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert against(one, other) == (1.25, 0.0)
    assert against(other, other) == (0.0, 1.0)


def test_it_learns_and_the_same_seed_is_the_same():
    runs = []
    for _ in range(2):
        *_, tick = (t for t, _ in zip(prepare("rnn", updates=60), range(60), strict=False))
        runs.append(tick.frame.losses)
    assert runs[0] == runs[1]
    assert runs[0][-1] < runs[0][0] - 1


@pytest.mark.timing
@pytest.mark.parametrize("k", KS)
def test_every_k_is_drawn_in_time(found, k):
    begin = time.perf_counter()
    text = draw(found, k)
    assert time.perf_counter() - begin < ANSWER
    assert "nan" not in text
    assert (f"T = {k}" in tell(found, k)[0]) == (k == STEPS)
    assert math.isfinite(found.spectrum.bias_of(k))


def test_the_notebook_runs_as_a_script():
    _, names = page.app.run()
    assert names["work"].state == "done"
    assert names["found"].complete


@pytest.mark.browser
def test_the_slider_shows_what_the_package_found(open_page):
    lab = open_page("truncation").wait("state")
    lab.settle("state", "done", 60_000)
    lab.wait("bias")
    *_, tick = prepare("gru")
    found = tick.frame

    def agree(k):
        assert lab.value("k") == k
        # Training in float32 in another process: sums in another order, grown over 200 updates.
        assert lab.value("bias") == pytest.approx(found.spectrum.bias_of(k), rel=0.2, abs=1e-3)
        assert lab.value("cosine") == pytest.approx(found.spectrum.cosine_of(k), abs=0.02)
        shown = [[name, run, kept] for name, _, _, run, kept in lab.value("seen")]
        wanted = [[s.name, s.run, s.kept] for s in (*found.seen, *found.by_k[k])]
        assert [s for s in shown if s[0] not in ("Adaptive", "Randomized")] == [
            s for s in wanted if s[0] not in ("Adaptive", "Randomized")
        ]
        assert lab.value("seen")[0][1] == 0.0  # Full beside itself

    agree(8)
    lab.press("k", "ArrowLeft", changes="k")
    agree(6)
    lab.press("k", "ArrowRight", 2, changes="k")
    lab.settle("k", 12)
    agree(12)
    lab.choose("cell", "RNN", changes="state")
    lab.settle("state", "done", 60_000)


@pytest.mark.browser
def test_it_looks_right_everywhere(shoot):
    def measured(lab):
        lab.settle("state", "done", 60_000)
        lab.wait("bias")

    assert len(shoot("truncation", "state", before=measured)) == 4

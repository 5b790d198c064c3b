"""Every page's exercises: there are some, and what an answer says comes out."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from bptt.gradients import Checkpointed, ForwardMode, Full, Truncated
from bptt.lab import available
from bptt.lab.bottleneck import bottleneck, ways
from bptt.lab.by_hand import by_hand
from bptt.lab.clipping import Setting, compare
from bptt.lab.contraction import contraction, gates
from bptt.lab.live import exercises, read_exercises
from bptt.lab.padding import habits
from bptt.lab.remember_first import Setting as Memory
from bptt.lab.remember_first import train
from bptt.lab.sampling import hesitation, next_symbols, prepare
from bptt.lab.truncation import _ids, _text, measure
from bptt.lab.truncation import prepare as learn
from bptt.lab.unrolled import unrolled
from bptt.models import LanguageModel
from bptt.remedies import build_clip
from bptt.report.chart import number
from bptt.training.settings import Settings

PAGES = available()


def shares_shrink():
    sizes = unrolled("aaaa").sizes
    assert sizes[0] < sizes[1] < sizes[2]
    return []


def a_tenth():
    sizes = unrolled("gradient", radius=0.1).sizes
    assert all(a <= 0.1 * b * (1 + 1e-12) for a, b in pairwise(sizes))
    return ["a tenth"]


def where_it_ends():
    return [f"{contraction(0.5, 1, 30, 'linear').end} steps", f"{0.5**13:.6f}", f"{0.5**14:.6f}"]


def transient():
    found = contraction(0.8, 100, 50, "linear")
    assert max(found.typical) == found.typical[0]
    return [number(found.typical[0]), number(found.typical[-1])]


def tanh_against_linear():
    return [number(contraction(1.1, 1, 50, kind).typical[-1]) for kind in ("linear", "tanh")]


def first_term():
    for losses in ("every step", "the last step"):
        found = by_hand(losses=losses)
        assert not found.terms[0].any()
        assert found.terms[1].any()
    return ["step 1"]


def only_w_y():
    dw, dw_x, dw_y = by_hand(w_y=(0.0, 0.0)).gradients
    assert not dw.any()
    assert not dw_x.any()
    assert dw_y.any()
    return ["w_y alone"]


def by_way_of_later_steps():
    found = by_hand(losses="the last step")
    assert not found.direct[0].any()
    np.testing.assert_array_equal(found.delta[0], found.later[0])
    assert found.later[0].any()
    return []


def first_shares(start, rate=5e-3, updates=10):
    for tick in train(Memory(steps=20, cell="rnn", start=start, rate=rate, updates=updates)):
        course = tick.frame
    return [course.shares(n)[-1] for n in range(len(course.at))]


def starts_differ():
    assert first_shares("default")[-1] < 1e-3
    assert first_shares("orthogonal")[-1] > 1e-1
    return ["under a thousandth", "over a tenth"]


def a_larger_rate_is_no_cure():
    calm, wild = (first_shares("orthogonal", rate, 40)[20:] for rate in (5e-3, 5e-2))
    assert set(calm) == {1.0}
    assert sum(share < 1e-4 for share in wild) > 5
    return ["No."]


def no_clip_acts():
    *_, tick = compare(Setting(30, 0.001, 0.6, updates=10))
    bare, norm = tick.frame.tracks[:2]
    assert (norm.acted, norm.losses) == (0, bare.losses)
    return []


def directions():
    turned = set()
    given = torch.tensor([[3.0, 0.1], [0.2, 0.3]])
    for form in ("norm:1", "rescale:1", "auto:10", "z:2.5", "value:1", "unit:0.01"):
        weight = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [0.1, 0.1]]))
        weight.grad = given.clone()
        build_clip(form)([weight])
        if torch.cosine_similarity(weight.grad.flatten(), given.flatten(), 0) < 0.999:
            turned.add(form.partition(":")[0])
    assert turned == {"value", "unit"}
    return ["Value and unit"]


def gradient_by(estimator):
    torch.manual_seed(0)
    model = torch.nn.GRU(2, 4).double()
    x, target = torch.randn(2, 24, 2, 2).double(), torch.randn(24, 2, 4).double()
    estimator.backward(model, x[0], target, loss=torch.nn.functional.mse_loss)
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def exact_ones():
    full = gradient_by(Full())
    for estimator in (Checkpointed(), ForwardMode()):
        torch.testing.assert_close(gradient_by(estimator), full, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(gradient_by(Truncated(4)), full, rtol=1e-3)
    return ["Full, Checkpointed and ForwardMode"]


def mean_depth():
    x = torch.randn(64, 1, 2)
    step = Truncated(8).backward(
        torch.nn.GRU(2, 4), x, torch.randn(64, 1, 4), loss=torch.nn.functional.mse_loss
    )
    return [f"{float(step.depth.double().mean()):g}"]


def half_off():
    off = habits("GRU", 20).off
    return [f"After {next(n for n, share in enumerate(off) if share > 0.5)}."]


def twenty_times():
    found = habits("GRU", 1, 20)
    assert max(found.detached) < 1.1 * found.detached[0]  # the state that a chunk began with
    return [f"{found.kept[-1] / found.kept[0]:.0f} times"]


def biases():
    assert gates("LSTM", bias=2.0, steps=60).end is None
    return [f"{gates('LSTM', bias=0.0, steps=60).end} steps back"]


def sizes_of_input():
    assert gates("RNN", "orthogonal", steps=60, size=0.01).end is None
    return [f"{gates('RNN', 'orthogonal', steps=60, size=3).end} steps back"]


def chrono():
    return [number(gates("LSTM", begin="chrono", steps=60).whole[-1])]


def room():
    return [number(bottleneck(8, 0.95, 40).total), "At most 8"]


def drowned():
    return [number(bottleneck(8, 0.95, 40, 3).total)]


def larger_radius():
    last = {name: norms[-1] for name, norms in ways(60, 1.5).norms.items()}
    return [number(last["recurrence"]), number(last["attention"], 2)]


def residual_grows():
    return [number(ways(60, share=1.0).norms["residual"][-1])]


def highway_biases():
    return [number(ways(60, bias=b).norms["highway"][-1]) for b in (2, 6)]


@pytest.fixture(scope="module")
def trained():
    *_, tick = prepare(updates=3)
    return tick.frame


def cold_draw(trained):
    zero = next_symbols(trained, "The ", 0, None)
    assert hesitation(zero) == 1
    assert zero == next_symbols(trained, "The ", 1.3, 1)
    return ["Among 1."]


def temperature_is_not_the_model(trained):
    assert next_symbols(trained, "The ", 2, None) != next_symbols(trained, "The ", 0.5, None)
    return ["No."]


def its_options():
    assert hasattr(Settings(), "k")
    return ["--k"]


def untrained_is_short():
    torch.manual_seed(0)
    vocabulary, tokens = _text()
    x, y = (_ids(tokens[i : i + 128]).view(2, 64).t().contiguous() for i in (0, 1))
    biases = []
    for trained in (False, True):
        torch.manual_seed(1)
        model = LanguageModel(vocabulary.size, "rnn", 8, embedding=4).double()
        torch.nn.init.normal_(model.output.weight, std=0.1)
        if trained:
            with torch.no_grad():  # what learning over distance does to the recurrent matrix
                torch.nn.init.orthogonal_(model.recurrent.weight_hh_l0)
        begun = next(learn("rnn", updates=1)).frame
        tick = next(measure(begun, model, x, y, 0, 99))
        biases.append(tick.frame.spectrum.bias_of(4))
    assert biases[0] < biases[1]
    return []


CHECKS = {
    "unrolled": (shares_shrink, a_tenth),
    "contraction": (where_it_ends, transient, tanh_against_linear),
    "by_hand": (first_term, only_w_y, by_way_of_later_steps),
    "remember_first": (starts_differ, a_larger_rate_is_no_cure),
    "clipping": (no_clip_acts, directions),
    "truncation": (exact_ones, mean_depth),
    "padding": (half_off, twenty_times),
    "gates": (biases, sizes_of_input, chrono),
    "bottleneck": (room, drowned),
    "attention": (larger_radius, residual_grows, highway_biases),
    "sampling": (cold_draw, temperature_is_not_the_model),
    "your_run": (its_options, untrained_is_short),
}
EACH = [(slug, n) for slug, checks in CHECKS.items() for n in range(len(checks))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
def test_every_page_has_exercises_and_every_answer_a_check(page):
    assert len(read_exercises()[page.slug]) == len(CHECKS[page.slug]) in (2, 3)
    shown = exercises(page.slug)
    assert shown.count("<details") == len(CHECKS[page.slug])
    assert f'layout.exercises("{page.slug}")' in page.file.read_text("utf-8")


@pytest.mark.parametrize(("slug", "place"), EACH, ids=lambda value: str(value))
def test_what_an_answer_says_comes_out(slug, place, request):
    check, answer = CHECKS[slug][place], read_exercises()[slug][place]["answer"]
    given = [request.getfixturevalue("trained")] if slug == "sampling" else []
    for said in check(*given):
        assert said in answer, f"{said!r} came out"

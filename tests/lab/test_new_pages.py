"""The lab's newer pages: gates, attention, padding, sampling, against what is known; in a browser."""

import asyncio
import math
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from bptt.lab import live, sampling
from bptt.lab import server as lab_server
from bptt.lab.bottleneck import draw_gradient, draw_shares, tell_ways, ways
from bptt.lab.contraction import draw_keeps, draw_ways, gates, tell_gates
from bptt.lab.live import ANSWER, charts
from bptt.lab.padding import draw_memory, draw_padding, habits, list_peaks, tell
from bptt.lab.pages import attention as attention_page
from bptt.lab.pages import gates as gates_page
from bptt.lab.pages import padding as padding_page
from bptt.lab.pages import sampling as sampling_page
from bptt.lab.server import BUILT
from bptt.models import token_loss
from bptt.probes.jacobians import MEMORY_LEFT

CELLS = ("RNN", "GRU", "LSTM")


@pytest.mark.parametrize("bias", [0.0, 4.0])
def test_along_an_lstms_cell_a_gate_held_fixed_is_the_factor(bias):
    """With recurrent weights of nothing the gates do not see the state, and the product is theirs."""
    found = gates("LSTM", "small", "one bias", bias, 30, 0.01)
    # Inputs and recurrent weights of 0.01 move a gate by under one hundredth.
    for k, (along, alone) in enumerate(zip(found.along, found.alone, strict=True), 1):
        assert along ** (1 / k) == pytest.approx(alone ** (1 / k), abs=0.02)
    assert found.keeps[0] == pytest.approx(1 / (1 + math.exp(-bias)), abs=0.01)


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_a_gate_nearer_one_keeps_more(cell):
    kept = [gates(cell, bias=bias, steps=30).whole[-1] for bias in (-2.0, 0.0, 2.0, 4.0)]
    assert kept == sorted(kept)
    assert gates(cell, begin="chrono", steps=60).end is None


def test_a_plain_rnn_has_no_gate_to_set():
    assert gates("RNN", bias=-2.0, steps=10).whole == gates("RNN", bias=6.0, steps=10).whole
    assert "no gate" in tell_gates(gates("RNN", steps=10))[0]


def test_memory_ends_by_the_longest_way():
    found = gates("LSTM", bias=0.0, steps=60)
    longest = [max(pair) for pair in zip(found.whole, found.along, strict=True)]
    assert longest[found.end - 1] < MEMORY_LEFT <= longest[found.end - 2]


def test_the_shortcuts_are_what_their_formulas_say():
    """Where next to nothing is let in, every factor is the identity: only slopes differ."""
    for kept in (ways(20, share=1e-9).norms["residual"], ways(20, bias=30.0).norms["highway"]):
        assert 0.5 < min(kept) <= max(kept) < 2
    short = ways(20, radius=0.5).norms["recurrence"]
    # A Jacobian shrinks by ρ at least; the slope where the input enters is between 0 and 1.
    assert short[-1] < 0.5**19 * 3


def test_attention_does_not_fall_with_the_distance_as_a_recurrence_does():
    found = ways(60)
    assert found.norms["attention"][-1] > 1e-3
    assert found.end("attention") is None
    assert found.end("recurrence") is not None


@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_the_state_and_lengths_do_not(cell):
    found = habits(cell, 15, 3, 5)
    assert found.lengths == 0.0
    assert found.off[0] == 0.0
    assert min(found.off[1:]) > 0.05


@pytest.mark.parametrize("cell", CELLS)
def test_a_graph_is_held_chunk_by_chunk(cell):
    found = habits(cell, 1, 8, 10)
    first, second, *others = [after - before for before, after in pairwise([0, *found.kept])]
    # The first chunk begins from zeros, which nobody keeps; each other one holds the state it began with.
    assert set(others) == {second}
    assert 0 <= second - first < first / 10
    assert found.detached == [first] + [second] * 7
    full, checkpointed, truncated = found.peaks.values()
    assert truncated < full / 4
    assert checkpointed < full / 2


@pytest.fixture(scope="module")
def trained():
    *_, tick = sampling.prepare(updates=40)
    assert tick.done == tick.total
    return tick.frame


def test_what_comes_next_is_what_is_drawn(trained):
    """Shares are softmax(logits / temperature), over the likeliest k, without the unknown symbol."""
    model, vocabulary = trained.model, trained.vocabulary
    tokens = torch.from_numpy(vocabulary.encode("The ").astype("int64"))
    with torch.no_grad():
        logits = model(tokens[:, None])[0][-1, 0].double()
    for temperature, top_k in ((1.0, None), (0.5, 3), (2.0, 1)):
        found = dict(sampling.next_symbols(trained, "The ", temperature, top_k))
        assert math.fsum(found.values()) == pytest.approx(1, rel=1e-12)
        assert len(found) == (top_k or vocabulary.size - 1)
        likeliest = next(iter(found))
        for symbol, share in found.items():
            apart = logits[vocabulary.encode(symbol)[0]] - logits[vocabulary.encode(likeliest)[0]]
            odds = share / found[likeliest]
            assert math.log(odds) == pytest.approx(float(apart) / temperature, abs=1e-5)


def test_hesitation_is_a_number_of_choices():
    assert sampling.hesitation([("a", 0.25)] * 4) == pytest.approx(4)
    assert sampling.hesitation([("a", 1.0)]) == 1


def test_the_cost_by_place_is_the_models(trained):
    tokens = torch.randint(1, trained.vocabulary.size, (2 * sampling.STEPS + 1,))
    warm, cold = sampling.score(trained.model, tokens)
    with torch.no_grad():
        x, y = tokens[:-1, None], tokens[1:, None]
        whole = trained.model(x)[0][sampling.STEPS :]
        fresh = trained.model(x[sampling.STEPS :])[0]
        for places, logits in ((warm, whole), (cold, fresh)):
            mean = math.fsum(places) / len(places)
            assert mean == pytest.approx(float(token_loss(logits, y[sampling.STEPS :])), rel=1e-5)


def test_warming_up_helps_at_the_beginning(trained):
    assert trained.cold[0] > trained.warm[0]
    assert trained.nats == pytest.approx(math.fsum(trained.warm) / len(trained.warm))


@pytest.mark.parametrize("bias", [-2.0, 6.0])
@pytest.mark.parametrize("cell", CELLS)
def test_the_ends_of_the_sliders_can_be_drawn(cell, bias):
    for steps, size in ((10, 0.01), (60, 3)):
        found = gates(cell, "Gaussian 1.5", "one bias", bias, steps, size)
        assert "nan" not in charts(draw_ways(found), draw_keeps(found)) + " ".join(
            tell_gates(found)
        )
    for radius, share, gate in ((0.5, 0.01, 0.0), (1.5, 1.0, 6.0)):
        other = ways(10, radius, gate, share, 3)
        assert "nan" not in charts(draw_gradient(other), draw_shares(other)) + " ".join(
            tell_ways(other)
        )
    kept = habits(cell, 1, 2, 5)
    drawn = charts(draw_padding(kept), draw_memory(kept)) + list_peaks(kept) + " ".join(tell(kept))
    assert "nan" not in drawn


def test_global_random_numbers_do_not_matter():
    made = (partial(gates, steps=10), partial(ways, 10), partial(habits, "GRU", 2, 2, 5))
    for make in made:
        torch.manual_seed(3)
        one = repr(make())
        torch.manual_seed(4)
        assert repr(make()) == one


@pytest.mark.timing
@pytest.mark.parametrize(
    "answer",
    [partial(gates, "LSTM", steps=60), partial(ways, 80), partial(habits, "LSTM", 40, 20, 20)],
    ids=["gates", "attention", "padding"],
)
def test_a_slider_is_answered_in_time(answer):
    taken = []
    for _ in range(5):
        begin = time.perf_counter()
        answer()
        taken.append(time.perf_counter() - begin)
    assert statistics.median(taken) < ANSWER


def test_the_notebooks_run_as_scripts():
    for page in (gates_page, attention_page, padding_page):
        _, names = page.app.run()
        assert names["found"] is not None


@pytest.mark.slow
def test_the_notebook_that_trains_runs_as_a_script():
    _, names = sampling_page.app.run()
    assert names["found"].model is not None


@pytest.mark.browser
def test_controls_of_gates_change_what_the_package_computes(open_page):
    lab = open_page("gates").wait("whole")
    assert lab.value("whole") == pytest.approx(gates(steps=40).whole, rel=1e-9)
    lab.press("bias", "ArrowRight", changes="whole")
    assert lab.value("keeps") == pytest.approx(gates(bias=0.5, steps=40).keeps, rel=1e-9)
    lab.choose("cell", "GRU", changes="whole")
    assert lab.value("along") is None
    lab.choose("begin", "chrono", changes="whole")
    assert lab.value("end") == gates("GRU", begin="chrono", steps=40).end


@pytest.mark.browser
def test_controls_of_attention_change_what_the_package_computes(open_page):
    lab = open_page("attention").wait("recurrence")
    lab.press("bias", "ArrowRight", changes="highway")
    assert lab.value("highway") == pytest.approx(ways(60, bias=4.5).norms["highway"], rel=1e-6)
    lab.press("radius", "ArrowRight", changes="recurrence")
    lab.press("share", "ArrowRight", changes="residual")
    found = ways(60, 1.1, 4.5, 0.1)
    assert lab.value("residual") == pytest.approx(found.norms["residual"], rel=1e-6)
    lab.choose("layers", "2", changes="attention")


@pytest.mark.browser
def test_controls_of_padding_change_what_the_package_computes(open_page):
    lab = open_page("padding").wait("off")
    assert lab.value("off") == pytest.approx(habits("GRU", 20, 12, 20).off, rel=1e-4)
    lab.press("padding", "ArrowLeft", changes="off")
    lab.press("chunks", "ArrowLeft", changes="kept")
    assert len(lab.value("kept")) == 11
    lab.press("chunk", "ArrowLeft", changes="kept")
    lab.choose("cell", "RNN", changes="off")
    assert lab.value("lengths") == 0.0


@pytest.mark.browser
def test_controls_of_sampling_change_what_is_drawn(open_page):
    lab = open_page("sampling").wait("next")
    nats = lab.value("nats")
    assert lab.press("temperature", "Home", changes="hesitation") == 1.0
    lab.press("temperature", "End", changes="hesitation")
    assert lab.pick("top_k", "2", changes="next")
    assert len(lab.value("next")) == 2
    lab.choose("warm_up", "one letter", changes="next")
    assert lab.press("draw", "ArrowRight", changes="written")
    assert lab.value("nats") == nats


@pytest.mark.browser
def test_a_page_leads_to_its_chapter_of_the_built_course(open_page, server):
    """Where the documentation is not built beside the source, the chapter's file is named instead."""
    lab = open_page("gates").wait("whole")
    lead = lab.page.locator(".lead").inner_text()
    if not (BUILT / "course" / "gates.html").is_file():
        assert "docs/course/gates.md" in lead
        return
    link = lab.page.get_by_role("link", name="chapter 7 of the course")
    lab.page.goto(server.rstrip("/") + link.get_attribute("href"))
    assert lab.page.get_by_role("heading", level=1).inner_text().startswith("7. Starts and gates")
    first = lab.page.locator("details.answer").first
    first.locator("summary").press("Enter")
    assert first.locator("div.printed").first.is_visible()


def test_the_built_documentation_is_served_where_it_is(monkeypatch, tmp_path):
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "gates.html").write_text("<h1>here</h1>")
    for place, found in ((tmp_path, 200), (tmp_path / "missing", 404)):
        monkeypatch.setattr(lab_server, "BUILT", place)
        monkeypatch.setattr(live, "BUILT", place)

        async def nothing(scope, receive, send):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        app = lab_server.build(SimpleNamespace(app=nothing))
        with ThreadPoolExecutor(
            1
        ) as pool:  # the browser's tests leave a loop running in this thread
            said = pool.submit(asyncio.run, status(app, "/docs/course/gates.html")).result()
        assert said == found
        assert ("<a href" in live.chapter("gates")) == (found == 200)
        assert "chapter 7 of the course" in live.chapter("gates")


async def status(app, path):
    """What the lab answers to a request from this machine."""
    said = []

    async def receive():
        await asyncio.Event().wait()  # nobody goes away

    async def send(message):
        said.append(message)

    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "scheme": "http", "http_version": "1.1",
        "headers": [(b"host", b"127.0.0.1")],
        "server": ("127.0.0.1", 1), "client": ("127.0.0.1", 2),
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 20)
    return said[0]["status"]

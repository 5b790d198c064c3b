"""What is drawn is what was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import bptt
from bptt import probes
from bptt.errors import ArgumentError, DependencyError, RunError
from bptt.probes.watch import WatchError
from bptt.recurrence import trace
from bptt.report.chart import INK
from bptt.report.chart_figure import panels, style, to_svg
from bptt.training import Update, train
from small_runs import small


def watched(model: nn.Module | None = None) -> bptt.Flow:
    model = nn.GRU(3, 5) if model is None else model
    with bptt.watch(model) as flow:
        model(torch.randn(30, 2, 3))[0].square().mean().backward()
    return flow


def test_the_curves_are_the_numbers() -> None:
    flow = watched()
    left, middle, right = bptt.plot(flow).axes
    norms = flow.spectrum.norms.numpy()
    drawn = left.lines[0].get_ydata()
    # A ratio of doubles, drawn as it is.
    np.testing.assert_allclose(drawn, norms[: len(drawn)] / norms.max(), rtol=1e-12)
    marks = [line.get_xdata()[0] for line in left.lines[1:]]
    assert marks == [flow.horizon, flow.spectrum.horizon(0.01)]
    bias = flow.spectrum.measured_bias.numpy()
    curve = middle.lines[0].get_ydata()
    assert np.array_equal(curve[bias > 1e-4], bias[bias > 1e-4])
    assert np.isnan(curve[-1]), "a bias of 0 has no place on a logarithmic axis"
    assert np.array_equal(right.lines[0].get_ydata(), flow.spectrum.measured_cosine.numpy())
    assert f"horizon 5 %: {flow.horizon}" in [t.get_text() for t in left.get_legend().get_texts()]


def test_an_lstm_shows_both_states() -> None:
    labels = bptt.plot(watched(nn.LSTM(3, 5))).axes[0].get_legend_handles_labels()[1]
    assert {"all states", "h_l0", "c_l0"} < set(labels)


def test_one_module_of_several() -> None:
    flow = watched(nn.GRU(3, 5, bidirectional=True))
    assert len(bptt.plot(flow.modules[1]).axes) == 3


@pytest.mark.parametrize("steps", [1, 2])
def test_hardly_any_steps(steps: int) -> None:
    model = nn.GRU(3, 5)
    with bptt.watch(model) as flow:
        model(torch.randn(steps, 1, 3))[0].sum().backward()
    bptt.plot(flow).canvas.draw()


def test_wrong_use(monkeypatch) -> None:
    with pytest.raises(ArgumentError, match=r"bptt\.watch"):
        bptt.plot(3)
    with pytest.raises(WatchError):
        bptt.plot(bptt.Flow())
    exploded = nn.RNN(3, 4, nonlinearity="relu")
    with torch.no_grad():
        exploded.weight_hh_l0.fill_(1e9)
    with pytest.raises(ArgumentError, match="overflowed"):
        bptt.plot(watched(exploded))
    flow = watched()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(DependencyError, match="pip install matplotlib"):
        bptt.plot(flow)


def test_the_users_own_look_is_left_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    bptt.plot(watched())
    assert dict(matplotlib.rcParams) == before


def test_svg_takes_the_pages_ink_and_has_ids_of_its_own() -> None:
    with style() as figure:
        made, (axes,) = panels(figure, 1)
        axes.plot([1, 2], [3, 4])
        one, two = to_svg(made, "one"), to_svg(made, "two")
    assert INK not in one
    assert "currentColor" in one
    assert 'id="one-' in one
    assert 'id="one-' not in two
    assert one.replace("one-", "two-") == two, "the same figure gives the same bytes"
    assert one.startswith("<svg")
    assert " width=" not in one[: one.index(">")]


def results() -> dict[str, object]:
    """One of everything that a probe returns, by the titles of its panels."""
    torch.manual_seed(0)
    (gru,) = trace(nn.GRU(3, 5, num_layers=2), torch.randn(20, 4, 3))
    (rnn,) = trace(nn.RNN(3, 5), torch.randn(20, 4, 3))
    (lstm,) = trace(nn.LSTM(3, 5), torch.randn(20, 1, 3))
    last = torch.zeros(20, 4, 5)
    last[-1] = 1.0
    batch = torch.randn(20, 4, 3), torch.randn(20, 4, 5)
    metrics = [{"step": n, "loss": 1 / n, "bits": 2 / n, "norm": 1.0} for n in range(1, 9)]
    update = Update(0.5, 2.0, 1.0, True, 1, None, True)
    return {
        "Gradient by step": probes.state_gradients(rnn, (last,)),
        "Gradient by step ": probes.state_gradients(lstm, (last[:, :1], last[:, :1])),
        "Products of Jacobians, Jacobian spectrum": probes.jacobian_products(rnn, 7),
        "Products of Jacobians, Jacobian spectrum ": probes.jacobian_products(lstm, 7),
        "Jacobian spectrum": probes.lyapunov_spectrum(rnn),
        "Gates and saturation, layer 0, Gates and saturation, layer 1": probes.saturation(gru),
        "Gates and saturation": probes.saturation(rnn),
        "Memory of the input": probes.capacity(rnn, 5),
        "Gradient by lag, Bias of the truncated gradient, Cosine with the full gradient": (
            watched().spectrum
        ),
        "Loss, Gradient norm": metrics,
        "Loss, Gradient norm ": [update, update],
        "Loss": [2.0, torch.tensor(1.0), np.float32(0.5), float("nan")],
        "Gradient by lag, Bias of the truncated gradient, Cosine with the full gradient, "
        "Products of Jacobians, Jacobian spectrum, Gates and saturation, Memory of the input": (
            bptt.diagnose(nn.GRU(3, 5), batch, nn.functional.mse_loss)
        ),
    }


RESULTS = results()


@pytest.mark.parametrize("titles", RESULTS, ids=[f"{n} {t[:30]}" for n, t in enumerate(RESULTS)])
def test_whatever_a_probe_returns_is_drawn(titles: str) -> None:
    figure = bptt.plot(RESULTS[titles])
    assert ", ".join(axes.get_title(loc="left") for axes in figure.axes) == titles.strip()
    figure.canvas.draw()


def test_every_result_of_a_probe_has_its_picture() -> None:
    drawn = {type(result).__name__ for result in RESULTS.values()}
    kinds = {name for name in probes.__all__ if isinstance(getattr(probes, name), type)}
    # Parts of a result, a text, which bptt.plot(flow, on=text) draws, and a word with its numbers.
    assert kinds - {"Gate", "Unit", "Reading", "Verdict"} <= drawn


def test_state_gradients_are_drawn_as_they_were_measured() -> None:
    found = RESULTS["Gradient by step"]
    axes = bptt.plot(found).axes[0]
    assert np.allclose(axes.lines[-1].get_ydata(), found.together.mean(1).numpy())
    assert len(axes.lines) == 4 + 1
    both = RESULTS["Gradient by step "]
    labels = bptt.plot(both).axes[0].get_legend_handles_labels()[1]
    assert labels == ["all states", "h_l0", "c_l0"]


def test_a_run_folder_is_drawn(tmp_path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a rose is a rose is a rose. " * 40)
    run = train(small(str(text), tmp_path, steps=9)).run
    for place in (run, str(run)):
        titles = [axes.get_title(loc="left") for axes in bptt.plot(place).axes]
        assert titles[:1] == ["Bias by truncation, over training"] or "Loss" in titles
    with pytest.raises(RunError, match="a run folder"):
        bptt.plot(tmp_path / "nothing")


@pytest.mark.parametrize("wrong", [3, None, [], [1.0, "x"], {}, nn.GRU(2, 2), torch.zeros(3)])
def test_what_cannot_be_drawn_is_refused_in_one_line_that_says_what_can(wrong) -> None:
    with pytest.raises(ArgumentError, match=r"bptt\.watch .* bptt\.probes.* run folder") as caught:
        bptt.plot(wrong)
    assert "\n" not in str(caught.value)


def test_numbers_out_of_range_and_texts_without_a_flow_are_refused() -> None:
    found = RESULTS["Gradient by step"]
    broken = replace(found, together=found.together * torch.inf)
    with pytest.raises(ArgumentError, match="finite numbers to draw, received StateGradients"):
        bptt.plot(broken)
    with pytest.raises(ArgumentError, match="a flow, to draw on a text, received StateGradients"):
        bptt.plot(found, on="a text")
    with pytest.raises(ArgumentError, match="something to draw"):
        bptt.plot([float("nan")])

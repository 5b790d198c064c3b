"""What is drawn is what was measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bptt
from bptt.errors import ArgumentError, DependencyError
from bptt.probes.watch import WatchError
from bptt.report.chart import INK
from bptt.report.chart_figure import panels, style, to_svg


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

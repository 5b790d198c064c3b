"""What each clip is, and what all of them do with what is not finite, and with nothing."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptt.errors import ArgumentError
from bptt.remedies import (
    AutoClip,
    ClipNorm,
    ClipUnits,
    ClipValue,
    Rescale,
    ZClip,
    build_clip,
    clip_norm,
)
from compare import assert_close

FORMS = ["norm:1", "value:0.5", "rescale:2", "auto:30", "z:1", "unit:0.1", "none"]


def one(*values):
    parameter = torch.zeros(len(values), dtype=torch.float64, requires_grad=True)
    parameter.grad = torch.tensor(values, dtype=torch.float64)
    return parameter


def warm(clip, calls=30):
    """As in the middle of a run, where every clip acts."""
    rng = np.random.default_rng(0)
    for _ in range(calls):
        clip([one(*rng.normal(size=3))])
    return clip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_changes_nothing_and_is_said(form, bad):
    clip = warm(build_clip(form))
    state = json.dumps(clip.state_dict())
    first, second = one(bad, 3.0), one(4.0)
    with torch.no_grad():
        first += 1
    before = first.detach().clone()
    done = clip([first, second, torch.zeros(3, requires_grad=True)])
    assert (done.finite, done.acted, done.verdict) == (False, False, "left: not finite")
    assert torch.equal(first.grad, torch.tensor([bad, 3.0]).double()) or bad != bad
    assert first.grad[1] == 3
    assert second.grad == 4
    assert_close(first.detach(), before, 0.0)
    assert json.dumps(clip.state_dict()) == state


@pytest.mark.parametrize("form", FORMS)
def test_zeros_stay_zeros(form):
    for clip in (build_clip(form), warm(build_clip(form))):
        parameter = one(0.0, 0.0)
        done = clip([parameter])
        assert (done.finite, done.acted) == (True, False)
        assert_close(parameter.grad, torch.zeros(2).double(), 0.0)


@pytest.mark.parametrize("form", FORMS)
def test_no_gradients(form):
    with pytest.raises(ArgumentError, match="backward"):
        build_clip(form)([torch.zeros(2, requires_grad=True)])


@pytest.mark.parametrize("form", FORMS)
def test_state_goes_on_as_if_nothing_had_happened(form):
    whole = warm(build_clip(form))
    fresh = build_clip(form)
    fresh.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for scale in (1.0, 50.0, 0.1):
        a, b = one(scale, 2 * scale), one(scale, 2 * scale)
        first, second = whole([a]), fresh([b])
        assert first.threshold == second.threshold
        assert_close(b.grad, a.grad, 0.0)


def test_state_of_another_clip_is_refused():
    with pytest.raises(ArgumentError, match="no state"):
        build_clip("norm:1").load_state_dict({"norms": [1.0]})


gradients = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6)


@given(gradients, st.floats(1e-2, 1e2))
def test_value_clips_every_element_alone(values, limit):
    parameter = one(*values)
    done = ClipValue(limit)([parameter])
    assert_close(parameter.grad, torch.tensor(np.clip(values, -limit, limit)), 0.0)
    assert float(done.share) == pytest.approx(np.mean(np.abs(values) > limit), abs=1e-6)


@given(gradients, st.floats(1e-2, 1e2))
def test_rescaling_keeps_the_direction_and_gives_the_norm(values, wanted):
    parameter = one(*values)
    before = parameter.grad.clone()
    norm = before.norm()
    if norm < 1e-150:  # its square underflows in the norm itself
        return
    Rescale(wanted)([parameter])
    # A norm, a division and a product: a few units of 2⁻⁵³.
    assert_close(parameter.grad.norm(), torch.tensor(wanted, dtype=torch.float64), 1e-14)
    assert_close(parameter.grad, before / norm * wanted, 1e-14)


@pytest.mark.parametrize("clip", [lambda t: ClipNorm(t), lambda t: lambda p: clip_norm(p, t)])
@pytest.mark.parametrize("threshold", [1e-7, 1e-3])
def test_a_norm_within_the_threshold_is_left_bit_for_bit(clip, threshold):
    for share in (0.5, 0.99999, 1.0):
        parameter = one(share * threshold)
        done = clip(threshold)([parameter])
        assert (done.acted, float(parameter.grad)) == (False, share * threshold)
    parameter = one(2 * threshold)
    assert clip(threshold)([parameter]).acted
    assert 0 < float(parameter.grad) <= threshold


def test_rescaling_a_subnormal_gradient():
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.tensor([1e-40])
    assert Rescale(1.0)([parameter]).acted
    assert_close(parameter.grad, torch.ones(1), 1e-6)


def rows(weights, gradient):
    parameter = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    parameter.grad = torch.tensor(gradient, dtype=torch.float64)
    return parameter


@given(st.integers(0, 99), st.floats(0.01, 2), st.floats(1e-2, 1e2))
def test_units_keep_their_share_and_scale_with_their_weights(seed, ratio, factor):
    rng = np.random.default_rng(seed)
    weights, gradient = 1 + rng.random((4, 3)), rng.normal(size=(4, 3))
    parameter, scaled = rows(weights, gradient), rows(factor * weights, factor * gradient)
    done = ClipUnits(ratio, floor=1e-9)([parameter])
    ClipUnits(ratio, floor=1e-9)([scaled])
    most = ratio * np.linalg.norm(weights, axis=1)
    length = np.linalg.norm(gradient, axis=1)
    expected = gradient * np.minimum(1, most / length)[:, None]
    # Norms of three numbers, one division, one product.
    assert_close(parameter.grad, torch.tensor(expected), 1e-14)
    assert_close(scaled.grad / factor, torch.tensor(expected), 1e-14)
    assert float(done.share) == np.mean(length > most)


def test_units_of_zero_weights_can_still_move():
    parameter = rows([[0.0, 0.0]], [[3.0, 4.0]])
    ClipUnits(0.5, floor=0.1)([parameter])
    assert_close(parameter.grad, torch.tensor([[0.03, 0.04]], dtype=torch.float64), 1e-14)
    bias = rows([3.0, 4.0], [6.0, 8.0])  # a vector is one unit
    ClipUnits(0.1)([bias])
    assert_close(bias.grad, torch.tensor([0.3, 0.4], dtype=torch.float64), 1e-14)


@given(st.integers(0, 99), st.floats(5, 95), st.floats(1e-3, 1e3))
def test_auto_clips_to_the_percentile_and_forgets_the_scale_of_the_loss(seed, percentile, factor):
    norms = np.random.default_rng(seed).exponential(size=20)
    clip, scaled = AutoClip(percentile), AutoClip(percentile)
    for t, norm in enumerate(norms):
        a, b = one(norm, 0.0), one(factor * norm, 0.0)
        done = clip([a])
        scaled([b])
        threshold = np.percentile(norms[: t + 1], percentile)
        assert done.threshold == pytest.approx(threshold, rel=1e-12)
        expected = torch.tensor([min(norm, threshold), 0.0], dtype=torch.float64)
        assert_close(a.grad, expected, 1e-12)
        assert_close(b.grad / factor, expected, 1e-12)


def test_auto_keeps_a_window():
    clip = AutoClip(100, window=2)
    for norm in (9.0, 1.0, 2.0):
        done = clip([one(norm)])
    assert done.threshold == 2
    assert clip.state_dict() == {"norms": [1.0, 2.0]}


@given(st.integers(0, 99), st.floats(1e-3, 1e3))
def test_z_clips_what_stands_out(seed, factor):
    """Against the recurrence written out; and scaling the loss scales everything."""
    norms = np.random.default_rng(seed).exponential(size=40) + 0.1
    norms[30] = 50.0
    clip, scaled, decay, z = ZClip(2.0, 0.9, 10), ZClip(2.0, 0.9, 10), 0.9, 2.0
    mean, variance = norms[:10].mean(), norms[:10].var()
    for t, norm in enumerate(norms):
        a, b = one(norm), one(factor * norm)
        done = clip([a])
        scaled([b])
        if t < 10:
            assert not done.acted
            assert a.grad == norm
            continue
        deviation = variance**0.5
        score = (norm - mean) / deviation
        after = mean + deviation * z * z / score if score > z else norm
        # Sums over 40 steps, no cancellation beyond a digit or two.
        assert float(a.grad) == pytest.approx(after, rel=1e-10)
        assert float(b.grad) == pytest.approx(factor * after, rel=1e-10)
        assert done.acted == (score > z)
        mean = decay * mean + (1 - decay) * after
        variance = decay * variance + (1 - decay) * (after - mean) ** 2


def test_equal_norms_have_no_deviation_and_are_left():
    clip = ZClip(warm_up=2)
    for _ in range(5):
        parameter = one(3.0)
        assert not clip([parameter]).acted
        assert parameter.grad == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClipValue(0.0),
        lambda: Rescale(float("inf")),
        lambda: ClipUnits(floor=0.0),
        lambda: AutoClip(0.0),
        lambda: AutoClip(10, window=0),
        lambda: ZClip(decay=1.0),
        lambda: ZClip(warm_up=1),
        lambda: ZClip(z=float("nan")),
    ],
)
def test_bad_options(make):
    with pytest.raises(ArgumentError):
        make()

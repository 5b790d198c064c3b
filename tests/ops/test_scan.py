"""The scan against a plain loop, in every way it is computed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptt.ops.scan import _odd_even, _plain, scan
from compare import assert_close

# Both ways add the same T terms in another order; |h| is the unit, and T ≤ 300 roundings of 1e-16.
TOL = 1e-12
DTYPES = [torch.float64, torch.complex128]


def problem(steps, lanes, width, dtype, grad=False):
    """Coefficients within the unit disc, some of them exactly zero and some tiny."""
    a = torch.rand(steps, lanes, width, dtype=torch.float64)
    a = torch.where(a < 0.2, a * 1e-200, a)
    a = a.masked_fill(torch.rand_like(a) < 0.1, 0)
    if dtype.is_complex:
        a = torch.polar(a, torch.randn_like(a))
    b, h0 = torch.randn(steps, lanes, width, dtype=dtype), torch.randn(lanes, width, dtype=dtype)
    return tuple(v.requires_grad_(grad) for v in (a, b, h0))


@given(
    # From 64 steps on, narrow problems take the odd-even scan, wide ones the loop.
    steps=st.sampled_from([1, 2, 3, 63, 64, 65, 100, 127, 300]),
    lanes=st.integers(1, 3),
    width=st.sampled_from([1, 5, 700]),
    dtype=st.sampled_from(DTYPES),
    cuts=st.booleans(),
)
def test_states_and_gradients_equal_the_loop(steps, lanes, width, dtype, cuts):
    inputs = problem(steps, lanes, width, dtype, grad=True)
    cut = torch.rand(steps, lanes) < 0.3 if cuts else None
    weight = torch.randn(steps, lanes, width, dtype=dtype)
    results = []
    for way in (scan, _plain):
        y = way(*inputs, cut)
        loss = (y * weight).abs().square().sum() + (y * weight).real.sum()
        results.append([y.detach(), torch.autograd.grad(loss, inputs)])
    assert_close(*results, TOL)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 31])
def test_odd_even_at_every_length(steps):
    a, b, h0 = problem(steps, 2, 3, torch.float64)
    assert_close(_odd_even(a, b), _plain(a, b, torch.zeros_like(h0), None), TOL)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("steps", "width"), [(1, 2), (5, 3), (64, 1)])
def test_first_and_second_derivatives_by_finite_differences(dtype, steps, width):
    inputs = problem(steps, 1, width, dtype, grad=True)
    assert torch.autograd.gradcheck(scan, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(scan, inputs, fast_mode=True)


def test_second_derivatives_stop_at_a_cut_as_detach_does():
    inputs = problem(6, 2, 3, torch.float64, grad=True)
    cut = torch.zeros(6, 2, dtype=torch.bool)
    cut[0, 1] = cut[3] = True
    results = []
    for way in (scan, _plain):
        first = torch.autograd.grad(way(*inputs, cut).square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        results.append([first, second])
    assert_close(*results, TOL)


def test_products_that_underflow_cost_no_accuracy():
    """400 factors of 1e-3 have no product in float64; a scan that divides by it would be NaN."""
    a = torch.full((400, 1, 2), 1e-3, dtype=torch.float64)
    b = torch.ones_like(a)
    expected = torch.full((1, 2), 1 / (1 - 1e-3), dtype=torch.float64)
    assert_close(scan(a, b, torch.zeros(1, 2, dtype=torch.float64))[-1], expected, 1e-15)


# torch's forward-mode decompositions are themselves built by the deprecated torch.jit.script.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_torch_func_and_forward_mode():
    a, b, h0 = problem(4, 2, 3, torch.float64)
    lanes = torch.func.vmap(
        lambda a, b, h: scan(a[:, None], b[:, None], h[None])[:, 0], (1, 1, 0), 1
    )
    assert_close(lanes(a, b, h0), scan(a, b, h0), TOL)
    jacobian = torch.func.jacfwd(lambda h: scan(a, b, h)[-1])(h0)
    expected = torch.autograd.functional.jacobian(lambda h: scan(a, b, h)[-1], h0)
    assert_close(jacobian, expected, TOL)


def test_several_cotangents_in_one_pass():
    inputs = problem(70, 1, 2, torch.float64, grad=True)
    y = scan(*inputs)
    cotangents = torch.randn(3, *y.shape, dtype=torch.float64)
    together = torch.autograd.grad(y, inputs, cotangents, is_grads_batched=True, retain_graph=True)
    alone = [torch.autograd.grad(y, inputs, c, retain_graph=True) for c in cotangents]
    assert_close(together, [torch.stack(parts) for parts in zip(*alone, strict=True)], TOL)

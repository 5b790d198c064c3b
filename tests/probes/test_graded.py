"""The gradient split by lag, of any loop, against brute force: each loss by itself, the older cut off."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import bptt
from bptt import carry
from compare import assert_close
from loops_to_watch import LOOPS, B, I, T

LIMIT = 1e-10  # of float64, over some hundred operations

LOSSES = {
    "all": lambda y, w: (y * w).sum(),
    "last": lambda y, w: (y[-1] * w[-1]).sum(),
    "some": lambda y, w: (y[1::2] * w[1::2]).square().sum(),
    "mean": lambda y, w: (y * w).mean().square(),
}


def run(model, x: Tensor, mark=None) -> Tensor:
    torch.manual_seed(7)  # the same masks each time
    return model(x) if mark is None else model(x, mark)


def oracle(model, x: Tensor, loss) -> tuple[Tensor, Tensor, Tensor]:
    """bias (T,), cosine (T,), norms (T,) by brute force."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    named = dict(model.named_parameters())
    parameters = [named[n] for n in names if n.split(".")[0] in model.recurrent]
    leaves: list[tuple[int, Tensor]] = []

    def leaf(state, time):
        def one(value):
            leaves.append((time, value.detach().requires_grad_()))
            return leaves[-1][1].clone()

        return carry.apply(one, state)

    loss(run(model, x, leaf)).backward()
    direct = [(time, v.grad) for time, v in leaves]
    last = max(time for time, _ in direct) + 1
    full, parts, norms = None, [], torch.zeros(last, dtype=torch.float64)
    for k in range(1, last + 1):
        total = [torch.zeros_like(p) for p in parameters]
        for t in range(last):
            passed: list[tuple[int, Tensor, Tensor]] = []

            def cut(state, time, t=t, k=k, passed=passed):
                def one(value):
                    out = value.detach() if time <= t - k else value.clone()
                    passed.append((time, value, out))
                    return out.clone()  # it may be written to

                return carry.apply(one, state)

            run(model, x, cut)
            pairs = [
                (raw, g) for (time, raw, _), (_, g) in zip(passed, direct, strict=True)
                if time == t and g is not None and raw.requires_grad
            ]  # fmt: skip
            if not pairs:
                continue
            outs = [out for _, _, out in passed if out.requires_grad]
            found = torch.autograd.grad(
                [r for r, _ in pairs], [*parameters, *outs], [g for _, g in pairs],
                allow_unused=True,
            )  # fmt: skip
            for place, g in enumerate(found[: len(parameters)]):
                if g is not None:
                    total[place] += g
            if k == last:
                reached = iter(found[len(parameters) :])
                for (time, _, out), (_, own) in zip(passed, direct, strict=True):
                    g = next(reached) if out.requires_grad else None
                    if time == t and own is not None:
                        g = own if g is None else g + own
                    if g is not None and time <= t:
                        norms[t - time] += g.square().sum()
        parts.append(torch.cat([g.flatten() for g in total]))
    full = parts[-1]
    bias = torch.stack([(p - full).norm() / full.norm() for p in parts])
    cosine = torch.stack([torch.nan_to_num(p @ full / p.norm() / full.norm()) for p in parts])
    return bias, cosine, norms.sqrt()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", LOOPS)
def test_bias_cosine_and_norms_are_those_of_brute_force(name: str, kind: str) -> None:
    torch.manual_seed(3)
    model = LOOPS[name]().double()
    x = torch.randn(T, B, I, dtype=torch.float64)
    y = run(model, x).detach()
    weight = torch.randn_like(y)

    def loss(y: Tensor) -> Tensor:
        return LOSSES[kind](y, weight)

    torch.manual_seed(3)
    twin = LOOPS[name]().double()
    loss(run(twin, x)).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with bptt.watch(model, at="every") as flow:
            loss(run(model, x)).backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.equal(p.grad, q.grad)
    bias, cosine, norms = oracle(twin, x, loss)
    spectrum = flow.joint
    assert flow.method == ("layers" if name in ("nothing", "skipping") else "graded")
    assert spectrum.steps == len(bias)
    assert_close(spectrum.measured_bias, bias, LIMIT, floor=1.0)
    assert_close(spectrum.measured_cosine, cosine, LIMIT, floor=1.0)
    # The state that a loop ends with is seen where a tick stands behind the loop.
    first = 1 if name == "hand, no tick behind" else 0
    assert_close(spectrum.norms[first:], norms[first:], LIMIT, floor=float(norms.max()))
    assert flow.horizon == spectrum.horizon()

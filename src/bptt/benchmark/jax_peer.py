"""JAX as a peer: RNN and GRU as a jitted ``lax.scan``.

Limits: JAX runs on as many threads as it finds cores; the threads set for torch do not reach it.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch

from bptt.benchmark import layers
from bptt.benchmark.case import Case
from bptt.benchmark.contest import Contest, Results, Side


def contest(case: Case) -> Contest:
    """Our layer against the scan, in training or inference."""
    jax: Any = importlib.import_module("jax")
    base = layers.train(case) if case.mode == "train" else layers.infer(case)
    random = case.random()
    x = jax.numpy.asarray(case.input(random).numpy())
    shape = (case.steps, case.lanes, case.hidden)
    dy = jax.numpy.asarray(torch.randn(shape, generator=random).numpy())
    names, tensors = zip(*case.layers()[1].named_parameters(), strict=True)
    weights = tuple(jax.numpy.asarray(t.detach().numpy()) for t in tensors)
    forward = _scan(jax, case)

    def train(x, weights, dy):
        outputs, pull = jax.vjp(forward, x, weights)
        zeros = jax.numpy.zeros_like(outputs[1])
        return outputs, pull((dy, zeros))

    if case.mode == "train":
        compiled = jax.jit(train)
        arguments: tuple[Any, ...] = (x, weights, dy)
    else:
        compiled, arguments = jax.jit(forward), (x, weights)

    def run():
        return jax.block_until_ready(compiled(*arguments))

    def results() -> Results:
        returned = run()
        (y, h), gradients = returned if case.mode == "train" else (returned, None)
        found = {"y": y, "h": h[None]}
        if gradients is not None:
            dx, dweights = gradients
            labels = [f"gradient of {n}" for n in ("x", *names)]
            found |= dict(zip(labels, (dx, *dweights), strict=True))
        return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}

    return Contest(base.ours, Side(run, results), base.flops, base.terms)


def _scan(jax: Any, case: Case):
    """``(x, weights) -> (y, h_T)``, the input product of all steps taken at once."""
    jnp = jax.numpy

    def forward(x, weights):
        w_ih, w_hh, b_ih, b_hh = weights

        def rnn(h, xp):
            h = jnp.tanh(xp + h @ w_hh.T + b_hh)
            return h, h

        def gru(h, xp):
            xr, xz, xn = jnp.split(xp, 3, -1)
            hr, hz, hn = jnp.split(h @ w_hh.T + b_hh, 3, -1)
            r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
            n = jnp.tanh(xn + r * hn)
            h = n + z * (h - n)
            return h, h

        start = jnp.zeros((case.lanes, case.hidden), x.dtype)
        h, y = jax.lax.scan(rnn if case.cell == "rnn" else gru, start, x @ w_ih.T + b_ih)
        return y, h

    return forward

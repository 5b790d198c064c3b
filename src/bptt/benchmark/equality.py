"""Equal results first: the check without which no figure is printed."""

from __future__ import annotations

import math

import torch

from bptt.benchmark.contest import Results
from bptt.errors import BpttError


class UnequalError(BpttError, ArithmeticError):
    """Two implementations that should agree do not; nothing they took may be reported."""


def tolerance(terms: int) -> float:
    """The largest error that float32 explains, relative to a tensor's largest magnitude.

    Every number compared is a sum of at most ``terms`` products, added up in another order by either
    side. Rounding errors of such sums grow like a random walk, ε·√terms with ε = 2⁻²³; the steps
    behind it (H products each) shrink the errors they inherit, as weights drawn from ±1/√H do.
    A factor of 16 covers the deviation of the largest among a million entries (about five), tanh and
    sigmoid good to a few ulp, and a sum that cancels to a part of its terms. A gradient with one
    term missing, or with one step out of place, is off by 10⁻² and more.
    """
    return 16 * torch.finfo(torch.float32).eps * math.sqrt(terms)


def error(ours: torch.Tensor, peer: torch.Tensor) -> float:
    """max |ours − peer| / max |peer|, in float64; infinite where it cannot be told.

    Where the peer is zero throughout (the gradient of W_hh when every sequence has one step), so
    must ours be.
    """
    if ours.shape != peer.shape:
        return math.inf
    ours, peer = ours.detach().double(), peer.detach().double()
    scale = peer.abs().max().item()
    worst = (ours - peer).abs().max().item()
    if worst == 0:
        return 0.0
    return worst / scale if scale and math.isfinite(worst) else math.inf


def check(ours: Results, peer: Results, limit: float, peer_name: str) -> float:
    """Compare all results by name.

    Returns:
        The largest of their errors.

    Raises:
        UnequalError: a result is missing on one side, is not finite, or is further from the peer's
            than ``limit``.
    """
    if ours.keys() != peer.keys() or not ours:
        raise UnequalError(
            f"the results that {peer_name} has: {', '.join(peer)}",
            ", ".join(ours) or "none",
            "compare the same quantities on both sides",
        )
    errors = {name: error(ours[name], peer[name]) for name in ours}
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= limit:
        raise UnequalError(
            f"{worst} equal to {peer_name}'s within {limit:.1e} of its largest magnitude",
            f"an error of {errors[worst]:.1e}",
            "no time is reported for unequal results; run the tests, and report this",
        )
    return errors[worst]

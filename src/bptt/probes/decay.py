"""One factor per step out of a gradient's fall by lag."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Lags that carry less than this share of the largest norm do not tell what the gradient does.
CARRIES = 1e-3
# Slopes are taken between pairs: no more points than this, evenly spaced, keep that quick.
POINTS = 128


def fit_decay(factors: Tensor, norms: Tensor) -> float:
    """The factor by which the gradient changes per step back.

    exp of the Theil–Sen slope of log Π_{i<j} factors_i against the lag j: the median of the slopes
    between all pairs of lags, which a few odd lags cannot move. Lags count up to the last one whose
    norm is a thousandth of the largest.

    Args:
        factors: ``(lags - 1,)`` the change from lag j to j + 1, among steps that have a step before.
        norms: ``(lags,)``.

    Returns:
        The factor; NaN where there are fewer than two lags, 0 where nothing passes one step.

    Example:
        >>> fit_decay(torch.full((9,), 0.5), 0.5 ** torch.arange(10.0))
        0.5

    Source: P. K. Sen, 1968, Estimates of the regression coefficient based on Kendall's tau.
    """
    if not len(factors):
        return math.nan
    carries = (norms >= CARRIES * norms.max()).nonzero()
    last = min(int(carries[-1, 0]) if len(carries) else 0, len(factors))
    logs = factors[: max(last, 1)].double().log()
    good = logs.isfinite()
    if not bool(good[0]):
        return float(factors[0])
    stop = int(good.long().cumprod(0).sum())
    level = torch.cat([logs.new_zeros(1), logs[:stop].cumsum(0)])
    at = torch.arange(len(level), dtype=torch.float64)
    if len(level) > POINTS:
        kept = torch.linspace(0, len(level) - 1, POINTS).long()
        level, at = level[kept], at[kept]
    i, j = torch.triu_indices(len(level), len(level), 1)
    slopes = (level[j] - level[i]) / (at[j] - at[i])
    # torch's median is the lower of the two middle ones; the quantile takes their mean.
    return math.exp(float(slopes.quantile(0.5)))

"""What the recurrence alone does to a gradient: products of Jacobians, singular values, exponents."""

from __future__ import annotations

from typing import Any

import numpy as np

from bptt.probes import JacobianProducts, Lyapunov
from bptt.report.style import BLUE, GREEN, INK, ORANGE


def draw_products(axes: Any, found: JacobianProducts) -> None:
    """The largest singular value of J_t … J_{t-k+1} against k: median and range over the ends."""
    norms = found.norms.numpy()
    norms = norms[:, np.isfinite(norms).any(0)]
    steps = np.arange(1, norms.shape[1] + 1)
    axes.fill_between(
        steps, np.nanmin(norms, 0), np.nanmax(norms, 0), color=BLUE, alpha=0.2, linewidth=0
    )
    axes.semilogy(steps, np.nanmedian(norms, 0), color=BLUE, label="largest singular value")
    floor = max(1e-12, 1e-3 * float(np.nanmin(norms)))
    middle = np.nanmedian(found.singular_values.numpy()[:, : len(steps)], axis=(0, 2))
    axes.semilogy(steps, np.where(middle > floor, middle, np.nan), color=GREEN, label="middle one")
    if found.bound is not None:
        bound = found.bound.numpy()[: len(steps)]
        shown = bound <= 1e3 * np.nanmax(norms)  # the bound soon says nothing
        axes.semilogy(
            steps[shown], bound[shown], color=INK, linestyle=":", label="bound (γ σmax)^k"
        )
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.legend(loc="lower right", handlelength=1.4)
    axes.set_ylim(bottom=floor)
    axes.set(title="Products of Jacobians", xlabel="steps back", ylabel="gain")


def draw_spectrum(axes: Any, found: JacobianProducts | None, exponents: Lyapunov | None) -> None:
    """Singular values of one Jacobian, ranked, beside the long-run factors e^λ of each direction."""
    if found is not None:
        values = np.nanmedian(found.singular_values.numpy()[:, 0], 0)
        axes.plot(range(1, len(values) + 1), values, color=BLUE, label="one step: singular values")
    if exponents is not None:
        factors = exponents.exponents.exp().numpy()
        axes.plot(
            range(1, len(factors) + 1), factors, color=ORANGE, label="long run: e^λ (Lyapunov)"
        )
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", handlelength=1.4)
    axes.set(title="Jacobian spectrum", xlabel="direction, ranked", ylabel="factor per step")

"""Remedies: starts, clips, regularisers, orthogonal recurrences; each switched on with one word."""

from bptt.choices import STARTS
from bptt.remedies.adaptive_clipping import AutoClip, ZClip, build_clip
from bptt.remedies.clips import (
    Clip,
    ClipNorm,
    Clipped,
    ClipUnits,
    ClipValue,
    NoClip,
    Rescale,
    clip_norm,
)
from bptt.remedies.penalties import Floss, Omega, Regularised, Regulariser, build_regulariser
from bptt.remedies.starts import (
    OrthogonalGates,
    hold_orthogonal,
    start_chrono,
    start_forget_bias,
    start_irnn,
    start_recurrent,
)

__all__ = [
    "STARTS",
    "AutoClip",
    "Clip",
    "ClipNorm",
    "ClipUnits",
    "ClipValue",
    "Clipped",
    "Floss",
    "NoClip",
    "Omega",
    "OrthogonalGates",
    "Regularised",
    "Regulariser",
    "Rescale",
    "ZClip",
    "build_clip",
    "build_regulariser",
    "clip_norm",
    "hold_orthogonal",
    "start_chrono",
    "start_forget_bias",
    "start_irnn",
    "start_recurrent",
]

"""Remedies from one word: ``"norm:1"``, ``"auto:10"``, ``"omega:2"``."""

from __future__ import annotations

from collections.abc import Callable

from bptt.choices import CLIPS, REGULARISERS, clip_form, parse_form
from bptt.remedies.adaptive_clipping import AutoClip, ZClip
from bptt.remedies.clips import Clip, ClipNorm, ClipUnits, ClipValue, NoClip, Rescale
from bptt.remedies.penalties import Floss, Omega, Regulariser

_CLIPS: dict[str, Callable[[float], Clip]] = {
    "norm": ClipNorm,
    "value": ClipValue,
    "rescale": Rescale,
    "auto": AutoClip,
    "z": ZClip,
    "unit": ClipUnits,
}
_REGULARISERS: dict[str, Callable[[float], Regulariser]] = {"omega": Omega, "floss": Floss}


def build_clip(form: str | float | None) -> Clip:
    """A clip from its form.

    Args:
        form: ``"norm:1"``, ``"value:1"``, ``"rescale:1"``, ``"auto:10"`` (percentile), ``"z:2.5"``,
            ``"unit:0.01"`` (ratio), each with these numbers as defaults; a number is a norm;
            ``"none"`` or None measures only.

    Raises:
        ArgumentError: an unknown form, or a number out of range.

    Example:
        >>> build_clip("norm:0.5"), build_clip("auto"), build_clip(None)
        (ClipNorm(threshold=0.5), AutoClip(percentile=10.0, window=10000), NoClip())
    """
    name, number = parse_form(clip_form(form), CLIPS)
    return NoClip() if number is None else _CLIPS[name](number)


def build_regulariser(form: str | None) -> Regulariser | None:
    """A regulariser from its form: ``"omega:weight"`` or ``"floss:weight"``; None for ``"none"``.

    Raises:
        ArgumentError: an unknown form, or a weight that is not above 0.

    Example:
        >>> build_regulariser("omega:2")
        Omega(weight=2.0)
    """
    name, number = parse_form("none" if form is None else form, REGULARISERS)
    return None if number is None else _REGULARISERS[name](number)

"""What can be tried on a run's model: its own settings with one of them changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bptt.forms import clip_form
from bptt.training.build import build_model
from bptt.training.settings import Settings
from bptt.trials import Variant

CELLS = ("rnn", "gru", "lstm")


def run_variants(
    settings: Settings, vocabulary_size: int, *, steps: int, k: int | None
) -> tuple[Variant, ...]:
    """Starts, cells, clips and truncations beside what the run was trained with.

    Args:
        settings: of a run of a recurrent model.
        vocabulary_size: V.
        steps: T of the batches it is tried on: the memory a chrono start is spread over.
        k: steps its gradient is truncated to; None for all.
    """

    def variant(name: str, switch: str, k: int | None = k, **changed: Any) -> Variant:
        made = replace(settings, **changed)
        return Variant(name, switch, lambda: build_model(made, vocabulary_size), made.clip, k)

    found = [variant("as it is", "")]
    if settings.init != "orthogonal" and settings.cell in ("rnn", "rnn-relu", "gru", "lstm"):
        found.append(variant("orthogonal start", "--init orthogonal", init="orthogonal"))
    if settings.cell in ("gru", "lstm", "mingru") and steps > 2:
        word = f"chrono:{steps}"
        found.append(variant("chrono start", f"--init {word}", init=word, forget_bias=None))
    for cell in CELLS:
        if cell != settings.cell and (settings.init, settings.orthogonal) == ("default", False):
            found.append(variant(cell.upper(), f"--cell {cell}", cell=cell, forget_bias=None))
    if clip_form(settings.clip) == "none":
        found.append(variant("clipped to 1", "--clip 1", clip=1.0))
    else:
        found.append(variant("no clipping", "--clip none", clip=None))
    if k is not None:
        found += [
            variant(f"k = {other}", f"--k {other}", k=other)
            for other in (k // 2, 2 * k)
            if 1 <= other <= steps
        ]
    return tuple(found)

"""A trained model out of a run folder."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from bptt.data import Vocabulary
from bptt.training import checkpoint as checkpoints
from bptt.training.build import build_model
from bptt.training.contents import load_weights
from bptt.training.nonfinite import NonFiniteError
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings


def load_model(path: str | Path) -> tuple[nn.Module, Vocabulary, Settings]:
    """The model with the best held-out score of a run, in evaluation mode.

    Args:
        path: a run folder.

    Returns:
        The model, its vocabulary, and the settings it was trained with.

    Raises:
        RunError: not a run, or its files do not fit together.
        NonFiniteError: a weight is not a finite number.

    Cost: reads the weights once.
    """
    run = RunFolder.open(path)
    settings, vocabulary = run.read_settings(), run.read_vocabulary()
    model = build_model(settings, vocabulary.size)
    load_weights(model, checkpoints.best(run.checkpoints))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            kind = "nan" if bool(tensor.isnan().any()) else "inf"
            raise NonFiniteError(
                f"weights that are finite numbers in {run.path}",
                f"{kind} in {name}",
                "train a new run with a lower --lr or another --clip",
            )
    return model.eval(), vocabulary, settings

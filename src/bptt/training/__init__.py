"""The training step and the loop, and what they need: settings, checkpoints, scores, the run folder."""

from bptt.training.evaluate import Score, evaluate
from bptt.training.fit import Update, apply_gradient, fit, fit_step
from bptt.training.loop import Outcome, Reporter, train
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings

__all__ = [
    "Outcome",
    "Reporter",
    "RunFolder",
    "Score",
    "Settings",
    "Update",
    "apply_gradient",
    "evaluate",
    "fit",
    "fit_step",
    "train",
]

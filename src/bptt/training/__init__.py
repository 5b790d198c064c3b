"""The training step and the loop, and what they need: settings, checkpoints, scores, the run folder.

Each file is loaded when a name of it is first used: the command line reads the settings, and says what is
wrong with them, before it waits for torch.
"""

from typing import TYPE_CHECKING

from bptt import hand_on

if TYPE_CHECKING:
    from bptt.training.evaluate import Score, evaluate
    from bptt.training.fit import Update, apply_gradient, fit, fit_step
    from bptt.training.loop import Outcome, Reporter, train
    from bptt.training.run_folder import RunFolder
    from bptt.training.settings import Settings
else:
    hand_on(
        __name__,
        {
            "evaluate": ("Score", "evaluate"),
            "fit": ("Update", "apply_gradient", "fit", "fit_step"),
            "loop": ("Outcome", "Reporter", "train"),
            "run_folder": ("RunFolder",),
            "settings": ("Settings",),
        },
    )

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

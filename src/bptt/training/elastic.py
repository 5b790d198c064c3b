"""torchrun starts the processes of a run again when one of them was lost: then the run goes on.

A restarted run is told by ``TORCHELASTIC_RESTART_COUNT``. It goes on from the last checkpoint in its
own folder; where it had none yet it begins again. It has to know the folder: with restarts allowed,
``--out`` must name it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from bptt.errors import ArgumentError
from bptt.files.folder import Folder
from bptt.training import checkpoint as checkpoints
from bptt.training.distributed import Group
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings
from bptt.training.sizes import SIZES


def restarts() -> int:
    """How often torchrun has started this run again."""
    return _number("TORCHELASTIC_RESTART_COUNT")


def folder_to_go_on_with(settings: Settings, group: Group) -> Path | None:
    """The run folder that an earlier start of this same run left behind; None for a first start.

    Raises:
        ArgumentError: torchrun may restart the run, and nothing says where it would be found.
    """
    if settings.out is None:
        if _number("TORCHELASTIC_MAX_RESTARTS") > 0:
            raise ArgumentError(
                "--out RUN with torchrun --max-restarts",
                "no --out",
                "name the run folder, so that a restart finds it again",
            )
        return None
    # The agents of other machines do not count a restart that this one asked for.
    if not group.any(restarts() > 0):
        return None
    path = Path(settings.out)
    return path if group.first(lambda: _left_behind(path, settings)) else None


def _left_behind(path: Path, settings: Settings) -> bool:
    """Whether there is something to go on with; what was begun without a checkpoint is removed."""
    if not path.is_dir() or not (path / "config.toml").is_file():
        return False  # nothing, or something else: creating the run will say so
    run = RunFolder(path)
    # Sizes that were not given were chosen when the text was read.
    left_open: dict[str, Any] = {name: None for name in SIZES if getattr(settings, name) is None}
    if replace(run.read_settings(), **left_open) != settings:
        return False
    if checkpoints.steps(run.checkpoints):
        return True
    with Folder.open(path.parent, follow=True) as folder:
        folder.remove(path.name)
    return False


def _number(name: str) -> int:
    value = os.environ.get(name, "0")
    return int(value) if value.isdigit() else 0

"""Watch the training of those who bring their own trainer: Lightning, Hugging Face, TensorBoard."""

from bptt.integrations.guards import guard_hugging_face, guard_lightning
from bptt.integrations.trainers import (
    Numbers,
    Watcher,
    WatchWarning,
    for_hugging_face,
    for_lightning,
    for_tensorboard,
    told,
)

__all__ = [
    "Numbers",
    "WatchWarning",
    "Watcher",
    "for_hugging_face",
    "for_lightning",
    "for_tensorboard",
    "guard_hugging_face",
    "guard_lightning",
    "told",
]

"""Watch the training of those who bring their own trainer: Lightning, Hugging Face, TensorBoard."""

from bptt.callbacks.hugging_face import for_hugging_face
from bptt.callbacks.lightning import for_lightning
from bptt.callbacks.plain import Numbers, Watcher, WatchWarning, told
from bptt.callbacks.tensorboard import for_tensorboard

__all__ = [
    "Numbers",
    "WatchWarning",
    "Watcher",
    "for_hugging_face",
    "for_lightning",
    "for_tensorboard",
    "told",
]

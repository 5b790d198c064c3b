"""The exceptions of this package.

Every one of them says three things in one line: what was expected, what came, and what to do.
The constructor asks for all three, so that none can be left out. Most also inherit from the
built-in exception that PyTorch raises in the same place, so that a program written for
``torch.nn`` catches ours without a change.
"""

from __future__ import annotations

from bptt.shown import printable


class BpttError(Exception):
    """Root of the tree: catch it to catch everything this package raises on purpose.

    In the message, control characters stand as escapes: what it names may come from a file.

    Args:
        expected: what would have been right, e.g. ``"k >= 1"``.
        received: what came instead, e.g. ``"k=0"``.
        remedy: what the reader can do now, as an imperative, e.g. ``"pass the chunk length"``.

    Example:
        >>> print(BpttError("k >= 1", "k=0", "pass the chunk length, e.g. k=64"))
        expected k >= 1, received k=0: pass the chunk length, e.g. k=64
    """

    def __init__(self, expected: str, received: str, remedy: str) -> None:
        super().__init__(printable(f"expected {expected}, received {received}: {remedy}"))
        self.expected = expected
        self.received = received
        self.remedy = remedy

    def __reduce__(self):
        # Exceptions cross process borders (data workers, test runners); the default would rebuild
        # this one from its message alone and fail.
        return type(self), (self.expected, self.received, self.remedy)


class ArgumentError(BpttError, ValueError):
    """A size, rate or name is out of its range."""


class ShapeError(BpttError, ValueError, RuntimeError):
    """A tensor's shape does not fit (``torch.nn`` raises ValueError or RuntimeError here)."""


class DtypeError(BpttError, TypeError, ValueError):
    """A tensor's dtype does not fit."""


class NumberError(ArgumentError, DtypeError):
    """A number is of another type than the argument takes, e.g. 2.5 where steps are counted."""


class DeviceError(BpttError, RuntimeError):
    """Tensors that must meet are on different devices."""


class BackendError(BpttError, RuntimeError):
    """A backend was asked for by name and cannot run this call; nothing falls back in silence."""


class DataError(BpttError, ValueError):
    """A text, a file or a symbol in it cannot be used."""


class RunError(BpttError, RuntimeError):
    """A run folder or a checkpoint cannot be read, written or continued."""


class DependencyError(BpttError, ImportError):
    """An optional package that this call needs is not installed."""


class ConvertWarning(UserWarning):
    """``bptt.convert`` left recurrent layers as they are; the message names them and says why."""

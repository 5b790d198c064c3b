"""Train recurrent networks through time, fast, and see exactly how far back they learn.

The package loads its parts when they are first used, so that the command line answers at once
and a program pays only for what it touches.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bptt.errors import ConvertWarning, LoopError, LoopWarning
    from bptt.experiments import claims
    from bptt.experiments.trials import diagnose
    from bptt.export import export_c, export_onnx
    from bptt.models import stream as streaming
    from bptt.models.stream import Stream
    from bptt.nn import carry, convert, revert
    from bptt.probes.diagnose import Diagnosis
    from bptt.probes.guard import guard
    from bptt.probes.watch import Flow, watch
    from bptt.recurrence import tick
    from bptt.report import plot


class _Package(ModuleType):
    """A package whose names stand in files of their own, each loaded with the first use of one of them.

    A file may have the name of a function in it, as ``bptt.training.fit`` has. Loading it makes Python
    put the file over the function in the package; here the function stays, as it would if the package
    had loaded the file itself.
    """

    _files: Mapping[str, str]  # by name: the file it stands in, e.g. "training.fit"

    def __getattr__(self, name: str) -> Any:
        if name not in self._files:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"bptt.{self._files[name]}"), name)
        self.__dict__[name] = found
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in self._files):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self._files})


def hand_on(package: str, files: Mapping[str, tuple[str, ...]]) -> None:
    """Let a package hand on names of its files without loading them before they are asked for.

    Args:
        package: its ``__name__``; it is loading.
        files: the names, by the file they stand in.
    """
    module = sys.modules[package]
    room = package.removeprefix("bptt.")
    module.__dict__["_files"] = {
        n: f"{room}.{file}" for file, names in files.items() for n in names
    }
    module.__class__ = _Package


_NAMES = {
    "ConvertWarning": "bptt.errors",
    "Diagnosis": "bptt.probes.diagnose",
    "Flow": "bptt.probes.watch",
    "LoopError": "bptt.errors",
    "LoopWarning": "bptt.errors",
    "Stream": "bptt.models.stream",
    "convert": "bptt.nn",
    "export_c": "bptt.export",
    "export_onnx": "bptt.export",
    "guard": "bptt.probes.guard",
    "diagnose": "bptt.experiments.trials",
    "plot": "bptt.report",
    "revert": "bptt.nn",
    "tick": "bptt.recurrence",
    "watch": "bptt.probes.watch",
}
# Modules that users find at the top, and where they live.
_MODULES = {
    "bptt.callbacks": "bptt.integrations",
    "bptt.carry": "bptt.nn.carry",
    "bptt.claims": "bptt.experiments.claims",
    "bptt.streaming": "bptt.models.stream",
}

__all__ = [
    "ConvertWarning",
    "Diagnosis",
    "Flow",
    "LoopError",
    "LoopWarning",
    "Stream",
    "callbacks",
    "carry",
    "claims",
    "convert",
    "data",
    "diagnose",
    "errors",
    "export",
    "export_c",
    "export_onnx",
    "gradients",
    "guard",
    "models",
    "nn",
    "ops",
    "plot",
    "probes",
    "recurrence",
    "reference",
    "remedies",
    "report",
    "revert",
    "streaming",
    "tasks",
    "tick",
    "training",
    "watch",
]


class _PublicModules(MetaPathFinder, Loader):
    """``import bptt.carry`` gives the very module that ``bptt.nn.carry`` is, and no second copy of it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = next((t for t in _MODULES if name == t or name.startswith(f"{t}.")), None)
        if top is None:
            return None
        module = import_module(_MODULES[top] + name.removeprefix(top))
        return ModuleSpec(name, self, loader_state=(module, module.__spec__))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module: ModuleType = spec.loader_state[0]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It ran under its own name; the import of another one leaves it as it was."""
        module.__spec__ = cast(ModuleSpec, module.__spec__).loader_state[1]


sys.meta_path.insert(0, _PublicModules())


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name in __all__:
        return import_module(f"bptt.{name}")
    raise AttributeError(f"module 'bptt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

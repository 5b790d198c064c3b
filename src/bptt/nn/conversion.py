"""torch's recurrent layers inside a model become ours, and torch's again; what cannot is named."""

from __future__ import annotations

import functools
import warnings
from importlib import import_module
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from bptt.errors import ArgumentError, ConvertWarning
from bptt.nn.recurrent import GRU, LSTM, RNN

_Model = TypeVar("_Model", bound=nn.Module)

_OURS: dict[type[nn.Module], type[nn.Module]] = {nn.RNN: RNN, nn.GRU: GRU, nn.LSTM: LSTM}
_TORCHS = {ours: theirs for theirs, ours in _OURS.items()}
# What torch's forward consists of. A subclass that has one of these of its own would lose it.
_FORWARD = (
    "forward", "__call__", "_call_impl", "_wrapped_call_impl", "check_forward_args", "check_input",
    "get_expected_hidden_size", "get_expected_cell_size", "check_hidden_size", "permute_hidden",
)  # fmt: skip


def convert(model: _Model) -> _Model:
    """Turn every ``torch.nn`` RNN, GRU and LSTM inside a model into ours, in place, weights shared.

    A module keeps its identity, parameters, hooks and buffers; only its class changes, so optimisers
    and references elsewhere in the model stay valid. A subclass whose forward is torch's own is
    converted too: it stays an instance of itself. One with a forward of its own is left alone, because
    that would be lost, and a warning names it.

    Args:
        model: any module, a recurrent layer itself included.

    Returns:
        The same model.

    Raises:
        ArgumentError: the model is not a module, or a recurrent module is parametrized already.

    Warns:
        ConvertWarning: once, with the names of the recurrent layers that were left as they are, and why.

    Cost: one walk over the modules; no tensor is copied.

    Example:
        >>> import torch, bptt
        >>> model = torch.nn.Sequential(torch.nn.GRU(3, 5))
        >>> type(bptt.convert(model)[0])
        <class 'bptt.nn.recurrent.GRU'>
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError("a torch.nn.Module", type(model).__name__, "pass the model itself")
    found: list[tuple[nn.Module, type[nn.Module]]] = []
    left: list[str] = []
    for name, module in model.named_modules():
        name = name or "the model itself"
        base = next((b for b in _OURS if isinstance(module, b)), None)
        if base is None:
            if reason := _foreign(module):
                left.append(f"{name} ({reason})")
        elif hasattr(module, "parametrizations") and not isinstance(module, _OURS[base]):
            raise ArgumentError(
                "recurrent modules without parametrizations",
                f"{name} with one",
                "convert the model first and register the parametrization afterwards",
            )
        elif own := _own(module, base):
            left.append(f"{name} ({type(module).__name__} has its own {own})")
        elif not isinstance(module, _OURS[base]):
            found.append((module, base))
    for module, base in found:
        # Ours hold no attribute beyond torch's, so the instance needs nothing but the class.
        _become(module, _converted(type(module), base))
    if left:
        warnings.warn(
            f"bptt.convert left as they are: {', '.join(left)}; they run in torch as before, and take "
            "no lengths, reset or cut; derive them from bptt.nn's classes for ours",
            ConvertWarning,
            stacklevel=2,
        )
    return model


def revert(model: _Model) -> _Model:
    """Turn every RNN, GRU and LSTM of ours inside a model into ``torch.nn``'s, in place, weights shared.

    The way back from :func:`convert`, for whatever must meet torch's own classes. A module keeps its
    identity, parameters, parametrizations, hooks, buffers and mode; a subclass that was converted is
    an instance of itself again. A pickle of the model then loads where this package is not installed.

    What cannot go back is left alone, and a warning names it: a class derived from ours, and a layer
    in a model of this package that calls it as torch's cannot be called.

    Args:
        model: any module, a recurrent layer itself included.

    Returns:
        The same model.

    Raises:
        ArgumentError: the model is not a module.

    Warns:
        ConvertWarning: once, with the names of our layers that were left as they are, and why.

    Cost: one walk over the modules; no tensor is copied.

    Example:
        >>> import torch, bptt
        >>> model = bptt.convert(torch.nn.Sequential(torch.nn.GRU(3, 5)))
        >>> type(bptt.revert(model)[0])
        <class 'torch.nn.modules.rnn.GRU'>
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError("a torch.nn.Module", type(model).__name__, "pass the model itself")
    holders = {
        id(child): type(holder).__name__
        for holder in model.modules()
        if getattr(holder, "calls_our_layers", False)
        for child in holder.modules()
    }
    left: list[str] = []
    found: list[tuple[str, nn.Module]] = list(model.named_modules())
    for name, module in found:
        if not isinstance(module, (RNN, GRU, LSTM)):
            continue
        name, holder = name or "the model itself", holders.get(id(module))
        kind = _reverted(module)
        if holder is not None:
            left.append(f"{name} ({holder} calls it as torch's cannot be called)")
        elif kind is None:
            left.append(f"{name} ({type(module).__name__} is derived from bptt.nn's class)")
        else:
            _become(module, kind)
    if left:
        warnings.warn(
            f"bptt.revert left as they are: {', '.join(left)}; build a model over torch.nn's classes "
            "and load the state dict into it",
            ConvertWarning,
            stacklevel=2,
        )
    return model


def _become(module: nn.Module, kind: type[nn.Module]) -> None:
    module.__class__ = kind
    # What scripting and a call of the other class have noted on the instance.
    for noted in ("__overloads__", "_used"):
        module.__dict__.pop(noted, None)


def _reverted(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch's or of the user's that a module of ours was, or None if it never was."""
    kind = type(module)
    if not is_parametrized(module):
        return _original(kind)
    # torch gives each parametrized module a class of its own, over the one that it had.
    before = _original(kind.__bases__[0])
    if before is None:
        return None
    body: dict[str, Any] = {
        n: v for n, v in vars(kind).items() if n not in ("__dict__", "__weakref__")
    }
    meta: Any = type(kind)
    return cast(type[nn.Module], meta(kind.__name__, (before,), body))


def _original(kind: Any) -> type[nn.Module] | None:
    if kind in _TORCHS:
        return _TORCHS[kind]
    return next((original for original, made in _made.items() if made is kind), None)


def _own(module: nn.Module, base: type[nn.Module]) -> str | None:
    """What a module has in place of a part of torch's forward, if anything."""
    mine = _OURS[base]
    if isinstance(module, mine):
        return None
    for name in _FORWARD:
        if name in vars(module) or getattr(type(module), name, None) is not getattr(
            base, name, None
        ):
            return name
    return None


def _foreign(module: nn.Module) -> str | None:
    """Why a recurrent layer that is none of torch.nn's classes cannot be converted; None for others."""
    if isinstance(module, torch.jit.ScriptModule):
        kind = getattr(module, "original_name", "")
        return f"a compiled {kind}" if kind in ("RNN", "GRU", "LSTM") else None
    return "a bare RNNBase" if isinstance(module, nn.RNNBase) else None


_made: dict[Any, Any] = {}  # by the class it was made from


def _converted(kind: Any, base: type[nn.Module]) -> type[nn.Module]:
    """The class that a module of this one becomes: ours, or a subclass of both."""
    if kind is base:
        return _OURS[base]
    if kind in _made:
        return _made[kind]
    body = {
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
        "__qualname__": kind.__qualname__,
        "__reduce_ex__": functools.partialmethod(_reduce, kind=kind, base=base),
    }
    # Two threads may both make one; all get the first.
    return _made.setdefault(kind, type(kind)(kind.__name__, (kind, _OURS[base]), body))


def _reduce(
    module: nn.Module, protocol: Any, *, kind: type[nn.Module], base: type[nn.Module]
) -> tuple[Any, ...]:
    # The class was made while the program ran; a pickle finds it again from the two it was made of.
    _, _, *state = cast(tuple[Any, ...], object.__reduce_ex__(module, 2))
    return _new, (kind, base), *state


def _new(kind: type[nn.Module], base: type[nn.Module]) -> nn.Module:
    made = _converted(kind, base)
    return made.__new__(made)


def _revert_before_quantizing() -> None:
    """Have torch.ao.quantization meet torch's layers, in the copy that it quantises.

    It picks layers by their very class and passes over ours without a word; a subclass can register
    nothing that it asks for. All of its ways go through one function before they look.
    """
    try:
        quantizer: Any = import_module("torch.ao.quantization.quantize")
    except ImportError:  # a torch that has given it up
        return
    inner = quantizer.propagate_qconfig_

    @functools.wraps(inner)
    def propagate_qconfig_(module: nn.Module, *arguments: Any, **options: Any) -> Any:
        return inner(revert(module), *arguments, **options)

    quantizer.propagate_qconfig_ = propagate_qconfig_


_revert_before_quantizing()

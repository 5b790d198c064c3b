"""From a torch module to a :class:`~bptt.export.network.Network`, or an error that names the module.

A module's ``forward`` is a program, and only its children can be read. So the children are taken in
the order they were registered, and what comes out is compared with what the module itself computes on
the example input: a ``forward`` that does more than call its children in turn is found out there.

A weight is read as the layer's own forward reads it, by its name, once, in evaluation mode. So one that
is computed by a parametrization (held orthogonal, spectral norm, weight norm, one's own; also torch's
older norms, which are hooks) is exported as the matrix that it stands for, and its parameters are not
left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bptt import nn as ours
from bptt.errors import ArgumentError, DtypeError, ShapeError, describe
from bptt.export.network import Embedding, Floats, Layer, Linear, Network, OneHot, Recurrent
from bptt.models import LanguageModel

SUPPORTED = "RNN, GRU, LSTM (one direction, no proj_size), Linear, Embedding, Dropout, Identity"
_RECURRENT = (nn.RNN, nn.GRU, nn.LSTM, ours.RNN, ours.GRU, ours.LSTM)
_NOTHING = (nn.Dropout, nn.Identity)
_OLDER_NORMS = (SpectralNorm, WeightNorm)  # torch.nn.utils.spectral_norm and weight_norm, by hooks
# float32 weights and float64 sums against whatever the module runs in: rounding of one step is 1e-7,
# and a wrong order of layers, a missing activation or a scaling shows at 1e-2 and above.
_SAME = 1e-3


def read_network(module: nn.Module, example_input: Any) -> Network:
    """Describe a module as a chain of layers, and check that the description computes the same.

    Args:
        module: an RNN, GRU or LSTM, torch's or ours; a :class:`bptt.models.LanguageModel`; an
            ``nn.Sequential`` of supported modules; or any module whose forward calls its supported
            children in the order they were registered, with ``(x)`` or ``(x, state)``.
        example_input: what the module takes, ``(T, B, I)``, ``(B, T, I)`` with ``batch_first``,
            ``(T, I)``, or integer tokens without the axis I. Integers in front of a recurrent or
            linear layer mean one-hot vectors.

    Returns:
        The description; its weights are the module's, rounded to float32, those of a parametrization as
        they are computed in evaluation mode.

    Raises:
        ArgumentError: a module or parameter that cannot be exported, by its path in the model; a
            weight that is not finite; a forward that computes something else.
        ShapeError, DtypeError: the example input does not fit.

    Cost: one forward pass of the module and one of the description over the example input.

    Example:
        >>> network = read_network(nn.GRU(3, 5, num_layers=2), torch.randn(4, 1, 3))
        >>> [type(layer).__name__ for layer in network.layers], network.output_size
        (['Recurrent', 'Recurrent'], 5)
    """
    if not isinstance(module, nn.Module):
        raise ArgumentError("a torch.nn.Module", type(module).__name__, "pass the model itself")
    if not isinstance(example_input, Tensor):
        raise DtypeError(
            "an example input as a tensor",
            type(example_input).__name__,
            "pass what the model takes",
        )
    used: set[int] = set()
    layers: list[Layer] = []
    batch_first: set[bool] = set()
    with _evaluating(module):
        for path, child in _leaves(module, ""):
            layers.extend(_read(path, child, used))
            if isinstance(child, nn.RNNBase):
                batch_first.add(child.batch_first)
    left = [name for name, p in module.named_parameters() if id(p) not in used]
    if left:
        raise ArgumentError(
            "every parameter in a supported layer",
            f"{left[0]}, which no layer of the export would hold",
            "move it into a Linear or recurrent layer, or export the part of the model without it",
        )
    if not any(isinstance(layer, Recurrent) for layer in layers):
        raise ArgumentError("at least one recurrent layer", "none", "export another module")
    if len(batch_first) > 1:
        raise ArgumentError(
            "recurrent layers that agree on batch_first", "both kinds", "make them alike"
        )
    if not example_input.is_floating_point() and not isinstance(layers[0], Embedding):
        first = layers[0]
        size = first.weight.shape[1] if isinstance(first, Linear) else first.w_ih.shape[1]  # type: ignore[union-attr]
        layers.insert(0, OneHot("input", size))
    _check_chain(layers)
    network = Network(tuple(layers), batch_first.pop())
    _check_same(module, network, example_input)
    return network


def time_first(network: Network, inputs: Tensor) -> NDArray[np.generic]:
    """A module's input as (T, B, I) or (T, B), in NumPy.

    Raises:
        ShapeError, DtypeError: it does not fit the network.
    """
    x = inputs.detach().cpu()
    want = 2 if network.tokens else 3
    if x.ndim == want - 1:
        x = x.unsqueeze(1)
    elif network.batch_first and x.ndim == want:
        x = x.transpose(0, 1)
    names = "TB" if network.tokens else "TBI"
    if x.ndim != want or x.numel() == 0:
        raise ShapeError(
            f"an input of axes {', '.join(names)}, each at least 1",
            describe(inputs.shape),
            "give at least one step of one lane",
        )
    if network.tokens:
        if x.dtype not in (torch.int64, torch.int32, torch.uint8, torch.int16, torch.int8):
            raise DtypeError("integer tokens", str(x.dtype), "convert them with .long()")
        low, high = int(x.min()), int(x.max())
        if low < 0 or high >= network.tokens:
            raise ArgumentError(
                f"tokens from 0 to V-1={network.tokens - 1}",
                f"{low} to {high}",
                "encode with the model's own vocabulary",
            )
        return x.long().numpy()
    if not x.is_floating_point():
        raise DtypeError("floating-point input", str(x.dtype), "convert it with .float()")
    if x.shape[2] != network.input_size:
        raise ShapeError(
            f"input of size I={network.input_size}", describe(inputs.shape), "mend the last axis"
        )
    if not bool(torch.isfinite(x).all()):
        raise ArgumentError("finite input", "NaN or infinity", "clean the data first")
    return x.double().numpy()


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that hold the parameters, in the order they were registered."""
    if isinstance(module, nn.RNNBase | nn.Linear | nn.Embedding) or type(module) in _NOTHING:
        yield path, module
        return
    # Not named_children: it leaves out a module that is there twice, and a Sequential may run it twice.
    children = [(name, child) for name, child in module._modules.items() if child is not None]
    if not children:
        _refuse(path, module)
    for name, child in children:
        yield from _leaves(child, f"{path}.{name}" if path else name)


def _refuse(path: str, module: nn.Module, why: str = "") -> None:
    raise ArgumentError(
        f"modules among {SUPPORTED}",
        f"{type(module).__name__}{why} at {path or 'the top of the model'}",
        "export the part of the model without it and run the rest beside it",
    )


def _read(path: str, module: nn.Module, used: set[int]) -> list[Layer]:
    """One module as layers; the parameters it consumes are entered in ``used``."""

    def take(name: str, size: int = 0) -> Floats:
        weight, behind = _weight(module, name)
        if weight is None:
            return np.zeros(size)
        used.update(id(parameter) for parameter in behind)
        array = weight.detach().cpu().to(torch.float32).double().numpy()
        if not np.isfinite(array).all():
            bad = int((~np.isfinite(array)).sum())
            raise ArgumentError(
                "finite weights that fit float32",
                f"{bad} NaN or infinite in {path + '.' if path else ''}{name}",
                "export an earlier checkpoint, from before the training diverged",
            )
        return array

    others = [h for h in module._forward_pre_hooks.values() if not isinstance(h, _OLDER_NORMS)]
    if module._forward_hooks or others:
        _refuse(path, module, " with a forward hook")
    kind, layer = parametrize.type_before_parametrizations(module), cast(Any, module)
    if kind in _NOTHING:
        return []
    if kind is nn.Embedding:
        if layer.max_norm is not None:
            _refuse(path, module, " with max_norm")
        return [Embedding(path, take("weight"))]
    if kind is nn.Linear:
        weight = take("weight")
        return [Linear(path, weight, take("bias", len(weight)))]
    if kind not in _RECURRENT:
        _refuse(path, module)
    if layer.bidirectional:
        _refuse(path, module, " (bidirectional)")
    if layer.proj_size:
        _refuse(path, module, f" (proj_size={layer.proj_size})")
    cell = layer.mode.lower()
    cells: list[Layer] = []
    for k in range(layer.num_layers):
        w_ih, w_hh = (take(f"{name}_l{k}") for name in ("weight_ih", "weight_hh"))
        b_ih, b_hh = (take(f"{name}_l{k}", len(w_ih)) for name in ("bias_ih", "bias_hh"))
        cells.append(Recurrent(path, k, cell, w_ih, w_hh, b_ih, b_hh))
    return cells


def _weight(module: nn.Module, name: str) -> tuple[Tensor | None, tuple[nn.Parameter, ...]]:
    """A weight as forward has it, computed once, and the parameters that it consists of."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, _OLDER_NORMS) and hook.name == name:
            # What stands in the attribute is that of the last forward, perhaps before an update.
            by_power = {"do_power_iteration": False} if isinstance(hook, SpectralNorm) else {}
            parts = (module._parameters.get(name + end) for end in ("_orig", "_g", "_v"))
            found = tuple(part for part in parts if part is not None)
            return cast(Any, hook).compute_weight(module, **by_power), found
    weight = getattr(module, name, None)
    if parametrize.is_parametrized(module, name):
        computed: Any = module.parametrizations
        return weight, tuple(computed[name].parameters())
    return weight, () if weight is None else (weight,)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for a while; then every part is in the mode that it was in."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in before:
            part.training = training


def _check_chain(layers: list[Layer]) -> None:
    """Every layer takes what the one before it gives; tokens only in front."""
    for before, layer in pairwise(layers):
        where = layer.name or "the top of the model"
        if isinstance(layer, Embedding):
            raise ArgumentError(
                "an Embedding only as the first layer", f"one at {where}", "reorder the model"
            )
        wanted = layer.weight.shape[1] if isinstance(layer, Linear) else layer.w_ih.shape[1]  # type: ignore[union-attr]
        if wanted != before.output_size:
            raise ArgumentError(
                f"layers that follow each other, output {before.output_size} of {before.name!r}",
                f"input {wanted} at {where}",
                "register the children in the order in which forward calls them",
            )


def _as_called(module: nn.Module, network: Network, example: Tensor) -> Tensor:
    """The example as the module takes it: tokens that stand for one-hot vectors become those."""
    first = network.layers[0]
    if not isinstance(first, OneHot):
        return example
    dtype = next(module.parameters()).dtype
    return nn.functional.one_hot(example.long(), first.size).to(dtype)


def _check_same(module: nn.Module, network: Network, example: Tensor) -> None:
    """Compare the description with the module itself, where the module can be called."""
    inputs = time_first(network, example)
    expected = network.run(inputs).output
    if type(module) is nn.Sequential:
        # A Sequential over a recurrent layer has no forward of its own that works: the layer returns
        # a pair. Its order is its meaning, so there is nothing to compare.
        return
    try:
        with _evaluating(module):
            result = module(_as_called(module, network, example))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(
            "a model that takes the example input",
            f"{type(error).__name__}: {str(error).splitlines()[0]}",
            "pass one input as you would call the model with it",
        ) from None
    output = result[0] if isinstance(result, tuple | list) else result
    if not isinstance(output, Tensor):
        raise ArgumentError(
            "a model that returns a tensor, or a pair (tensor, state)",
            type(output).__name__,
            "export the part of the model that does",
        )
    actual = output.detach().cpu().double()
    if example.ndim == (1 if network.tokens else 2):
        actual = actual.unsqueeze(-2)
    batched = torch.from_numpy(expected)
    candidates = [batched, batched.transpose(0, 1), batched[-1]]
    for candidate in candidates if not isinstance(module, LanguageModel) else candidates[:1]:
        if candidate.shape == actual.shape:
            unit = max(float(candidate.abs().max()), 1e-6)
            if float((candidate - actual).abs().max()) <= _SAME * unit:
                return
    raise ArgumentError(
        "a forward that calls its layers one after another and nothing else",
        f"{type(module).__name__}, whose output on the example input is not that of "
        + ", ".join(layer.name or type(layer).__name__ for layer in network.layers),
        "export the layers as an nn.Sequential in the right order, and compute the rest beside it",
    )

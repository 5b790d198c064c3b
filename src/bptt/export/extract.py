"""From a torch module to a :class:`~bptt.export.network.Network`, or an error that names the module.

The parts come in the order in which the module's forward uses them (:mod:`bptt.models.chain`), and what
they compute is compared with what the module itself computes on the example input: a forward that does
more than call its parts in turn is found out there.

A weight is read as the layer's own forward reads it, by its name, once, in evaluation mode. So one that
is computed by a parametrization (held orthogonal, spectral norm, weight norm, one's own; also torch's
older norms, which are hooks) is exported as the matrix that it stands for, and its parameters are not
left behind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from bptt.export import network as net
from bptt.export.network import Embedding, Floats, Layer, Linear, Network, OneHot, Recurrent
from bptt.models import LanguageModel
from bptt.models.chain import (
    NAMES,
    NOTHING,
    Chain,
    evaluating,
    not_a_chain,
    outputs_of,
    read_chain,
    refuse_others,
    same_up_to_axes,
)

_RECURRENT = (nn.RNN, nn.GRU, nn.LSTM, ours.RNN, ours.GRU, ours.LSTM)
_ACTIVATIONS = {nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.ReLU: "relu", nn.Softmax: "softmax"}
_OLDER_NORMS = (SpectralNorm, WeightNorm)  # torch.nn.utils.spectral_norm and weight_norm, by hooks


def read_network(module: nn.Module, example_input: Any, *, both_ways: bool = False) -> Network:
    """Describe a module as a chain of layers, and check that the description computes the same.

    Args:
        module: a recurrent layer, torch's or ours; a :class:`bptt.models.LanguageModel`; an
            ``nn.Sequential`` of supported modules; or any module whose forward calls supported ones in a
            row, with ``(x)`` or ``(x, state)``.
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
    for name, parameter in module.named_parameters():
        if parameter.dtype not in (torch.float32, torch.float64):
            # What such a model computes is too coarse to be compared with.
            raise ArgumentError(
                "a model in float32 or float64",
                f"{name} of {parameter.dtype}",
                "convert it: model.float()",
            )
    used: set[int] = set()
    layers: list[Layer] = []
    chain = read_chain(module)
    with evaluating(module):
        for part in chain.parts:
            size = layers[-1].output_size if layers else _first_size(chain)
            layers.extend(_read(part.path, part.module, used, size, both_ways))
    left = [name for name, p in module.named_parameters() if id(p) not in used]
    if left:
        raise ArgumentError(
            "every parameter in a supported layer",
            f"{left[0]}, which no layer of the export would hold",
            "move it into a Linear or recurrent layer, or export the part of the model without it",
        )
    if not any(isinstance(layer, net.Stateful) for layer in layers):
        raise ArgumentError("at least one recurrent layer", "none", "export another module")
    batch_first = chain.batch_first
    if not example_input.is_floating_point() and not isinstance(layers[0], Embedding):
        layers.insert(0, OneHot("input", net.input_size(layers[0])))
    _check_chain(layers)
    network = Network(tuple(_simplified(_folded(layers))), batch_first)
    example = _as_called(module, layers[0], example_input)
    _check_same(module, chain, network, example_input, example)
    refuse_others(module, chain)
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


def _first_size(chain: Chain) -> int:
    """Numbers that come in, for parts in front that do not say it themselves."""
    for part in chain.parts:
        for name in ("input_size", "in_features", "num_features"):
            if isinstance(size := getattr(part.module, name, None), int):
                return size
    return 0


def _refuse(path: str, module: nn.Module, why: str = "", remedy: str = "") -> None:
    raise ArgumentError(
        f"modules among {NAMES}",
        f"{type(module).__name__}{why} at {path or 'the top of the model'}",
        remedy + "export the part of the model without it and run the rest beside it",
    )


def _read(path: str, module: nn.Module, used: set[int], size: int, both_ways: bool) -> list[Layer]:
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
    if kind in NOTHING:
        return []
    if kind is nn.Embedding:
        if layer.max_norm is not None:
            _refuse(path, module, " with max_norm")
        return [Embedding(path, take("weight"))]
    if kind is nn.Linear:
        weight = take("weight")
        return [Linear(path, weight, take("bias", len(weight)))]
    if kind in _ACTIVATIONS:
        return [net.Activation(path, _ACTIVATIONS[kind], size)]
    if kind is nn.LeakyReLU:
        return [net.Activation(path, "leaky_relu", size, float(layer.negative_slope))]
    if kind is nn.LayerNorm:
        if len(layer.normalized_shape) != 1:
            _refuse(path, module, f" over {len(layer.normalized_shape)} axes")
        (width,) = layer.normalized_shape
        weight = take("weight") if layer.weight is not None else np.ones(width)
        return [net.Norm(path, weight, take("bias", width), float(layer.eps))]
    if kind is nn.BatchNorm1d:
        return [_scaling(path, module, take)]
    if kind is ours.MinGRU:
        H = layer.hidden_size
        weights = [take(f"weight_ih_l{k}") for k in range(layer.num_layers)]
        return [
            net.MinGRU(path, k, w, take(f"bias_ih_l{k}", 2 * H), bool(layer.positive))
            for k, w in enumerate(weights)
        ]
    if kind is ours.LRU:
        return _lru(path, layer, take)
    if kind not in _RECURRENT:
        _refuse(path, module)
    if layer.bidirectional and not both_ways:
        _refuse(
            path, module, " (bidirectional)",
            "in C and float32 give the steps that it shall run over, export_c(..., window=STEPS); else ",
        )  # fmt: skip
    cell = layer.mode.lower()

    def cell_of(k: int, end: str) -> Recurrent:
        w_ih, w_hh = (take(f"{name}_l{k}{end}") for name in ("weight_ih", "weight_hh"))
        b_ih, b_hh = (take(f"{name}_l{k}{end}", len(w_ih)) for name in ("bias_ih", "bias_hh"))
        w_hr = take(f"weight_hr_l{k}{end}") if layer.proj_size else None
        return Recurrent(path, k, cell, w_ih, w_hh, b_ih, b_hh, w_hr)

    if layer.bidirectional:
        return [
            net.Both(path, cell_of(k, ""), cell_of(k, "_reverse")) for k in range(layer.num_layers)
        ]
    return [cell_of(k, "") for k in range(layer.num_layers)]


@dataclass(frozen=True, eq=False)
class _Scaling(Linear):
    """A BatchNorm1d on its way into a matrix: y = weight x + bias for each number, ``weight (O,)``."""


def _scaling(path: str, module: Any, take: Any) -> _Scaling:
    if module.running_mean is None:
        _refuse(path, module, " without running statistics")
    width = module.num_features
    mean, variance = (
        b.detach().cpu().double().numpy() for b in (module.running_mean, module.running_var)
    )
    weight = take("weight") if module.weight is not None else np.ones(width)
    scale = weight / np.sqrt(variance + module.eps)
    bias = take("bias", width) - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
        raise ArgumentError(
            "finite running statistics", f"NaN or infinity in {path}",
            "export an earlier checkpoint, from before the training diverged",
        )  # fmt: skip
    return _Scaling(path, scale, bias)


def _folded(layers: list[Layer]) -> list[Layer]:
    """Every BatchNorm1d inside the matrix before it or the one after it, or as a diagonal one."""
    done: list[Layer] = []
    waiting: _Scaling | None = None
    for layer in layers:
        if waiting is not None:
            if isinstance(layer, Linear) and not isinstance(layer, _Scaling):
                bias = layer.bias + layer.weight @ waiting.bias
                layer = replace(layer, weight=layer.weight * waiting.weight, bias=bias)
            elif isinstance(layer, Recurrent):
                b_ih = layer.b_ih + layer.w_ih @ waiting.bias
                layer = replace(layer, w_ih=layer.w_ih * waiting.weight, b_ih=b_ih)
            else:
                done.append(Linear(waiting.name, np.diag(waiting.weight), waiting.bias))
            waiting = None
        if not isinstance(layer, _Scaling):
            done.append(layer)
        elif done and isinstance(before := done[-1], Linear):
            weight, bias = before.weight * layer.weight[:, None], before.bias * layer.weight
            done[-1] = replace(before, weight=weight, bias=bias + layer.bias)
        elif done and isinstance(before, Embedding):
            done[-1] = replace(before, weight=before.weight * layer.weight + layer.bias)
        else:
            waiting = layer
    if waiting is not None:
        done.append(Linear(waiting.name, np.diag(waiting.weight), waiting.bias))
    return done


def _simplified(layers: list[Layer]) -> list[Layer]:
    """The same chain with what stands directly behind tokens computed once a token.

    A OneHot stays one only where the next layer looks up its columns.
    """
    first, rest = layers[0], layers[1:]
    looked_up = rest and isinstance(rest[0], Linear | Recurrent)
    if isinstance(first, OneHot) and not looked_up:
        first = Embedding(first.name, np.eye(first.size))
    while isinstance(first, Embedding) and rest and isinstance(rest[0], net.Activation | net.Norm):
        first, rest = replace(first, weight=rest[0].of(first.weight)), rest[1:]
    return [first, *rest]


def _lru(path: str, layer: Any, take: Any) -> list[Layer]:
    """λ, γ B, C and D of each layer, with the GELU that stands between two."""
    found: list[Layer] = []
    for k in range(layer.num_layers):
        names = ("nu_log", "theta_log", "gamma_log", "weight_in", "weight_out", "weight_skip")
        _, _, gamma, into, out, skip = (take(f"{name}_l{k}") for name in names)
        # As the layer has them: an eigenvalue near 1 multiplies its own rounding error by 1 / (1 - λ).
        decay = layer.eigenvalues(k).detach().cpu().to(torch.complex128).numpy()
        b_in = (into[0] + 1j * into[1]) * np.exp(gamma)[:, None]
        bias = take(f"bias_l{k}", len(skip))
        found.append(net.LRU(path, k, decay, b_in, out[0] + 1j * out[1], skip, bias))
        if k < layer.num_layers - 1:
            found.append(net.Activation(path, "gelu", len(skip)))
    return found


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


def _check_chain(layers: list[Layer]) -> None:
    """Every layer takes what the one before it gives; tokens only in front."""
    for before, layer in pairwise(layers):
        where = layer.name or "the top of the model"
        if isinstance(layer, Embedding):
            raise ArgumentError(
                "an Embedding only as the first layer", f"one at {where}", "reorder the model"
            )
        wanted = len(layer.weight) if isinstance(layer, _Scaling) else net.input_size(layer)
        if wanted != before.output_size:
            raise ArgumentError(
                f"layers that follow each other, output {before.output_size} of {before.name!r}",
                f"input {wanted} at {where}",
                "make the sizes agree, or register the children in the order in which forward calls them",
            )


def _as_called(module: nn.Module, first: Layer, example: Tensor) -> Tensor:
    """The example as the module takes it: tokens that stand for one-hot vectors become those."""
    if not isinstance(first, OneHot) or example.is_floating_point():
        return example
    low, high = (0, 0) if example.numel() == 0 else (int(example.min()), int(example.max()))
    if low < 0 or high >= first.size:
        return example  # the network says what is wrong
    dtype = next(module.parameters()).dtype
    return nn.functional.one_hot(example.long(), first.size).to(dtype)


def _check_same(
    module: nn.Module, chain: Chain, network: Network, example: Tensor, called: Tensor
) -> None:
    """Compare the description with the module itself, which is called with ``called``."""
    inputs = time_first(network, example)
    expected = torch.from_numpy(network.run(inputs).output)
    actual = outputs_of(module, chain, called).detach().cpu().double()
    if example.ndim == (1 if network.tokens else 2):
        actual = actual.unsqueeze(-2)
    if not same_up_to_axes(actual, expected, whole=isinstance(module, LanguageModel)):
        raise not_a_chain(module, chain)

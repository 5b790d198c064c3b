"""A copy of a model's weights, each compared with what the model says of itself.

A stream steps on such a copy. So it does not matter to it what becomes of the model: converted,
resized, moved or freed weights reach the kernels only through :meth:`Weights.of`, which refuses what
does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bptt import nn as layers_of
from bptt.errors import ArgumentError, DtypeError, ShapeError, describe
from bptt.models import LanguageModel
from bptt.ops.native.check import dense

_LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "RNN_TANH": (layers_of.RNN, {"nonlinearity": "tanh"}),
    "RNN_RELU": (layers_of.RNN, {"nonlinearity": "relu"}),
    "GRU": (layers_of.GRU, {}),
    "LSTM": (layers_of.LSTM, {}),
}


@dataclass(frozen=True)
class Weights:
    """A model's weights as they were at one moment, in memory of their own.

    Attributes:
        layer: a plain layer of ours, in evaluation mode, time first.
        embedding: ``(V, I)`` of a language model.
        output: its W ``(N, H)`` and b ``(N,)``, or None for no bias.
    """

    layer: Any
    embedding: Tensor | None = None
    output: tuple[Tensor, Tensor | None] | None = None

    @property
    def first(self) -> Tensor:
        """One of the weights, which all are of one dtype and device."""
        return self.layer.all_weights[0][1]

    @property
    def state_of(self) -> str:
        """The sizes that a state depends on, in words."""
        layer = self.layer
        return f"{layer.mode} with L={layer.num_layers} and H={layer.hidden_size}"

    @staticmethod
    def of(model: nn.Module) -> Weights:
        """Copy them, each compared with what the model says of itself."""
        with torch.inference_mode(False), torch.no_grad():
            if not isinstance(model, LanguageModel):
                layer, found = _layer_of(model)
                _one_dtype(found)
                return Weights(layer)
            layer, found = _layer_of(model.recurrent)
            if not isinstance(model.output, nn.Linear):
                raise ArgumentError(
                    "a LanguageModel whose output is an nn.Linear",
                    type(model.output).__name__,
                    "make a Stream of model.recurrent and call the output yourself",
                )
            sizes = {
                "embedding.weight": (model.vocabulary_size, layer.input_size),
                "output.weight": (model.output.out_features, layer.hidden_size),
                "output.bias": (model.output.out_features,),
            }
            if model.output.bias is None:
                del sizes["output.bias"]
            for name, shape in sizes.items():
                module, weight = name.split(".")
                value = getattr(getattr(model, module), weight, None)
                found[name] = _copied(name, value, shape)
            _one_dtype(found)
            bias = found.get("output.bias")
            return Weights(layer, found["embedding.weight"], (found["output.weight"], bias))


def _layer_of(theirs: Any) -> tuple[Any, dict[str, Tensor]]:
    """A layer of ours with copies of another's weights, and the copies by name."""
    layer = _same_sizes(theirs)
    # In the order of the names, so that the error names the first that differs.
    found = {
        name: _copied(name, getattr(theirs, name, None), tuple(meant.shape))
        for name, meant in layer.named_parameters()
    }
    layer.load_state_dict(found, assign=True)
    return layer.requires_grad_(False), found


def _same_sizes(theirs: Any) -> Any:
    """A layer of ours of the cell and sizes that this one says it has, without weights yet."""
    if not isinstance(theirs, nn.RNNBase) or theirs.mode not in _LAYERS:
        raise ArgumentError(
            "an RNN, GRU or LSTM, or a LanguageModel over one",
            type(theirs).__name__,
            "make one stream for each recurrent layer and call the other modules yourself",
        )
    if theirs.bidirectional:
        raise ArgumentError(
            "a layer in one direction",
            "a bidirectional one",
            "a reversed layer needs the end of the sequence; call it on whole sequences",
        )
    if theirs.proj_size:
        raise ArgumentError(
            "a layer without proj_size", f"{theirs.proj_size}", "call the layer itself"
        )
    kind, options = _LAYERS[theirs.mode]
    # On "meta" no weight is drawn, so the program's random numbers stay what they were.
    layer = kind(
        theirs.input_size, theirs.hidden_size, theirs.num_layers,
        bias=bool(theirs.bias), device="meta", **options,
    )  # fmt: skip
    if theirs._all_weights != layer._all_weights:
        raise ArgumentError(
            f"a layer with the weights {_names(layer)}",
            _names(theirs),
            "build the layer anew with the num_layers and bias that it shall have",
        )
    return layer.eval()


def _names(layer: nn.RNNBase) -> str:
    """The names of a layer's weights."""
    return ", ".join(name for row in layer._all_weights for name in row) or "none"


def _copied(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    """A weight in memory of its own, or the reason why the kernels cannot have it."""
    if not isinstance(value, Tensor):
        raise DtypeError(f"{name} as a tensor", type(value).__name__, "give the layer its weight")
    if tuple(value.shape) != shape:
        raise ShapeError(
            f"{name} {describe(shape)}, as the model's sizes say",
            describe(value.shape),
            "change the model's sizes together with its weights, or build it anew",
        )
    usable = value.device.type == "cpu" and value.layout == torch.strided
    if not usable or value.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            "a model on the CPU in float32 or float64",
            f"{name} of {value.dtype} on {value.device}",
            "convert it: model.cpu().float()",
        )
    last = value.storage_offset() + sum(
        (n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True)
    )
    if value.untyped_storage().nbytes() < (last + 1) * value.element_size():
        raise ArgumentError(
            f"{name} in memory", "one whose storage was freed", "gather the weights first"
        )
    return dense(value.detach()).clone()


def _one_dtype(weights: dict[str, Tensor]) -> None:
    dtype = weights["weight_hh_l0"].dtype
    for name, weight in weights.items():
        if weight.dtype != dtype:
            raise DtypeError(
                f"{name} of {dtype}, like weight_hh_l0",
                f"{weight.dtype}",
                "convert the whole model, e.g. model.float()",
            )

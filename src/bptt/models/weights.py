"""What a stream steps on: a copy of one model's weights, or of the parts of a chain.

So it does not matter to the stream what becomes of the model: converted, resized, moved or freed weights
reach the kernels only through :meth:`Weights.of`, which compares each with what the model says of itself
and refuses what does not fit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bptt import nn as layers_of
from bptt.errors import ArgumentError, DtypeError, ShapeError, describe
from bptt.models.chain import (
    NAMES,
    NOTHING,
    PARTS,
    RECURRENT,
    Chain,
    Part,
    not_a_chain,
    outputs_of,
    read_chain,
    refuse_others,
    run_parts,
    same_up_to_axes,
)
from bptt.models.language import LanguageModel
from bptt.nn.linear import LinearRecurrent
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
            "a reversed layer needs the end of the sequence; give it one: Stream(model, window=STEPS)",
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


class Chained:
    """The chain on a stream: kernels step the layers that they know, the rest is called step by step.

    Args:
        model: read by :func:`read_chain`, its weights copied.
        batch: B.
        window: for bidirectional layers, the steps over which the whole chain runs each time.
        stream_of: makes a stream of a single layer.

    Raises:
        ArgumentError: a part that cannot be streamed, by its path; a model that is more than a chain.
    """

    def __init__(
        self, model: nn.Module, batch: int, window: int | None, stream_of: Callable[..., Any]
    ) -> None:
        chain = read_chain(model)
        _check_parts(model, chain, window)
        parts = [part for part in chain.parts if not isinstance(part.module, NOTHING)]
        self.paths = [part.path for part in parts]
        self._wide = any(getattr(part.module, "bidirectional", False) for part in parts)
        self.batch, self.window = batch, window
        with torch.inference_mode(False), torch.no_grad():
            copies = [_copy_of(part) for part in parts]
            self.shape, self.dtype, self.symbols = _input_of(parts, copies, batch)
            self.steps: list[Any] = []
            for module in copies:
                if window is not None or not isinstance(module, RECURRENT):
                    self.steps.append(module)
                elif isinstance(module, nn.RNNBase) and not module.proj_size:
                    self.steps.append(stream_of(module, batch))
                else:
                    self.steps.append(_Called(module, batch))
            self.kept: list[Tensor] = []
            _compare(model, chain, self)

    def step(self, x: Tensor) -> Tensor:
        """One step through all parts; with a window, all of its steps."""
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            if self.window is not None:
                self.kept = [*self.kept[-self.window + 1 :][: self.window - 1], x.clone()]
                return run_parts(self.steps, torch.stack(self.kept))
            for part in self.steps:
                x = part(x) if isinstance(part, nn.Module) else part.step(x)
            return x

    @property
    def streams(self) -> list[Any]:
        """The parts that have a state."""
        return [part for part in self.steps if not isinstance(part, nn.Module)]

    @property
    def state(self) -> Any:
        """Copies: of one recurrent part its state, of several a tuple; of a window its inputs."""
        if self.window is not None:
            return tuple(x.clone() for x in self.kept)
        states = tuple(stream.state for stream in self.streams)
        return states[0] if len(states) == 1 else states

    @state.setter
    def state(self, value: Any) -> None:
        if self.window is not None:
            if len(value) > self.window or any(x.shape != self.shape for x in value):
                raise ShapeError(
                    f"at most {self.window} inputs of {describe(self.shape)}", f"{len(value)}",
                    "set what stream.state returned",
                )  # fmt: skip
            self.kept = [x.clone() for x in value]
            return
        streams = self.streams
        values = (value,) if len(streams) == 1 else value
        if not isinstance(values, tuple | list) or len(values) != len(streams):
            raise ShapeError(
                f"{len(streams)} states, one of each recurrent part", type(value).__name__,
                "set what stream.state returned",
            )  # fmt: skip
        before = self.state
        try:
            for stream, part in zip(streams, values, strict=True):
                stream.state = part
        except (ShapeError, DtypeError):
            self.state = before
            raise

    def reset(self, lanes: Tensor | None) -> None:
        """Start afresh."""
        if self.window is not None:
            if lanes is not None:
                raise ArgumentError(
                    "a reset of all lanes", "some of them",
                    "call reset() without lanes: the lanes of a window are steps of one time",
                )  # fmt: skip
            self.kept = []
        for stream in self.streams:
            stream.reset(lanes)


class _Called:
    """A recurrent part that no kernel steps: its own forward, a step at a time."""

    def __init__(self, layer: Any, batch: int) -> None:
        self.layer = layer
        weight = next(layer.parameters())
        if isinstance(layer, LinearRecurrent):
            tail = (layer.state_size,) if layer.parts == 1 else (layer.state_size, layer.parts)
            sizes = [tail]
        else:
            sizes = [(layer.proj_size or layer.hidden_size,), (layer.hidden_size,)]
        self._states = [weight.new_zeros(layer.num_layers, batch, *size) for size in sizes]

    def step(self, x: Tensor) -> Tensor:
        y, after = self.layer(x.unsqueeze(0), self._handed())
        self._states = list(after) if isinstance(after, tuple) else [after]
        return y[0]

    def _handed(self) -> Any:
        return self._states[0] if len(self._states) == 1 else tuple(self._states)

    @property
    def state(self) -> Any:
        copies = tuple(state.clone() for state in self._states)
        return copies[0] if len(copies) == 1 else copies

    @state.setter
    def state(self, value: Any) -> None:
        values = (value,) if isinstance(value, Tensor) else tuple(value)
        own = self._states
        if [v.shape for v in values] != [o.shape for o in own]:
            raise ShapeError(
                f"state(s) of shape {', '.join(describe(o.shape) for o in own)}",
                ", ".join(describe(v.shape) for v in values),
                "set what stream.state returned",
            )
        self._states = [v.detach().to(o.dtype).clone() for v, o in zip(values, own, strict=True)]

    def reset(self, lanes: Tensor | None) -> None:
        for state in self._states:
            state[:, slice(None) if lanes is None else lanes] = 0


def _check_parts(model: nn.Module, chain: Chain, window: int | None) -> None:
    for part in chain.parts:
        module, where = part.module, part.path or "the top of the model"
        averaged = isinstance(module, nn.BatchNorm1d) and module.running_mean is None
        if averaged or not isinstance(module, PARTS):
            raise ArgumentError(
                f"parts among {NAMES}",
                f"{type(module).__name__}{' without running statistics' * averaged} at {where}",
                "make a Stream of the rest of the model and call this part yourself",
            )
        if getattr(module, "bidirectional", False) and window is None:
            raise ArgumentError(
                "a layer in one direction",
                f"a bidirectional one at {where}",
                "give the steps that it shall run over: Stream(model, window=STEPS)",
            )
    if not any(isinstance(part.module, RECURRENT) for part in chain.parts):
        raise ArgumentError(
            "an RNN, GRU, LSTM, MinGRU or LRU, a LanguageModel over one, or a chain with one in it",
            type(model).__name__,
            "make one stream for each recurrent layer and call the other modules yourself",
        )
    recurrent = next(p for p in chain.parts if isinstance(p.module, RECURRENT))
    held = {id(weight) for part in chain.parts for weight in part.module.parameters()}
    if left := [name for name, weight in model.named_parameters() if id(weight) not in held]:
        raise ArgumentError(
            "every parameter in a part that is stepped",
            f"{left[0]}, which no part of the stream would hold",
            "make a Stream of the model without it, and call the rest yourself",
        )
    for part in chain.parts:
        for name, weight in part.module.named_parameters():
            known = weight.dtype in (torch.float32, torch.float64)
            if not known or weight.device.type != "cpu":
                raise ArgumentError(
                    "a model on the CPU in float32 or float64",
                    f"{part.path + '.' if part.path else ''}{name} of {weight.dtype} on {weight.device}",
                    "convert it: model.cpu().float()",
                )
            first = next(recurrent.module.parameters())
            if weight.dtype != first.dtype:
                raise DtypeError(
                    f"{part.path}.{name} of {first.dtype}, like {recurrent.path}", f"{weight.dtype}",
                    "convert the whole model, e.g. model.float()",
                )  # fmt: skip
            if not bool(torch.isfinite(weight).all()):
                raise ArgumentError(
                    "finite weights", f"NaN or infinity in {part.path + '.' if part.path else ''}{name}",
                    "take an earlier checkpoint, from before the training diverged",
                )  # fmt: skip


def _copy_of(part: Part) -> nn.Module:
    """A part as a stream calls it: time first, and without a time axis between two layers."""
    if isinstance(part.module, nn.Softmax):
        return nn.Softmax(-1)  # another axis is found out by the comparison
    try:
        copied: Any = copy.deepcopy(part.module).requires_grad_(False).eval()
    except RuntimeError as error:
        raise ArgumentError(
            "parts that can be copied", f"{part.path}: {(str(error).splitlines() or [''])[0]}",
            "take the hook off, e.g. torch.nn.utils.remove_weight_norm",
        ) from None  # fmt: skip
    if isinstance(copied, RECURRENT):
        copied.batch_first = False
    return copied


def _input_of(
    parts: list[Part], modules: list[nn.Module], batch: int
) -> tuple[torch.Size, torch.dtype, int | None]:
    """Shape and dtype of one step of input, and V of tokens."""
    dtype = next(next(m.parameters()) for m in modules if isinstance(m, RECURRENT)).dtype
    for module in modules:
        if isinstance(module, nn.Embedding):
            return torch.Size((batch,)), torch.int64, module.num_embeddings
        size: Any = None
        for name in ("input_size", "in_features", "num_features", "normalized_shape"):
            size = getattr(module, name, None) if size is None else size
        if size is not None:
            size = size[-1] if isinstance(size, tuple) else size
            return torch.Size((batch, size)), dtype, None
    raise ArgumentError(
        "a part that says its input size", parts[0].path, "put a Linear in front of it"
    )


def _compare(model: nn.Module, chain: Chain, chained: Chained) -> None:
    """Run a few steps both ways; a model that is more than its chain is refused."""
    steps = min(4, chained.window or 4)
    count = steps * chained.shape.numel()
    ramp = torch.arange(count, dtype=torch.float64, device="cpu")
    if chained.symbols is not None:
        x = (ramp.long() % chained.symbols).reshape(steps, *chained.shape)
    else:
        x = torch.sin(1 + 3 * ramp).to(chained.dtype).reshape(steps, *chained.shape)
    language = isinstance(model, LanguageModel)
    first = chain.batch_first and not language
    actual = outputs_of(model, chain, x.transpose(0, 1) if first else x)
    ours = [chained.step(x_t).clone() for x_t in x]
    chained.reset(None)
    expected = ours[-1] if chained.window is not None else torch.stack(ours)
    if not same_up_to_axes(actual, expected, whole=language):
        raise not_a_chain(model, chain)
    refuse_others(model, chain)

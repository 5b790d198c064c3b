"""What torch's own tools meet in our layers: tracing, scripting, FX, export, and types.

Such a tool reads a model to run it elsewhere, where our kernels are not. So it reads torch's own
operators, with torch's results:

* one that records a call (``torch.jit.trace``, both ways of ``torch.onnx.export``, ``torch.export``) is
  given torch's operators, see :func:`recorder`;
* ``torch.jit.script`` compiles methods that say the same in TorchScript, :class:`OneState` and
  :class:`TwoStates`; their types are also those of a call;
* ``torch.fx`` keeps a layer as a leaf of its graph, see :func:`as_leaf`.

``torch.compile`` is no such tool: it runs here, and keeps the kernels.
"""

# No `from __future__ import annotations`: TorchScript reads the types of what it compiles.

from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence

from bptt.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def recorder(layer: nn.Module, lengths: Any, reset: Any, cut: Any) -> str | None:
    """Which tool of torch's records this call, to run it in torch's operators: trace, export or none.

    An exported program can hold our operator; so ``torch.export`` takes marks, and records that.

    Raises:
        ArgumentError: a tool that can hold torch's operators alone, and an argument that these lack.
    """
    traced = torch._C._get_tracing_state() is not None
    if not traced and not torch.compiler.is_exporting():
        return None
    tool = "torch.jit.trace" if traced else "torch.export"
    if torch.onnx.is_in_onnx_export():
        tool = "torch.onnx.export"
    marks = {"lengths": lengths, "reset": reset, "cut": cut}
    given = ", ".join(f"{name}=" for name, mark in marks.items() if mark is not None)
    if given and tool != "torch.export":
        raise ArgumentError(
            f"a call that torch's layers take, inside {tool}",
            f"{given} to a {type(layer).__name__}",
            "leave it out there: torch's layers, which bptt.revert(model) gives, have no such argument",
        )
    if given:
        return None
    return "trace" if traced else "export"


def as_leaf(layer: nn.Module, input: Any, hx: Any, lengths: Any, reset: Any, cut: Any) -> Any:
    """The layer as one node of the graph that ``torch.fx`` draws, or None if it draws none.

    Raises:
        ArgumentError: the layer is the whole model, has hooks, or is to be quantised.
    """
    proxy = next((v for v in _flat(input, hx, lengths, reset, cut) if isinstance(v, Proxy)), None)
    if proxy is None:
        return None
    tracer: Any = proxy.tracer
    name = type(layer).__name__
    if type(tracer).__module__.startswith("torch.ao.quantization"):
        raise ArgumentError(
            "torch's own layers, for torch's FX quantiser",
            f"a {name} of bptt.nn",
            "call bptt.revert(model) before it",
        )
    if hooks := [kind.strip("_") for kind in _HOOKS if getattr(layer, kind)]:
        # They have run on what stands for a tensor, and would run again when the graph does.
        raise ArgumentError(
            "a layer without hooks, for torch.fx",
            f"a {name} with {', '.join(hooks)}",
            "remove them, or call bptt.revert(model) before it",
        )
    path = tracer.path_of_module(layer)
    if not path:
        raise ArgumentError(
            "a model with the layer inside, for torch.fx",
            f"the {name} itself",
            "put it into a torch.nn.Sequential",
        )
    marks = {"lengths": lengths, "reset": reset, "cut": cut}
    given = {key: mark for key, mark in marks.items() if mark is not None}
    states = () if hx is None else (hx,)
    return tracer.create_proxy("call_module", path, (input, *states), given)


def _flat(*values: Any) -> Any:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(*value)
        else:
            yield value


class OneState(nn.RNNBase):
    """An RNN or GRU in TorchScript, and the types of its calls."""

    # What a call means in TorchScript: the first of these that takes its types.
    __overloads__ = {"forward": ["_script_packed", "_script_tensor"]}  # noqa: RUF012

    @torch.jit.export
    def _script_tensor(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(0 if self.batch_first else 1)
        if hx is None:
            rows = self.num_layers * (2 if self.bidirectional else 1)
            lanes = x.size(0) if self.batch_first else x.size(1)
            state = torch.zeros(rows, lanes, self.hidden_size, dtype=x.dtype, device=x.device)
        else:
            state = hx if batched else hx.unsqueeze(1)
        self.check_forward_args(x, state, None)
        weights = self._flat_weights
        if self.mode == "GRU":
            y, h = torch.gru(
                x, state, weights, self.bias, self.num_layers, self.dropout, self.training,  # type: ignore[arg-type]
                self.bidirectional, self.batch_first,
            )  # fmt: skip
        elif self.mode == "RNN_TANH":
            y, h = torch.rnn_tanh(
                x, state, weights, self.bias, self.num_layers, self.dropout, self.training,  # type: ignore[arg-type]
                self.bidirectional, self.batch_first,
            )  # fmt: skip
        else:
            y, h = torch.rnn_relu(
                x, state, weights, self.bias, self.num_layers, self.dropout, self.training,  # type: ignore[arg-type]
                self.bidirectional, self.batch_first,
            )  # fmt: skip
        if not batched:
            return y.squeeze(0 if self.batch_first else 1), h.squeeze(1)
        return y, h

    @torch.jit.export
    def _script_packed(
        self, input: PackedSequence, hx: Tensor | None = None
    ) -> tuple[PackedSequence, Tensor]:
        x, batch_sizes, order, back = input
        if hx is None:
            rows, lanes = self.num_layers * (2 if self.bidirectional else 1), int(batch_sizes[0])
            state = torch.zeros(rows, lanes, self.hidden_size, dtype=x.dtype, device=x.device)
        else:
            state = self.permute_hidden(hx, order)
        self.check_forward_args(x, state, batch_sizes)
        weights = self._flat_weights
        if self.mode == "GRU":
            y, h = torch.gru(
                x, batch_sizes, state, weights, self.bias, self.num_layers, self.dropout,  # type: ignore[arg-type]
                self.training, self.bidirectional,
            )  # fmt: skip
        elif self.mode == "RNN_TANH":
            y, h = torch.rnn_tanh(
                x, batch_sizes, state, weights, self.bias, self.num_layers, self.dropout,  # type: ignore[arg-type]
                self.training, self.bidirectional,
            )  # fmt: skip
        else:
            y, h = torch.rnn_relu(
                x, batch_sizes, state, weights, self.bias, self.num_layers, self.dropout,  # type: ignore[arg-type]
                self.training, self.bidirectional,
            )  # fmt: skip
        return PackedSequence(y, batch_sizes, order, back), self.permute_hidden(h, back)

    if TYPE_CHECKING:

        @overload
        def forward(
            self,
            input: Tensor,
            hx: Tensor | None = None,
            *,
            lengths: Tensor | ArrayLike | None = None,
            reset: Tensor | ArrayLike | None = None,
            cut: Tensor | ArrayLike | None = None,
        ) -> tuple[Tensor, Tensor]: ...

        @overload
        def forward(
            self,
            input: PackedSequence,
            hx: Tensor | None = None,
            *,
            lengths: None = None,
            reset: Tensor | ArrayLike | None = None,
            cut: Tensor | ArrayLike | None = None,
        ) -> tuple[PackedSequence, Tensor]: ...

        def forward(self, input: Any, hx: Any = None, **marks: Any) -> Any: ...  # noqa: D102

        __call__ = forward

        def forward_tokens(  # noqa: D102
            self,
            tokens: Tensor,
            embedding: Tensor,
            hx: Tensor | None = None,
            *,
            lengths: Tensor | ArrayLike | None = None,
            reset: Tensor | ArrayLike | None = None,
            cut: Tensor | ArrayLike | None = None,
        ) -> tuple[Tensor, Tensor]: ...


class TwoStates(nn.RNNBase):
    """An LSTM in TorchScript, and the types of its calls."""

    __overloads__ = {"forward": ["_script_packed", "_script_tensor"]}  # noqa: RUF012

    @torch.jit.export
    def _script_tensor(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(0 if self.batch_first else 1)
        if hx is None:
            rows = self.num_layers * (2 if self.bidirectional else 1)
            lanes = x.size(0) if self.batch_first else x.size(1)
            shown = self.proj_size if self.proj_size > 0 else self.hidden_size
            state = (
                torch.zeros(rows, lanes, shown, dtype=x.dtype, device=x.device),
                torch.zeros(rows, lanes, self.hidden_size, dtype=x.dtype, device=x.device),
            )
        else:
            state = hx if batched else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        self.check_forward_args(x, state, None)  # type: ignore[arg-type]
        weights = self._flat_weights
        y, h, c = torch.lstm(
            x, state, weights, self.bias, self.num_layers, self.dropout, self.training,  # type: ignore[arg-type]
            self.bidirectional, self.batch_first,
        )  # fmt: skip
        if not batched:
            return y.squeeze(0 if self.batch_first else 1), (h.squeeze(1), c.squeeze(1))
        return y, (h, c)

    @torch.jit.export
    def _script_packed(
        self, input: PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[PackedSequence, tuple[Tensor, Tensor]]:
        x, batch_sizes, order, back = input
        if hx is None:
            rows, lanes = self.num_layers * (2 if self.bidirectional else 1), int(batch_sizes[0])
            shown = self.proj_size if self.proj_size > 0 else self.hidden_size
            state = (
                torch.zeros(rows, lanes, shown, dtype=x.dtype, device=x.device),
                torch.zeros(rows, lanes, self.hidden_size, dtype=x.dtype, device=x.device),
            )
        else:
            state = self.permute_hidden(hx, order)  # type: ignore[arg-type]
        self.check_forward_args(x, state, batch_sizes)  # type: ignore[arg-type]
        weights = self._flat_weights
        y, h, c = torch.lstm(
            x, batch_sizes, state, weights, self.bias, self.num_layers, self.dropout,  # type: ignore[arg-type]
            self.training, self.bidirectional,
        )  # fmt: skip
        ended = self.permute_hidden((h, c), back)  # type: ignore[arg-type]
        return PackedSequence(y, batch_sizes, order, back), ended

    if TYPE_CHECKING:

        @overload
        def forward(
            self,
            input: Tensor,
            hx: tuple[Tensor, Tensor] | None = None,
            *,
            lengths: Tensor | ArrayLike | None = None,
            reset: Tensor | ArrayLike | None = None,
            cut: Tensor | ArrayLike | None = None,
        ) -> tuple[Tensor, tuple[Tensor, Tensor]]: ...

        @overload
        def forward(
            self,
            input: PackedSequence,
            hx: tuple[Tensor, Tensor] | None = None,
            *,
            lengths: None = None,
            reset: Tensor | ArrayLike | None = None,
            cut: Tensor | ArrayLike | None = None,
        ) -> tuple[PackedSequence, tuple[Tensor, Tensor]]: ...

        def forward(self, input: Any, hx: Any = None, **marks: Any) -> Any: ...  # noqa: D102

        __call__ = forward

        def forward_tokens(  # noqa: D102
            self,
            tokens: Tensor,
            embedding: Tensor,
            hx: tuple[Tensor, Tensor] | None = None,
            *,
            lengths: Tensor | ArrayLike | None = None,
            reset: Tensor | ArrayLike | None = None,
            cut: Tensor | ArrayLike | None = None,
        ) -> tuple[Tensor, tuple[Tensor, Tensor]]: ...

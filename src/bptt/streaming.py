"""Step by step: a trained layer or language model on a stream, the state kept in place.

A call of a PyTorch layer costs tens of microseconds before it computes anything. Here everything that
can be done once is done once: weights packed, buffers laid out, checks that depend on the model made.
A step is then one call into the kernels.

Limits: recurrent layers in one direction and without projection, on the CPU, in float32 or float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bptt.axes import describe
from bptt.errors import ArgumentError, DtypeError, ShapeError
from bptt.models import LanguageModel
from bptt.ops import native
from bptt.ops.native.call import CELLS, Sizes, dense, function, pointer


class Stream:
    """A layer or language model that is fed one time step at a time.

    Args:
        model: an RNN, GRU or LSTM, torch's or ours, or a :class:`bptt.models.LanguageModel`.
        batch: B, independent streams stepped together.

    Raises:
        ArgumentError: what cannot be streamed: bidirectional, projected, on a GPU, another module.

    Equal to the whole-sequence call of the model in evaluation mode, step for step. The weights are
    copied when the stream is made; call :meth:`refresh` after changing them.

    Cost: a step takes B·G·H·(I + H) multiply-adds per layer, of G gates; no allocation, no autograd.

    Example:
        >>> import bptt
        >>> gru = bptt.nn.GRU(3, 5)
        >>> stream = Stream(gru)
        >>> x = torch.randn(4, 1, 3)
        >>> y = torch.stack([stream.step(x[t]).clone() for t in range(4)])
        >>> bool(torch.allclose(y, gru(x)[0], atol=1e-6))
        True
    """

    def __init__(self, model: nn.Module, batch: int = 1) -> None:
        if not isinstance(batch, int) or batch < 1:
            raise ArgumentError("batch >= 1", f"batch={batch!r}", "give the number of streams")
        self.model = model
        self.batch = batch
        self._layer = _streamable(model)
        weight = self._layer.all_weights[0][1]
        self._dtype: torch.dtype = weight.dtype
        self._symbols = model.vocabulary_size if isinstance(model, LanguageModel) else None
        rows, hidden = self._layer.num_layers, self._layer.hidden_size
        self._h = weight.new_zeros(rows, batch, hidden).detach()
        self._c = self._h.clone() if self._layer.mode == "LSTM" else None
        self._shape = torch.Size([batch] if self._symbols else [batch, self._layer.input_size])
        self._step: Callable[[Tensor], Tensor]
        self.refresh()

    def refresh(self) -> None:
        """Take the model's weights as they are now; the state goes on."""
        self._step = self._eager if native.missing is not None else _compiled(self)

    def step(self, x: Tensor) -> Tensor:
        """Feed one time step.

        Args:
            x: ``(B, I)``; for a language model tokens ``(B,)`` int64.

        Returns:
            The output ``(B, H)``, or logits ``(B, V)``. The next step overwrites it: clone what you
            keep.

        Raises:
            ShapeError, DtypeError, ArgumentError: what does not fit, and what to do.
        """
        return self._step(x)

    @property
    def state(self) -> Tensor | tuple[Tensor, Tensor]:
        """A copy of the state, as the layer returns it: ``(L, B, H)``, for an LSTM ``(h, c)``."""
        return self._h.clone() if self._c is None else (self._h.clone(), self._c.clone())

    @state.setter
    def state(self, value: Tensor | tuple[Tensor, Tensor]) -> None:
        parts = (value,) if isinstance(value, Tensor) else value
        if not isinstance(parts, (tuple, list)) or not all(isinstance(p, Tensor) for p in parts):
            raise DtypeError(
                "a state of tensors", type(value).__name__, "set what stream.state returned"
            )
        own = (self._h,) if self._c is None else (self._h, self._c)
        if len(parts) != len(own) or any(
            p.shape != o.shape for p, o in zip(parts, own, strict=True)
        ):
            raise ShapeError(
                f"{len(own)} state(s) of shape {describe(self._h.shape, 'LBH')}",
                ", ".join(describe(p.shape) for p in parts),
                "set what stream.state returned",
            )
        for mine, given in zip(own, parts, strict=True):
            mine.copy_(given.detach())

    def reset(self, lanes: Tensor | None = None) -> None:
        """Start afresh, all streams or those marked.

        Args:
            lanes: ``(B,)`` bool; None for all.
        """
        marked = torch.ones(self.batch, dtype=torch.bool) if lanes is None else lanes
        if not isinstance(marked, Tensor):
            raise DtypeError("lanes as a bool tensor", type(marked).__name__, "convert it first")
        if marked.dtype != torch.bool or tuple(marked.shape) != (self.batch,):
            raise ShapeError(
                f"lanes as bool of shape (B={self.batch},)",
                f"{marked.dtype} of shape {describe(marked.shape)}",
                "mark each stream once",
            )
        for state in (self._h, self._c):
            if state is not None:
                state[:, marked] = 0

    def warm_up(self, x: Tensor) -> Tensor:
        """Feed many steps in one call of the model.

        Args:
            x: ``(T, B, I)``, or tokens ``(T, B)``.

        Returns:
            The output of the last step, as :meth:`step` returns it.
        """
        # Time first whatever the layer's own order, as `step` takes lanes first whatever it is.
        turned = self._symbols is None and self._layer.batch_first
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                y, self.state = self.model(x.transpose(0, 1) if turned else x, self.state)
        finally:
            self.model.train(training)
        return y[:, -1] if turned else y[-1]

    def _eager(self, x: Tensor) -> Tensor:
        self._check(x)
        return self.warm_up(x.unsqueeze(0))

    def _check(self, x: Tensor) -> None:
        """Raise what a step raises, if x does not fit."""
        if not isinstance(x, Tensor):
            raise DtypeError("one step as a tensor", type(x).__name__, "convert it first")
        if x.shape != self._shape:
            raise ShapeError(
                f"one step of shape {describe(self._shape, 'BI')}",
                describe(x.shape),
                "feed one time step, and make the stream with the batch you feed",
            )
        if self._symbols is None:
            if x.dtype is not self._dtype or not x.is_cpu:
                raise DtypeError(
                    f"a CPU tensor of {self._dtype}", f"{x.dtype} on {x.device}", "convert it first"
                )
            return
        if x.dtype is not torch.int64 or not x.is_cpu:
            raise DtypeError(
                "tokens of torch.int64 on the CPU",
                f"{x.dtype} on {x.device}",
                "convert with .long().cpu()",
            )
        low, high = x.aminmax()
        if int(low) < 0 or int(high) >= self._symbols:
            raise ArgumentError(
                f"tokens from 0 to V-1={self._symbols - 1}",
                f"{int(low)} to {int(high)}",
                "encode with the model's vocabulary",
            )


def _streamable(model: nn.Module) -> nn.RNNBase:
    layer = model.recurrent if isinstance(model, LanguageModel) else model
    if not isinstance(layer, nn.RNNBase):
        raise ArgumentError(
            "an RNN, GRU or LSTM, or a LanguageModel over one",
            type(model).__name__,
            "make one stream for each recurrent layer and call the other modules yourself",
        )
    if layer.bidirectional:
        raise ArgumentError(
            "a layer in one direction",
            "a bidirectional one",
            "a reversed layer needs the end of the sequence; call it on whole sequences",
        )
    if layer.proj_size:
        raise ArgumentError(
            "a layer without proj_size", f"{layer.proj_size}", "call the layer itself"
        )
    weight = layer.all_weights[0][1]
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            "a model on the CPU in float32 or float64",
            f"{weight.dtype} on {weight.device}",
            "convert it: model.cpu().float()",
        )
    return layer


def _compiled(stream: Stream) -> Callable[[Tensor], Tensor]:
    """The step as one call into the kernels; it keeps alive every buffer that the kernels point to."""
    layer, batch, dtype = stream._layer, stream.batch, stream._dtype
    number, hidden = CELLS.index(layer.mode), layer.hidden_size

    def kernel(name: str):
        return function(name, dtype)

    def columns(matrix: Tensor) -> Tensor:
        """A matrix (N, K) as the row product takes it."""
        n, k = matrix.shape
        packed = matrix.new_empty(kernel("columns_padded")(n) * k)
        kernel("pack_columns")(n, k, matrix.data_ptr(), packed.data_ptr())
        return packed

    engine = kernel("Stream")(batch)
    kept: list[Tensor | None] = [stream._h, stream._c]
    problem = Sizes(number, 1, batch, hidden, batch_major=False).problem(None, None, None, False)
    y = stream._h
    for row, weights in enumerate(layer.all_weights):
        w_ih, w_hh, *biases = (dense(w.detach()) for w in weights)
        b_ih, b_hh = biases if layer.bias else (None, None)
        packed = w_hh.new_empty(kernel("packed_size")(number, hidden))
        kernel("pack")(
            number, hidden, w_hh.data_ptr(), pointer(b_ih), pointer(b_hh), packed.data_ptr(), 1
        )
        width = w_ih.shape[0]
        buffers = {
            "w_ih": columns(w_ih),
            "packed": packed,
            "h": stream._h[row],
            "c": None if stream._c is None else stream._c[row],
            "xp": w_ih.new_empty(batch * kernel("columns_padded")(width)),
            "y": (y := w_ih.new_empty(batch, hidden)),
            "work": torch.empty(kernel("workspace")(number, problem, False), dtype=torch.uint8),
        }
        engine.add(number, w_ih.shape[1], hidden, *(pointer(b) for b in buffers.values()))
        kept.extend(buffers.values())

    # What a step asks of its input is asked here, on local names, once: at H=32 the class's own
    # work would otherwise take as long as the kernel. `_check` says what was wrong.
    shape, check, run = stream._shape, stream._check, engine.step
    if not isinstance(stream.model, LanguageModel):

        def step(x: Tensor) -> Tensor:
            if not (isinstance(x, Tensor) and x.shape == shape and x.dtype is dtype and x.is_cpu):
                check(x)
            if x.is_neg() or not x.is_contiguous():
                x = dense(x)  # bound to a name: a temporary would be gone when its address is read
            run(x.data_ptr())
            return y

        step.kept = kept  # type: ignore[attr-defined]
        return step

    model = stream.model
    with torch.no_grad():
        table = model.embedding.weight @ layer.all_weights[0][0].T
    output, bias = (
        columns(dense(model.output.weight.detach())),
        model.output.bias.detach().clone(),
    )
    padded = kernel("columns_padded")(model.vocabulary_size)
    logits = output.new_empty(batch, padded)
    engine.finish(
        model.vocabulary_size, hidden, output.data_ptr(), bias.data_ptr(), logits.data_ptr()
    )
    kept.extend((table, output, bias, logits))
    symbols, rows, run_tokens = model.vocabulary_size, table.data_ptr(), engine.step_tokens
    result = logits[:, :symbols]

    def step_tokens(tokens: Tensor) -> Tensor:
        if not (
            isinstance(tokens, Tensor)
            and tokens.shape == shape
            and tokens.dtype is torch.int64
            and tokens.is_cpu
        ):
            check(tokens)
        tokens = dense(tokens)
        if not run_tokens(
            tokens.data_ptr(), rows, symbols
        ):  # a token that is none: nothing was done
            check(tokens)
        return result

    step_tokens.kept = kept  # type: ignore[attr-defined]
    return step_tokens

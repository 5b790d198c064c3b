"""Step by step: a trained layer or language model on a stream, the state kept in place.

A call of a PyTorch layer costs tens of microseconds before it computes anything. Here everything that
can be done once is done once: weights copied and packed, buffers laid out, checks that depend on the
model made. A step is then one call into the kernels.

A chain of parts (an encoder, recurrent layers, a head) is stepped part by part: its RNN, GRU and LSTM by
the kernels, the rest in torch (:mod:`bptt.models.chain`).

Limits: on the CPU, in float32 or float64; bidirectional layers over a window only. What a subclass adds
in a ``forward`` of its own, and what hooks add, is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.errors import ArgumentError, DtypeError, ShapeError, describe, optional, whole
from bptt.models.language import LanguageModel
from bptt.models.weights import Chained, Weights
from bptt.ops import native
from bptt.ops.native.check import CELLS, dense, function


class Stream:
    """A layer or language model that is fed one time step at a time.

    Args:
        model: an RNN, GRU or LSTM, torch's or ours, a :class:`bptt.models.LanguageModel`, or a model
            whose forward is a chain of these, MinGRU, LRU, Linear, Embedding, Tanh, ReLU, Sigmoid,
            LeakyReLU, Softmax, LayerNorm, BatchNorm1d and Dropout; the chain is compared with the model.
        batch: B, independent streams stepped together.
        window: for a model with bidirectional layers: every step runs it over the last ``window`` inputs,
            from a zero state.

    Raises:
        ArgumentError: what cannot be streamed, by its path: bidirectional without a window, on a GPU,
            another module, a forward that does more.
        ShapeError, DtypeError: weights that do not fit what the model says of itself.

    Equal to the whole-sequence call of the model in evaluation mode, step for step. The weights are
    copied when the stream is made; nothing that is done to the model later reaches the stream until
    :meth:`refresh`.

    A copy of a stream, made by ``copy``, ``pickle`` or ``torch.save``, alone or inside another object,
    is a stream of its own: it has the state and the weights of the moment, and goes on by itself.

    Cost: a step takes B·G·H·(I + H) multiply-adds per layer, of G gates; no allocation, no autograd.
    The other parts of a chain, MinGRU, LRU and a projected LSTM cost a call of torch's each; a window
    costs all of its steps.
    The stream holds two copies of the weights, one of them as the kernels read it.

    Example:
        >>> import bptt
        >>> gru = bptt.nn.GRU(3, 5)
        >>> stream = Stream(gru)
        >>> x = torch.randn(4, 1, 3)
        >>> y = torch.stack([stream.step(x[t]).clone() for t in range(4)])
        >>> bool(torch.allclose(y, gru(x)[0], atol=1e-6))
        True
    """

    _step: Callable[[Tensor], Tensor]
    _dtype: torch.dtype

    def __init__(self, model: nn.Module, batch: int = 1, window: int | None = None) -> None:
        batch = whole("batch", batch, remedy="give the number of streams")
        window = optional("window", window, remedy="give the steps that the layers shall run over")
        self.model = model
        self._chain: Chained | None = None
        if not _one_layer(model) or window is not None:
            self._run_through(Chained(model, batch, window, Stream))
            return
        weights = Weights.of(model)
        layer = weights.layer
        start = weights.first.new_zeros(layer.num_layers, batch, layer.hidden_size)
        self._run_on(weights, (start, start) if layer.mode == "LSTM" else (start,))

    def refresh(self) -> None:
        """Take the model's weights as they are now; the state goes on.

        The model's dtype, input size and vocabulary may have changed; the state is converted to the
        new dtype. Where this raises, the stream stays as it was.

        Raises:
            ShapeError: the model has another cell, number of layers or hidden size, so that the state
                fits it no longer.
            ArgumentError, DtypeError: what the constructor refuses.
        """
        if self._chain is not None:
            new = Chained(self.model, self.batch, self._chain.window, Stream)
            new.state = self._chain.state
            self._run_through(new)
            return
        weights = Weights.of(self.model)
        if weights.state_of != self._weights.state_of:
            raise ShapeError(
                f"{self._weights.state_of}, for which the state was made",
                weights.state_of,
                "make a new Stream of the changed model",
            )
        self._run_on(weights, self._states)

    def step(self, x: Tensor) -> Tensor:
        """Feed one time step.

        Args:
            x: ``(B, I)``; for a language model tokens ``(B,)`` int64.

        Returns:
            The output ``(B, O)``, of a layer ``(B, H)``, or logits ``(B, V)``. The next step overwrites
            it: clone what you keep. With a window ``(n, B, O)``: the outputs of the last n inputs, n at
            most ``window``; the newest is last, and has seen nothing of what comes after it.

        Raises:
            ShapeError, DtypeError, ArgumentError: what does not fit, and what to do.
        """
        return self._step(x)

    @property
    def batch(self) -> int:
        """B, independent streams stepped together."""
        return self._h.shape[1] if self._chain is None else self._chain.batch

    @property
    def state(self) -> Any:
        """A copy of the state, as the layer returns it: ``(L, B, H)``, for an LSTM ``(h, c)``.

        Of a chain with several recurrent layers a tuple of these; with a window, the inputs in it.
        """
        if self._chain is not None:
            return self._chain.state
        return self._h.clone() if self._c is None else (self._h.clone(), self._c.clone())

    @state.setter
    def state(self, value: Any) -> None:
        if self._chain is not None:
            self._chain.state = value
            return
        parts = (value,) if isinstance(value, Tensor) else value
        if not isinstance(parts, (tuple, list)) or not all(isinstance(p, Tensor) for p in parts):
            raise DtypeError(
                "a state of tensors", type(value).__name__, "set what stream.state returned"
            )
        own = self._states
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
        marked = torch.ones(self.batch, dtype=torch.bool, device="cpu") if lanes is None else lanes
        if not isinstance(marked, Tensor):
            raise DtypeError("lanes as a bool tensor", type(marked).__name__, "convert it first")
        if marked.dtype != torch.bool or tuple(marked.shape) != (self.batch,):
            raise ShapeError(
                f"lanes as bool of shape (B={self.batch},)",
                f"{marked.dtype} of shape {describe(marked.shape)}",
                "mark each stream once",
            )
        if self._chain is not None:
            self._chain.reset(lanes)
            return
        for state in self._states:
            state[:, marked] = 0

    def warm_up(self, x: Tensor) -> Tensor:
        """Feed many steps in one call of the layer.

        Args:
            x: ``(T, B, I)``, or tokens ``(T, B)``, time first whatever the layer's own order.

        Returns:
            The output of the last step, as :meth:`step` returns it.
        """
        if self._chain is not None:
            y = x
            for x_t in x:
                y = self.step(x_t)
            return y
        own = self._weights
        # Autocast would change the numbers of these steps and not of the others.
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            if own.embedding is None:
                y, self.state = own.layer(x, self.state)
            else:
                y, self.state = own.layer.forward_tokens(x, own.embedding, self.state)
            return y[-1] if own.output is None else F.linear(y[-1], *own.output)

    def __getstate__(self) -> dict[str, Any]:
        # Clones: pickling for another process moves tensors into shared memory, and this stream's
        # state must stay where the kernels have it, and its own.
        kept = {k: value for k, value in self.__dict__.items() if k not in ("_step", "_h", "_c")}
        if self._chain is not None:
            return kept
        return {**kept, "states": tuple(state.clone() for state in self._states)}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update({k: value for k, value in kept.items() if k != "states"})
        if self._chain is not None:
            self._run_through(self._chain)
        else:
            self._run_on(self._weights, kept["states"])

    def __copy__(self) -> Stream:
        twin = type(self).__new__(type(self))
        state = self.__getstate__()
        if self._chain is not None:
            state["_chain"] = deepcopy(self._chain)
        twin.__setstate__(state)
        return twin

    @property
    def _states(self) -> tuple[Tensor, ...]:
        return (self._h,) if self._c is None else (self._h, self._c)

    def _run_through(self, chain: Chained) -> None:
        """Step through these parts from now on."""
        self._chain = chain
        self._dtype, self._symbols, self._shape = chain.dtype, chain.symbols, chain.shape
        self._step = self._chained

    def _chained(self, x: Tensor) -> Tensor:
        self._check(x)
        chain: Any = self._chain
        return chain.step(x)

    def _run_on(self, weights: Weights, states: tuple[Tensor, ...]) -> None:
        """Step with these weights from now on, from copies of these states."""
        # Tensors made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            if native.missing is None:
                engine = _engine(weights, states[0].shape[1])
                mine = [s for s in (engine.h(), engine.c()) if s is not None]
            else:
                engine, mine = None, [weights.first.new_empty(s.shape) for s in states]
            for own, given in zip(mine, states, strict=True):
                own.copy_(given)
        layer, embedding = weights.layer, weights.embedding
        self._weights = weights
        self._dtype = weights.first.dtype
        self._symbols = None if embedding is None else embedding.shape[0]
        self._shape = torch.Size(
            mine[0].shape[1:2] + ((layer.input_size,) if self._symbols is None else ())
        )
        self._h = mine[0]
        self._c = mine[1] if len(mine) > 1 else None
        self._step = (
            self._eager if engine is None else _compiled(engine, self._check, self._shape, weights)
        )

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
                    f"a CPU tensor of {self._dtype}",
                    f"{x.dtype} on {x.device}",
                    "convert it, or call refresh() if the model was converted",
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


def _one_layer(model: nn.Module) -> bool:
    """Whether the kernels' own stream steps all of it; where it cannot after all, it says why."""
    layer = model.recurrent if isinstance(model, LanguageModel) else model
    return isinstance(layer, nn.RNNBase) and not layer.proj_size


def _engine(weights: Weights, batch: int) -> Any:
    """The kernels' own stream over these weights: it copies them into memory that it owns."""
    layer, dtype = weights.layer, weights.first.dtype
    engine = function("Stream", dtype)(
        CELLS.index(layer.mode), batch, layer.num_layers, layer.hidden_size
    )
    table = weights.embedding
    if table is not None:
        engine.read_tokens(table @ layer.all_weights[0][0].T)
    for row, names in enumerate(layer._all_weights):
        w_ih, w_hh, *biases = (getattr(layer, name).detach() for name in names)
        b_ih, b_hh = biases or (None, None)
        engine.add(w_ih if row or table is None else None, w_hh, b_ih, b_hh)
    if weights.output is not None:
        engine.finish(*weights.output)
    return engine


def _compiled(
    engine: Any, check: Callable[[Tensor], None], shape: torch.Size, weights: Weights
) -> Callable[[Tensor], Tensor]:
    """The step as one call into the kernels."""

    # What a step asks of its input is asked here, on local names, once: at H=32 the class's own
    # work would otherwise take as long as the kernel. `check` says what was wrong.
    dtype, y = weights.first.dtype, engine.output()

    def again(x: Tensor) -> Tensor:
        """The output where the engine did nothing, or where somebody took its memory away."""
        if not x.data_ptr():
            raise ArgumentError(
                "one step that lies in memory",
                "a tensor whose storage was freed",
                "clone it in time",
            )
        check(x)
        with torch.inference_mode(False):
            return engine.output()

    if weights.embedding is None:
        run = engine.step

        def step(x: Tensor) -> Tensor:
            nonlocal y
            if not (isinstance(x, Tensor) and x.shape == shape and x.dtype is dtype and x.is_cpu):
                check(x)
            if x.is_neg() or not x.is_contiguous():
                x = dense(x)  # bound to a name: a temporary would be gone when its address is read
            if not run(x.data_ptr()):
                y = again(x)
            return y

        return step

    run_tokens = engine.step_tokens

    def step_tokens(tokens: Tensor) -> Tensor:
        nonlocal y
        if not (
            isinstance(tokens, Tensor)
            and tokens.shape == shape
            and tokens.dtype is torch.int64
            and tokens.is_cpu
        ):
            check(tokens)
        tokens = dense(tokens)
        if not run_tokens(tokens.data_ptr()):
            y = again(tokens)
        return y

    return step_tokens

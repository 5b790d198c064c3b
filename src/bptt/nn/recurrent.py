"""Drop-in recurrent layers: torch.nn's signature, parameters and state dict, and more to say in a call.

The classes inherit from torch's own, so a checkpoint, an ``isinstance`` test, a hook or an initialiser
written for ``torch.nn.GRU`` works on ``bptt.nn.GRU`` as it is. What they add, in every call:

``lengths``
    lane b holds ``lengths[b]`` steps and padding after them. Equal to packing, without packing.
``reset``
    the state is zero before the marked step, because a new sequence begins there. Nothing flows
    through, forward or backward, as if the two parts had been run separately.
``cut``
    the state goes on across the marked step and the gradient does not: truncation, in one call.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.rnn import PackedSequence

from bptt import ops
from bptt.errors import DtypeError, plain
from bptt.nn import tools
from bptt.nn.inputs import Sequence, check_state, normalise, normalise_tokens

# Of one layer and direction: w_ih, w_hh, b_ih, b_hh, and w_hr if projected.
Weights: TypeAlias = tuple[Tensor | None, ...]


class UsedWeights:
    """The weights that a call computed with, in the order of ``_flat_weights``; no copy has them."""

    def __init__(self, weights: list[Tensor] | None = None) -> None:
        self.weights = weights

    def __deepcopy__(self, memo: dict[int, Any]) -> UsedWeights:
        return UsedWeights()

    def __reduce__(self) -> tuple[type[UsedWeights], tuple[()]]:
        return UsedWeights, ()


class _Recurrent(nn.RNNBase):
    """What RNN, GRU and LSTM share: the stack of layers and directions over one :func:`ops.recur`."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        # torch takes an int for a size, and nothing that only counts like one.
        super().__init__(*map(plain, sizes), **{n: plain(value) for n, value in options.items()})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls):  # TorchScript then compiles that one
            cls.__overloads__ = {}  # type: ignore[attr-defined]

    def _get_name(self) -> str:
        """What repr calls the layer: whose it is, and the subclass if it is one."""
        base = next(b for b in type(self).__mro__ if b.__module__ == __name__)
        ours = f"bptt.nn.{base.__name__}"
        return ours if type(self) is base else f"{type(self).__name__}[{ours}]"

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        cut: Tensor | None = None,
    ):
        """Run the layer over a sequence.

        Args:
            input: ``(T, B, I)``, ``(B, T, I)`` with ``batch_first``, ``(T, I)``, or a PackedSequence.
            hx: initial state ``(L·directions, B, H)``, for an LSTM the pair ``(h, c)``; default zeros.
            lengths: ``(B,)`` valid steps of each lane, 0…T; outputs beyond them are zero and the
                final state is that after the last valid step, of an empty lane its initial one.
            reset: bool, the input's leading two axes; the state is zero before a marked step.
            cut: bool, the input's leading two axes; the gradient stops before a marked step.

        Returns:
            The output in the input's form, and the final state, as torch's layer does.

        Raises:
            ShapeError, DtypeError, DeviceError, ArgumentError: what does not fit, and what to do.
        """
        if type(input) is not Tensor:
            leaf = tools.as_leaf(self, input, hx, lengths, reset, cut)
            if leaf is not None:
                return leaf
        elif (
            lengths is None
            and cut is None
            and not torch.compiler.is_compiling()
            and _reads_plainly(cast(Any, type(self)))
        ):
            # A step of one layer takes less time than all that follows. Only calls with nothing
            # special about them, which nobody records, come back from there with an answer, and it
            # is the same.
            found = ops.step(self, input, hx, reset)
            if found is not None:
                return found
        recorder = tools.recorder(self, lengths, reset, cut)
        if recorder == "trace":
            return super().forward(input, hx)
        weights = self._read_weights()
        sequence = normalise(
            input,
            input_size=self.input_size,
            batch_first=self.batch_first,
            weight=cast(Tensor, weights[0][0]),
            lengths=lengths,
            reset=reset,
            cut=cut,
            keep_packed=True,
        )
        state = self._initial_state(hx, sequence)
        first = tuple(s[0] for s in state)
        if sequence.plain and (
            recorder == "export"
            or ops.leaves_to_torch(self.mode, sequence.x, first, weights[0], sequence.batch_sizes)
        ):
            return self._finish(sequence, *self._run_in_torch(sequence, state, weights))
        return self._finish(sequence, *self._run(sequence, state, weights))

    def forward_tokens(
        self,
        tokens: Tensor,
        embedding: Tensor,
        hx: Tensor | tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        cut: Tensor | None = None,
    ):
        """Run the layer over the vectors of tokens: ``forward(embedding[tokens], …)``, faster.

        With fewer symbols than tokens, V < T·B, the input product is made for each symbol once and
        not for each token. Gradients reach ``embedding`` as they would through ``nn.Embedding``.

        Args:
            tokens: ``(T, B)`` int64, ``(B, T)`` with ``batch_first``, or ``(T,)``; each in 0…V-1.
            embedding: ``(V, I)``, e.g. the weight of an ``nn.Embedding``.
            hx: as in :meth:`forward`, and so are the other arguments and what is returned.

        Raises:
            ShapeError, DtypeError, DeviceError, ArgumentError: what does not fit, and what to do.
        """
        if tools.recorder(self, lengths, reset, cut) is not None:
            return self.forward(F.embedding(tokens, embedding), hx)
        weights = self._read_weights()
        sequence = normalise_tokens(
            tokens,
            embedding,
            input_size=self.input_size,
            batch_first=self.batch_first,
            weight=cast(Tensor, weights[0][0]),
            lengths=lengths,
            reset=reset,
            cut=cut,
        )
        state = self._initial_state(hx, sequence)
        first = tuple(s[0] for s in state)
        # Elsewhere no kernel reads from a table, and the loop is some ten launches a step.
        rows = None if embedding.is_cpu or not sequence.plain else sequence.tokens
        if rows is not None and ops.leaves_to_torch(self.mode, embedding, first, weights[0]):
            sequence = replace(sequence, x=F.embedding(rows, embedding), tokens=None)
            return self._finish(sequence, *self._run_in_torch(sequence, state, weights))
        return self._finish(sequence, *self._run(sequence, state, weights))

    def _finish(self, sequence: Sequence, y: Tensor, final: ops.State):
        final = tuple(sequence.unsort(s) for s in final)
        if not sequence.batched:
            final = tuple(s.squeeze(1) for s in final)
        return sequence.restore(y), final if self.mode == "LSTM" else final[0]

    def _run(
        self, sequence: Sequence, state: ops.State, weights: list[Weights]
    ) -> tuple[Tensor, ops.State]:
        directions = 2 if self.bidirectional else 1
        y = sequence.x
        finals: list[ops.State] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout > 0:
                y = F.dropout(y, self.dropout, self.training)
            outputs = []
            for direction in range(directions):
                row = layer * directions + direction
                rest = tuple(s[row] for s in state), weights[row]
                marks: dict[str, Any] = {
                    "lengths": sequence.lengths,
                    "reset": _turn(sequence.reset, sequence.lengths)
                    if direction
                    else sequence.reset,
                    "cut": _turn(sequence.cut, sequence.lengths) if direction else sequence.cut,
                    "reverse": bool(direction),
                }
                if layer == 0 and sequence.tokens is not None:
                    output, final = ops.recur_tokens(
                        self.mode, sequence.tokens, sequence.x, *rest, **marks
                    )
                else:
                    marks["batch_sizes"] = sequence.batch_sizes
                    output, final = ops.recur(self.mode, y, *rest, **marks)
                outputs.append(output)
                finals.append(final)
            y = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        ended = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
        if y.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            dtypes = self._autocast_dtypes(sequence, state)
            y = y.to(dtypes[0])
            ended = tuple(s.to(d) for s, d in zip(ended, dtypes[1:], strict=True))
        return y, ended

    def _run_in_torch(
        self, sequence: Sequence, state: ops.State, weights: list[Weights]
    ) -> tuple[Tensor, ops.State]:
        """The whole stack in torch's own operator, with the weights as they were read."""
        packed = () if sequence.batch_sizes is None else (sequence.batch_sizes,)
        flat = [weight for row in weights for weight in row if weight is not None]
        # cuDNN keeps what backward needs only while it trains; without dropout the two modes are one.
        train = self.training or (sequence.x.device.type == "cuda" and torch.is_grad_enabled())
        y, *final = getattr(torch._VF, self.mode.lower())(
            sequence.x, *packed, state if self.mode == "LSTM" else state[0], flat, self.bias,
            self.num_layers, self.dropout if self.training else 0.0, train, self.bidirectional,
            *(() if packed else (False,)),
        )  # fmt: skip
        return y, tuple(final)

    def _autocast_dtypes(self, sequence: Sequence, state: ops.State) -> list[torch.dtype]:
        """What torch's layer returns under autocast on the CPU: dtypes of the output and the states.

        Its products come in the short dtype; what is added to a state takes the wider of the two. The
        kernels compute in float32 all the same.
        """
        short, wide = torch.get_autocast_dtype("cpu"), state[-1].dtype
        if torch.float64 in (sequence.x.dtype, wide):
            return [torch.float64] * (1 + len(state))
        wide = torch.promote_types(short, wide)
        if self.mode == "GRU":
            return [wide, wide]
        if self.mode != "LSTM":
            return [short, short]
        if self.proj_size:
            return [short, short, wide]
        # The fused operator that torch has for padded input keeps every one of them short.
        half = sequence.x.dtype == torch.float16 and torch.is_grad_enabled()
        fused = sequence.batch_sizes is None and sequence.lanes > 0 and not half
        return [short if fused and torch.backends.mkldnn.enabled else wide] * 3

    def _read_weights(self) -> list[Weights]:
        """The weights of each layer and direction, read once: a parametrization computes at a read."""
        # By name, not from _flat_weights: torch.func.functional_call and parametrizations replace
        # the attributes and leave that list behind.
        if not is_parametrized(self) or torch.compiler.is_compiling():
            return self._by_row(self.all_weights)
        held = [
            (module, name, buffer, buffer._version, buffer.clone())
            for module in cast(nn.Module, self.parametrizations).modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        weights = self.all_weights
        if all(module.get_buffer(name) is b and b._version == v for module, name, b, v, _ in held):
            return self._noted(weights)
        # Spectral norm takes a step of its power iteration at every read. So the result depends on
        # how often weights are read, and that is as often as torch's own layer reads them.
        with torch.no_grad():
            for module, name, buffer, _, value in held:
                setattr(module, name, buffer.copy_(value))
        before = self._flat_weights, self._flat_weight_refs
        self._update_flat_weights()
        named = dict(zip(self._flat_weights_names, self._flat_weights, strict=True))
        self._flat_weights, self._flat_weight_refs = before
        return self._noted([[named[name] for name in row] for row in self._all_weights])

    def _noted(self, weights) -> list[Weights]:
        """The rows; computed weights stay known until the next call, for whoever measures this one."""
        self._used = UsedWeights([weight for row in weights for weight in row])
        return self._by_row(weights)

    def _by_row(self, weights) -> list[Weights]:
        # torch leaves biases out where there are none.
        return [tuple(row) if self.bias else (*row[:2], None, None, *row[2:]) for row in weights]

    def _initial_state(self, hx, sequence: Sequence) -> ops.State:
        rows = self.num_layers * (2 if self.bidirectional else 1)
        lanes = sequence.lanes
        sizes = [self.proj_size or self.hidden_size]
        names = ["hx"]
        if self.mode == "LSTM":
            sizes.append(self.hidden_size)
            names = ["hx[0]", "hx[1]"]
        if hx is None:
            return tuple(sequence.x.new_zeros(rows, lanes, size) for size in sizes)
        if self.mode != "LSTM":
            hx = (hx,)
        elif isinstance(hx, Tensor) or len(hx) != 2:
            raise DtypeError(
                "hx as the pair (h, c)", _kind(hx), "pass both states, or leave hx out for zeros"
            )
        return tuple(
            sequence.sort(
                check_state(part, (rows, lanes, size), sequence.batched, sequence.x, name)
            )
            for part, size, name in zip(hx, sizes, names, strict=True)
        )


class RNN(tools.OneState, _Recurrent, nn.RNN):  # type: ignore[misc]
    """Elman network, h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or ReLU in place of tanh.

    Takes ``torch.nn.RNN``'s whole signature and state dict; see the module's head for what a call
    takes beyond it.

    Cost: T·B·H·(I + H) multiply-adds forward, twice that backward; memory O(T·B·H).

    Example:
        >>> import torch, bptt
        >>> rnn = bptt.nn.RNN(3, 5)
        >>> y, h = rnn(torch.randn(7, 2, 3), lengths=torch.tensor([7, 4]))
        >>> y.shape, h.shape, bool((y[4:, 1] == 0).all())
        (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]), True)

    Source: J. L. Elman, 1990, Finding structure in time.
    """


class GRU(tools.OneState, _Recurrent, nn.GRU):  # type: ignore[misc]
    """Gated recurrent unit, the reset gate applied after the matrix product, as in PyTorch and cuDNN.

    r_t = σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr), z_t likewise,
    n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h_{t-1} + b_hn)), h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}.

    Takes ``torch.nn.GRU``'s whole signature and state dict.

    Cost: 3·T·B·H·(I + H) multiply-adds forward, twice that backward; memory O(T·B·H).

    Example:
        >>> import torch, bptt
        >>> gru = bptt.nn.GRU(3, 5, batch_first=True)
        >>> reset = torch.tensor([[False, False, True, False]])    # a new sequence begins at step 2
        >>> x = torch.randn(1, 4, 3)
        >>> y, h = gru(x, reset=reset)
        >>> bool(torch.allclose(y[:, 2:], gru(x[:, 2:])[0], atol=1e-6))
        True

    Source: K. Cho et al., 2014, Learning phrase representations using RNN encoder-decoder.
    """


class LSTM(tools.TwoStates, _Recurrent, nn.LSTM):  # type: ignore[misc]
    """Long short-term memory with forget gate, and an optional projection of the output.

    i, f, o = σ(W x_t + b + U h_{t-1} + u) each, g = tanh(…),
    c_t = f ⊙ c_{t-1} + i ⊙ g, h_t = o ⊙ tanh(c_t); with ``proj_size``, h_t = W_hr (o ⊙ tanh(c_t)).

    Takes ``torch.nn.LSTM``'s whole signature and state dict.

    Cost: 4·T·B·H·(I + H) multiply-adds forward, twice that backward; memory O(T·B·H).

    Example:
        >>> import torch, bptt
        >>> lstm = bptt.nn.LSTM(3, 5, num_layers=2)
        >>> y, (h, c) = lstm(torch.randn(7, 2, 3), cut=torch.zeros(7, 2, dtype=torch.bool))
        >>> y.shape, c.shape
        (torch.Size([7, 2, 5]), torch.Size([2, 2, 5]))

    Source: S. Hochreiter and J. Schmidhuber, 1997, Long short-term memory; F. Gers et al., 2000,
    Learning to forget.
    """


@functools.cache
def _reads_plainly(kind: Any) -> bool:
    """Whether a weight of such a layer is what stands in ``_parameters``: no class computes it."""
    names = ("weight_", "bias_")
    return (
        getattr(kind, "__getattr__", None) is nn.Module.__getattr__
        and kind.__getattribute__ is object.__getattribute__
        and kind.all_weights is nn.RNNBase.all_weights
        and not any(name.startswith(names) for base in kind.__mro__ for name in vars(base))
    )


def _turn(mark: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """Marks for the reversed direction: entering t from t + 1 crosses the border before t + 1."""
    if mark is None:
        return None
    if lengths is not None:
        # A mark in the padding marks nothing; shifted, it would stand on the lane's last step.
        mark = mark & (torch.arange(mark.shape[0], device=mark.device)[:, None] < lengths)
    return torch.cat([mark[1:], torch.zeros_like(mark[:1])])


def _kind(value: object) -> str:
    return "one tensor" if isinstance(value, Tensor) else f"{type(value).__name__} of {value!r:.40}"

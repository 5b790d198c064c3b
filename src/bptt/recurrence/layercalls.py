"""What a layer was called with, in normal form: time-major, batched, padded, detached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from bptt import ops
from bptt.nn.inputs import as_lengths, as_marks
from bptt.recurrence.layers import LayerCall, layer_weights
from bptt.recurrence.linear import States


def normal_layer_call(
    name: str,
    module: nn.RNNBase,
    input: Any,
    state: Any,
    options: Mapping[str, Any],
    output: Any,
    generator: Tensor | None,
    embedding: Tensor | None = None,
) -> LayerCall:
    """Build a :class:`LayerCall` from what went in and came out.

    Args:
        input: what the layer was given; tokens if ``embedding`` is given.
        options: ``lengths``, ``reset``, ``cut``, as the layer's call took them.
        output: what the call returned.
        generator: state of the random generator before the call.
    """
    # In the dtype of the output, which autocast may have lowered.
    y_raw = output[0]
    packed = y_raw if isinstance(y_raw, PackedSequence) else None
    lengths = options.get("lengths")
    if packed is not None:
        y, lengths = pad_packed_sequence(_detached(packed))
        x, _ = pad_packed_sequence(_detached(input))
        lengths = lengths.to(x.device)
        batched = True
    else:
        batched = y_raw.dim() == 3
        y = time_major(y_raw.detach(), module, batched)
        x = time_major(input.detach(), module, batched)
        if embedding is not None:
            x = F.embedding(x, embedding.detach())
        if lengths is not None:
            lengths = as_lengths(lengths).to(y.device)
    dtype = torch.promote_types(y.dtype, torch.float32)

    def mark(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        value = time_major(as_marks("a mark", value), module, batched).to(y.device)
        if lengths is None:
            return value
        # A mark in the padding marks nothing.
        return value & (torch.arange(value.shape[0], device=y.device)[:, None] < lengths)

    final = output[1] if module.mode == "LSTM" else (output[1],)
    start: States
    if state is None:
        start = tuple(torch.zeros_like(_rows(f, batched), dtype=dtype) for f in final)
    else:
        given = state if module.mode == "LSTM" else (state,)
        start = tuple(_rows(s, batched).to(dtype) for s in given)
    marked = options.get("reset") is not None or options.get("cut") is not None
    plain = not marked and (lengths is None or packed is not None) and embedding is None
    by_torch = not _ours(module) or (
        plain and ops.leaves_to_torch(module.mode, x, start, layer_weights(module, 0)[0])
    )
    drops = module.dropout > 0 and module.training and module.num_layers > 1
    return LayerCall(
        name,
        module,
        x.to(dtype),
        start,
        y.to(dtype),
        lengths=lengths,
        reset=mark(options.get("reset")),
        cut=mark(options.get("cut")),
        generator=generator if drops else None,
        packed=packed if packed is None else _detached(packed),
        by_torch=by_torch,
    )


def time_major(value: Tensor, module: nn.RNNBase, batched: bool) -> Tensor:
    """The caller's tensor with time and lanes in front."""
    if not batched:
        return value.unsqueeze(1)
    return value.transpose(0, 1) if module.batch_first else value


def _rows(state: Tensor, batched: bool) -> Tensor:
    return state.detach() if batched else state.detach().unsqueeze(1)


def _detached(packed: PackedSequence) -> PackedSequence:
    return PackedSequence(packed.data.detach(), *packed[1:])


def _ours(module: nn.RNNBase) -> bool:
    return hasattr(module, "forward_tokens")

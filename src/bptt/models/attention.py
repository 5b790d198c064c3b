"""A causal transformer decoder over a sliding window: the rung above the recurrent models.

Limits: the carry holds keys and values, so it is ``2 layers (context - 1) width`` numbers a lane;
in training mode dropout draws anew in every chunk, so chunked equals whole in ``eval()`` only.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from bptt.errors import ArgumentError, DtypeError, ShapeError, describe
from bptt.models.window import check_dropout, check_sizes, check_tokens


class AttentionCarry(NamedTuple):
    """What attention keeps of the past, P = context - 1 tokens of it; the lane axis is 1.

    Args:
        keys: (L, B, heads, P, width / heads), not yet rotated.
        values: (L, B, heads, P, width / heads).
        visible: (P, B) bool, False where there was no token of the present document.
    """

    keys: Tensor
    values: Tensor
    visible: Tensor


def rotated(x: Tensor, first: int) -> Tensor:
    """Rotate each pair of features by an angle that grows with the position.

    ``(x_i, x_{i+d/2}) -> R(p 10000^{-2i/d}) (x_i, x_{i+d/2})`` at position p. The product of a
    query and a key rotated so depends on the distance of their positions only.

    Args:
        x: (..., n, d) with d even.
        first: the position of ``x[..., 0, :]``; the others follow.

    Returns:
        Same shape as x.

    Cost: O(n d) for the angles and O(x) for the product.

    Example:
        >>> q, k = torch.ones(1, 4), torch.ones(1, 4)
        >>> near = rotated(q, 3) @ rotated(k, 2).mT
        >>> far = rotated(q, 903) @ rotated(k, 902).mT
        >>> torch.allclose(near, far, atol=1e-4)
        True

    Source: Su, Lu, Pan, Wen and Liu (2021), "RoFormer: enhanced transformer with rotary position
    embedding".
    """
    n, d = x.shape[-2:]
    position = torch.arange(first, first + n, device=x.device, dtype=torch.float64)
    rate = 10000.0 ** (torch.arange(0, d, 2, device=x.device, dtype=torch.float64) / -d)
    angle = position.unsqueeze(-1) * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class AttentionBlock(nn.Module):
    """One pre-norm layer: ``x + Attention(LN x)``, then ``x + MLP(LN x)``, MLP 4 times as wide."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 4 * width)
        self.hidden_output = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map x (B, T, width) to the same shape, and return all keys and values it attended to.

        Args:
            x: (B, T, width).
            past: keys and values (B, heads, P, width / heads) before x, or None.
            mask: (B, 1, T, P + T) bool, True where a query may look; None for plain causal.
        """
        lanes, steps, width = x.shape
        mixed = self.query_key_value(self.attention_norm(x))
        query, key, value = mixed.unflatten(-1, (3, self.heads, width // self.heads)).permute(
            2, 0, 3, 1, 4
        )
        if past is not None:
            key, value = torch.cat((past[0], key), dim=2), torch.cat((past[1], value), dim=2)
        seen = scaled_dot_product_attention(
            # Keys are kept unrotated and numbered from the oldest: positions stay small however
            # long the stream, and only distances matter.
            rotated(query, key.shape[2] - steps),
            rotated(key, 0),
            value,
            attn_mask=mask,
            is_causal=mask is None,
        )
        seen = seen.transpose(1, 2).reshape(lanes, steps, width)
        x = x + self.dropout(self.attention_output(seen))
        hidden = gelu(self.hidden(self.hidden_norm(x)))
        return x + self.dropout(self.hidden_output(hidden)), key, value


class Windows(nn.Module):
    """What the model and the layer share: blocks of causal attention over a sliding window, with a carry.

    A subclass has ``blocks``, ``norm``, ``heads``, ``width`` and ``context``, and says what the
    vectors of its inputs are and what it answers.
    """

    blocks: nn.ModuleList
    norm: nn.LayerNorm
    heads: int
    width: int
    context: int

    @abstractmethod
    def _vectors(self, inputs: Tensor) -> Tensor:
        """``(T, B, …)`` inputs as ``(T, B, width)``."""

    @abstractmethod
    def _answer(self, x: Tensor) -> Tensor:
        """What is handed out for ``(B, T, width)``."""

    def _draw_blocks(self) -> None:
        for name, weight in self.blocks.named_parameters():
            if weight.ndim == 2:
                std = weight.shape[1] ** -0.5
                # 2 L branches are added up; their sum should be as large as what they are added to.
                if name.endswith("_output.weight"):
                    std *= (2 * len(self.blocks)) ** -0.5
                nn.init.normal_(weight, std=std)
            else:
                (nn.init.ones_ if name.endswith("norm.weight") else nn.init.zeros_)(weight)
        self.norm.reset_parameters()

    def _run(
        self,
        inputs: Tensor,
        carry: tuple[Tensor, Tensor, Tensor] | None,
        reset: Tensor | None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, AttentionCarry]:
        past = None if carry is None else self._checked(carry, inputs.shape[1])
        # In pieces of about a window each, every query meets at most two windows of keys: the
        # cost stays linear in T, and by the law of the carry nothing else changes.
        piece = max(self.context, 64)
        answers: list[Tensor] = []
        for start in range(0, len(inputs), piece):
            flags = None if reset is None else reset[start : start + piece]
            part, past = self._piece(
                inputs[start : start + piece],
                past,
                flags,
                None if lengths is None else (lengths - start).clamp(0, piece),
            )
            answers.append(part)
        # T >= 1 was checked, so there was a piece and there is a carry.
        return (torch.cat(answers) if len(answers) > 1 else answers[0]), cast(AttentionCarry, past)

    def _piece(
        self,
        inputs: Tensor,
        past: AttentionCarry | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, AttentionCarry]:
        steps = len(inputs)
        document = inputs.new_zeros(inputs.shape[:2], dtype=torch.int64)
        if reset is not None:
            document = reset.cumsum(0)
        if past is not None:
            # The carried tokens are of document 0, in which the piece begins, or of none.
            document = torch.cat((past.visible.to(document.dtype) - 1, document))
        mask = None
        if past is not None or reset is not None or steps > self.context:
            mask = self._mask(document, steps)
        x = self._vectors(inputs).transpose(0, 1)
        keep = self.context - 1
        ends = None if lengths is None else lengths + (len(document) - steps)
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            before = None if past is None else (past.keys[layer], past.values[layer])
            x, key, value = block(x, before, mask)
            keys.append(_last(key, keep, dim=2) if ends is None else _until(key, ends, keep))
            values.append(_last(value, keep, dim=2) if ends is None else _until(value, ends, keep))
        if ends is None:
            visible = _last(document == document[-1], keep, dim=0)
        else:  # of each lane the tokens before its end, those of the document it ended in
            lanes = (document + 1).T[:, None, :, None]  # 0 stands for nothing
            now = _until(lanes, ends, 1).flatten()
            own = _until(lanes, ends, keep).flatten(1).T
            visible = (own == now) & (own > 0)
        answer = self._answer(x).transpose(0, 1)
        return answer, AttentionCarry(torch.stack(keys), torch.stack(values), visible)

    def _mask(self, document: Tensor, steps: int) -> Tensor:
        """Which keys (B, 1, T, S) the last T of S tokens may see."""
        key = torch.arange(len(document), device=document.device)
        distance = key[-steps:].unsqueeze(1) - key
        near = (distance >= 0) & (distance < self.context)
        same = document[-steps:].T.unsqueeze(2) == document.T.unsqueeze(1)
        return (near & same).unsqueeze(1)

    def _checked(self, carry: tuple[Tensor, Tensor, Tensor], lanes: int) -> AttentionCarry:
        if not isinstance(carry, tuple) or len(carry) != 3:
            raise ShapeError(
                "a carry of three tensors, keys, values and visible",
                type(carry).__name__,
                "hand on the carry of the chunk before, or None",
            )
        past = AttentionCarry(*carry)
        width, keep = self.width, self.context - 1
        cache = (len(self.blocks), lanes, self.heads, keep, width // self.heads)
        shapes = (cache, cache, (keep, lanes))
        for name, tensor, shape in zip(past._fields, past, shapes, strict=True):
            if tensor.shape != shape:
                raise ShapeError(
                    f"carry.{name} of shape {shape}",
                    describe(tensor.shape),
                    "hand on the carry of the chunk before, with the same lanes, or None",
                )
        if past.visible.dtype != torch.bool:
            raise DtypeError(
                "a bool carry.visible", str(past.visible.dtype), "hand on what the model returned"
            )
        return past


class AttentionModel(Windows):
    """Predicts the next token with causal attention over the last ``context`` tokens, per layer.

    ``x⁰ = E tokens``; per layer ``x = x + W_o softmax(Q Kᵀ / √d + mask) V``, then
    ``x = x + W_2 GELU(W_1 x)``, both behind a layer norm; ``logits = W LN(x)``. Positions enter by
    rotating queries and keys.

    The carry is the keys and values of the last ``context - 1`` tokens, layer by layer, so a text
    in chunks gives what it gives in one call. As in any stack of sliding windows, what a layer
    reads at distance ``context - 1`` has read as far back itself: the model as a whole reaches
    ``layers (context - 1)`` tokens back. The carry comes back attached to the graph; detached
    between chunks, as truncated backpropagation does, this is Transformer-XL's recurrence.

    Args:
        vocabulary_size: V.
        width: features per token; ``width / heads`` must be even.
        heads: attention heads per layer.
        layers: L.
        context: how many tokens a layer attends to, the current one included.
        dropout: share of the features set to zero, in training, after the embedding and at the end
            of each branch.

    Raises:
        ArgumentError: a size is out of range.

    Cost: ``12 L width² + 2 L width min(T, context) + width V`` multiply-adds per token, forward,
    half as much attention again where a carry comes in; O(T B L width) memory, and for longer
    texts than ``context`` still linear in T.

    Example:
        >>> model = AttentionModel(5, width=16, heads=2, layers=1, context=3)
        >>> tokens = torch.tensor([[0, 1], [2, 3], [4, 0], [1, 2]])
        >>> logits, carry = model(tokens)
        >>> logits.shape, carry.keys.shape, carry.visible.shape
        (torch.Size([4, 2, 5]), torch.Size([1, 2, 2, 2, 8]), torch.Size([2, 2]))

    Source: Vaswani et al. (2017), "Attention is all you need"; pre-norm: Xiong et al. (2020), "On
    layer normalization in the transformer architecture"; the carry: Dai et al. (2019),
    "Transformer-XL: attentive language models beyond a fixed-length context".
    """

    def __init__(
        self,
        vocabulary_size: int,
        width: int = 96,
        heads: int = 4,
        layers: int = 3,
        context: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        vocabulary_size, width, heads, layers, context = check_sizes(
            vocabulary_size=vocabulary_size,
            width=width,
            heads=heads,
            layers=layers,
            context=context,
        )
        dropout = check_dropout(dropout)
        if width % (2 * heads):
            raise ArgumentError(
                "width divisible by 2 heads",
                f"width={width}, heads={heads}",
                f"pass for example width={2 * heads * max(width // (2 * heads), 1)}",
            )
        self.vocabulary_size = vocabulary_size
        self.heads, self.width, self.context = heads, width, context
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights: variance kept layer by layer, branches scaled by 1/√(2 L)."""
        nn.init.normal_(self.embedding.weight)
        self._draw_blocks()
        # Logits near zero: training starts at the uniform model's log V.
        nn.init.normal_(self.output.weight, std=0.1 * self.output.in_features**-0.5)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        tokens: Tensor,
        carry: tuple[Tensor, Tensor, Tensor] | None = None,
        *,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, AttentionCarry]:
        """Logits of the token after each step.

        Args:
            tokens: (T, B) int64.
            carry: keys, values and visibility of the ``context - 1`` tokens before these, see
                ``AttentionCarry``; None starts fresh.
            reset: (T, B) bool, True where a new document begins with this token.

        Returns:
            logits (T, B, V) and the next carry.

        Raises:
            ShapeError, DtypeError, DataError: an argument does not fit.
        """
        reset = check_tokens(tokens, reset, self.vocabulary_size)
        return self._run(tokens, carry, reset)

    def _vectors(self, inputs: Tensor) -> Tensor:
        return self.dropout(self.embedding(inputs))

    def _answer(self, x: Tensor) -> Tensor:
        return self.output(self.norm(x))

    def extra_repr(self) -> str:
        """What ``print(model)`` adds."""
        return f"vocabulary_size={self.vocabulary_size}, context={self.context}"


def _last(x: Tensor, size: int, dim: int) -> Tensor:
    """The last ``size`` entries along ``dim``, zeros (False) before them where x is too short."""
    have = x.shape[dim]
    if have >= size:
        return x.narrow(dim, have - size, size)
    # Not F.pad: torch 2.7 to 2.9 has it refuse a batch without a lane.
    shape = [*x.shape[:dim], size - have, *x.shape[dim + 1 :]]
    return torch.cat([x.new_zeros(shape), x], dim)


def _until(x: Tensor, ends: Tensor, size: int) -> Tensor:
    """Of x ``(B, heads, S, d)`` the ``size`` entries of each lane before its end ``(B,)``, zeros
    before the first."""
    padded = torch.cat([x.new_zeros(*x.shape[:2], size, x.shape[3]), x], 2)
    index = ends[:, None] + torch.arange(size, device=x.device)
    return padded.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))

"""The recurrent language model: embedding, recurrent layers, one linear layer to the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt import nn as layers_of
from bptt import ops
from bptt.errors import ArgumentError, NonFiniteError
from bptt.models.window import check_dropout, check_sizes, check_tokens
from bptt.nn.carry import Carry

CELLS: dict[str, tuple[type, dict[str, Any]]] = {
    "rnn": (layers_of.RNN, {"nonlinearity": "tanh"}),
    "rnn-relu": (layers_of.RNN, {"nonlinearity": "relu"}),
    "gru": (layers_of.GRU, {}),
    "lstm": (layers_of.LSTM, {}),
    "mingru": (layers_of.MinGRU, {}),
    # Moduli that decay over 10 to 1000 steps: a text's distances.
    "lru": (layers_of.LRU, {"r_min": 0.9, "r_max": 0.999}),
}


class LanguageModel(nn.Module):
    """p(x_{t+1} | x_1 … x_t) = softmax(W h_t + b), with h_t the top layer's state.

    Args:
        vocabulary_size: V.
        cell: ``"rnn"``, ``"rnn-relu"``, ``"gru"``, ``"lstm"``, ``"mingru"`` or ``"lru"``.
        hidden: H.
        layers: L, stacked.
        embedding: I, size of a token's vector; default H.
        dropout: share dropped, while training, between layers and before the output. Not from the
            embedding: its vectors then stay the same for every occurrence of a token, and the input
            product is made once a symbol.

    Raises:
        ArgumentError: the cell is unknown, or a size or share is out of range.

    Cost: per token and layer that of its cell, and 2·H·V for the output.

    Example:
        >>> import torch
        >>> model = LanguageModel(27, cell="gru", hidden=16)
        >>> tokens = torch.randint(27, (5, 2))
        >>> logits, carry = model(tokens)
        >>> logits.shape, carry.shape
        (torch.Size([5, 2, 27]), torch.Size([1, 2, 16]))
        >>> more, carry = model(tokens, carry)      # goes on where the first call stopped

    Source: T. Mikolov et al., 2010, Recurrent neural network based language model.
    """

    def __init__(
        self,
        vocabulary_size: int,
        cell: str = "gru",
        hidden: int = 192,
        layers: int = 1,
        embedding: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ArgumentError(f"a cell among {', '.join(CELLS)}", repr(cell), "pick one of them")
        embedding = hidden if embedding is None else embedding
        vocabulary_size, hidden, layers, embedding = check_sizes(
            vocabulary_size=vocabulary_size, hidden=hidden, layers=layers, embedding=embedding
        )
        dropout = check_dropout(dropout)
        layer, options = CELLS[cell]
        self.vocabulary_size = vocabulary_size
        self.dropout = dropout
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        between = dropout if layers > 1 else 0.0
        self.recurrent = layer(embedding, hidden, layers, dropout=between, **options)
        self.output = nn.Linear(hidden, vocabulary_size)
        # Uniform predictions at the start: the first loss is log V, and no update is spent on
        # unlearning random preferences.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        tokens: Tensor,
        carry: Carry = None,
        *,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        """Predict the token after each one.

        Args:
            tokens: ``(T, B)`` int64.
            carry: what an earlier call returned, or None for a fresh start.
            reset: ``(T, B)`` bool: a new document begins with this token.
            lengths: ``(B,)`` valid tokens of each lane, 0…T; logits beyond them say nothing.

        Returns:
            logits ``(T, B, V)``, and the carry after the last step.
        """
        reset = check_tokens(tokens, reset, self.vocabulary_size)
        h, carry = self.recurrent.forward_tokens(
            tokens, self.embedding.weight, carry, reset=reset, lengths=lengths
        )
        return self.output(ops.dropout(h, self.dropout, self.training)), carry


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats over the targets that are scored (not -100).

    Args:
        logits: ``(T, B, V)``.
        targets: ``(T, B)`` int64.

    Example:
        >>> import torch
        >>> token_loss(torch.zeros(3, 2, 4), torch.ones(3, 2, dtype=torch.int64))  # log 4
        tensor(1.3863)
    """
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def diverged(received: str) -> NonFiniteError:
    """The error of a model whose predictions are no numbers, though its weights may be."""
    return NonFiniteError(
        "predictions that are finite numbers",
        received,
        "the model has diverged, and --resume would go on from there; train a new run with a lower "
        "--lr or another --clip",
    )


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode is afterwards what it was."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)

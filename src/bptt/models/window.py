"""A multilayer perceptron over the last few tokens: the rung without recurrence.

Two functions here serve every baseline: ``check_tokens`` and ``recent_tokens``.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from bptt.errors import ArgumentError, DataError, DtypeError, ShapeError, describe, real, whole
from bptt.nn.inputs import as_marks
from bptt.ops import native


def check_tokens(tokens: Tensor, reset: Tensor | None, vocabulary_size: int) -> Tensor | None:
    """Raise unless the arguments are what every language model takes.

    Args:
        tokens: (T, B) int64, T >= 1, each in ``0 .. vocabulary_size - 1``.
        reset: (T, B) bool, or None.
        vocabulary_size: V.

    Returns:
        ``reset`` as a tensor, or None.

    Raises:
        ShapeError, DtypeError, DataError: shape, dtype or a token does not fit.

    Cost: O(T B), and on an accelerator one wait for the device.

    Example:
        >>> check_tokens(torch.tensor([[3]]), None, 3)
        Traceback (most recent call last):
        bptt.errors.DataError: expected tokens in 0 .. 2, received 3: encode the text with the \
vocabulary that the model was made for
    """
    if not isinstance(tokens, Tensor):
        raise DtypeError(
            "tokens as an int64 tensor",
            type(tokens).__name__,
            "convert them: torch.as_tensor(tokens)",
        )
    if tokens.ndim != 2 or tokens.shape[0] == 0:
        raise ShapeError(
            "tokens (T, B) with T >= 1",
            describe(tokens.shape, "TB"),
            "pass time first, one column a lane",
        )
    if tokens.dtype != torch.int64:
        raise DtypeError("int64 tokens", str(tokens.dtype), "convert them with .long()")
    if reset is not None:
        reset = as_marks("reset", reset)
        if reset.shape != tokens.shape:
            raise ShapeError(
                f"reset of the tokens' shape {describe(tokens.shape, 'TB')}",
                describe(reset.shape, "TB"),
                "pass one flag for every token",
            )
    # Under torch.func a tensor has no values to look at.
    if native.transformed() or not tokens.numel():
        return reset
    low, high = (int(end) for end in torch.aminmax(tokens))
    if low < 0 or high >= vocabulary_size:
        raise DataError(
            f"tokens in 0 .. {vocabulary_size - 1}",
            str(low if low < 0 else high),
            "encode the text with the vocabulary that the model was made for",
        )
    return reset


def check_sizes(**sizes: int) -> tuple[int, ...]:
    """The sizes as int; ``ArgumentError`` unless every one is a whole number of at least 1."""
    return tuple(whole(name, size, remedy="pass a positive size") for name, size in sizes.items())


def check_dropout(dropout: float) -> float:
    """The share as float; ``ArgumentError`` unless 0 <= dropout < 1."""
    dropout = real("dropout", dropout, "pass for example 0.1")
    if not 0 <= dropout < 1:
        raise ArgumentError("0 <= dropout < 1", f"dropout={dropout}", "pass for example 0.1")
    return dropout


def recent_tokens(
    tokens: Tensor, carry: Tensor | None, reset: Tensor | None, window: int, vocabulary_size: int
) -> tuple[Tensor, Tensor]:
    """The last ``window`` tokens at each step, the current one last, each as its id plus 1.

    Where the document is younger than the window, 0 stands before its beginning. So a carry of
    zeros is a fresh start, as it is for a recurrent state.

    Args:
        tokens: (T, B) int64, checked.
        carry: (window - 1, B) int64, the tokens before these; None where nothing is before.
        reset: (T, B) bool, True where a document begins; None for nowhere.
        window: how many tokens, at least 1.
        vocabulary_size: V.

    Returns:
        windows (T, B, window) in 0 .. V, and the next carry (window - 1, B).

    Raises:
        ShapeError, DtypeError, DataError: the carry does not fit.

    Cost: O(T B window) time and memory.

    Example:
        >>> tokens = torch.tensor([[1], [2], [3]])
        >>> reset = torch.tensor([[False], [False], [True]])
        >>> recent_tokens(tokens, None, reset, 2, vocabulary_size=9)[0].squeeze(1).tolist()
        [[0, 2], [2, 3], [0, 4]]
    """
    before = (window - 1, tokens.shape[1])
    if carry is None:
        carry = tokens.new_zeros(before)
    elif not isinstance(carry, Tensor) or carry.shape != before:
        raise ShapeError(
            f"a carry (window - 1, B) of shape {before}",
            describe(carry.shape) if isinstance(carry, Tensor) else type(carry).__name__,
            "hand on the carry of the chunk before, with the same lanes, or None",
        )
    elif carry.dtype != torch.int64:
        raise DtypeError("an int64 carry", str(carry.dtype), "hand on what the model returned")
    elif carry.numel():
        low, high = (int(end) for end in torch.aminmax(carry))
        if low < 0 or high > vocabulary_size:
            raise DataError(
                f"a carry in 0 .. {vocabulary_size}",
                str(low if low < 0 else high),
                "hand on what the model returned",
            )
    windows = torch.cat((carry, tokens + 1)).unfold(0, window, 1)
    if reset is not None:
        document = reset.cumsum(0)
        # What was carried belongs to the document that the chunk begins in, number 0.
        numbers = torch.cat((document.new_zeros(before), document)).unfold(0, window, 1)
        windows = windows.masked_fill(numbers != document.unsqueeze(-1), 0)
    return windows, windows[-1, :, 1:].T.contiguous()


class WindowModel(nn.Module):
    """Predicts the next token from the last ``window`` tokens with a multilayer perceptron.

    ``e = [E x_{t-window+1}; …; E x_t]``,  ``h_1 = GELU(W_1 e + b_1)``, …,
    ``logits_t = W h_layers + b``.

    A padding symbol with an embedding of its own stands before the beginning of a document.

    Args:
        vocabulary_size: V.
        window: how many tokens it sees, the current one included.
        embedding: features per token.
        hidden: features per hidden layer.
        layers: hidden layers.
        dropout: share of the features set to zero after each hidden layer, in training.

    Raises:
        ArgumentError: a size is below 1, or dropout outside [0, 1).

    Cost: ``window embedding hidden + (layers - 1) hidden² + hidden V`` multiply-adds per token,
    forward; O(T B (window embedding + layers hidden + V)) memory. All steps run at once.

    Example:
        >>> model = WindowModel(5, window=3, hidden=8)
        >>> tokens = torch.tensor([[0, 1], [2, 3], [4, 0], [1, 2]])
        >>> logits, carry = model(tokens)
        >>> logits.shape, carry.shape
        (torch.Size([4, 2, 5]), torch.Size([2, 2]))

    Source: Bengio, Ducharme, Vincent and Jauvin (2003), "A neural probabilistic language model".
    """

    def __init__(
        self,
        vocabulary_size: int,
        window: int = 8,
        embedding: int = 32,
        hidden: int = 256,
        layers: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        vocabulary_size, window, embedding, hidden, layers = check_sizes(
            vocabulary_size=vocabulary_size,
            window=window,
            embedding=embedding,
            hidden=hidden,
            layers=layers,
        )
        dropout = check_dropout(dropout)
        self.vocabulary_size = vocabulary_size
        self.window = window
        self.embedding = nn.Embedding(vocabulary_size + 1, embedding)
        sizes = [window * embedding, *[hidden] * layers]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, vocabulary_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights: He's scale in the hidden layers, a small output layer."""
        nn.init.normal_(self.embedding.weight)
        for weight in self.hidden.parameters():
            if weight.ndim == 2:
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
            else:
                nn.init.zeros_(weight)
        # Logits near zero: training starts at the uniform model's log V.
        nn.init.normal_(self.output.weight, std=0.1 * self.output.in_features**-0.5)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, tokens: Tensor, carry: Tensor | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of the token after each step.

        Args:
            tokens: (T, B) int64.
            carry: (window - 1, B) int64, the tokens before these, each as its id plus 1, and 0
                where there was none; None starts fresh.
            reset: (T, B) bool, True where a new document begins with this token.

        Returns:
            logits (T, B, V) and the next carry (window - 1, B).

        Raises:
            ShapeError, DtypeError, DataError: an argument does not fit.
        """
        reset = check_tokens(tokens, reset, self.vocabulary_size)
        windows, carry = recent_tokens(tokens, carry, reset, self.window, self.vocabulary_size)
        features = self.embedding(windows).flatten(2)
        for layer in self.hidden:
            features = self.dropout(nn.functional.gelu(layer(features)))
        return self.output(features), carry

    def extra_repr(self) -> str:
        """What ``print(model)`` adds."""
        return f"vocabulary_size={self.vocabulary_size}, window={self.window}"

"""The recurrent language model: embedding, recurrent layers, one linear layer to the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bptt import nn as layers_of
from bptt import ops
from bptt.data import RandomChunks, Stream, Vocabulary
from bptt.errors import ArgumentError, NonFiniteError, optional, real, whole
from bptt.models.window import check_dropout, check_sizes, check_tokens
from bptt.nn import carry as carries
from bptt.nn.carry import Carry
from bptt.ops.device import device_of
from bptt.probes import Reading, read_text

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

    calls_our_layers = True  # bptt.revert leaves them

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
    return ops.cross_entropy(logits, targets)


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


# Text out of a language model: the state warmed up on a prompt, then one token at a time. And a piece of
# a text as the model reads it.


def generate(
    model: nn.Module,
    vocabulary: Vocabulary,
    prompt: str | None = None,
    *,
    length: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Continue a prompt, piece by piece, as the model goes.

    The state runs over the whole prompt first; then x ~ softmax(logits / temperature) over the
    ``top_k`` most likely tokens, and each is the next input.

    Args:
        model: takes tokens ``(T, B)`` and a carry.
        vocabulary: that of the model.
        prompt: what to continue, at least one character, all of them known to the vocabulary; None
            for :func:`default_prompt`.
        length: tokens to generate.
        temperature: 1 samples what the model believes, less is bolder, 0 takes the most likely, and
            of several the one with the smallest id.
        top_k: only the k most likely tokens, of equal ones those with the smallest ids; None for all.
        seed: of the draw, below 2^64; None for another text each time. The draw is made on the CPU,
            wherever the model lies.

    Yields:
        The text as it becomes certain, usually a character at a time. The prompt is not repeated.

    Raises:
        ArgumentError, DataError: a setting is out of range, or a character of the prompt unknown.
        NonFiniteError: the model's numbers are out of range; raised where the first of them is met.

    Cost: one call of the model for the prompt and one per token.

    Example:
        >>> from bptt.data import CharVocabulary
        >>> from bptt.models import LanguageModel
        >>> vocabulary = CharVocabulary.from_text("ab")
        >>> model = LanguageModel(vocabulary.size, hidden=4)
        >>> len("".join(generate(model, vocabulary, "a", length=5, seed=1)))
        5
    """
    length = whole("length", length, 0, "ask for 0 or more tokens")
    temperature = real("temperature", temperature, "1 is the plain model")
    seed = optional("seed", seed, None, "choose one from 0 to 2^64 - 1")
    if not 0 <= temperature < float("inf"):
        raise ArgumentError(
            "temperature >= 0", f"temperature={temperature}", "1 is the plain model"
        )
    top_k = optional("top_k", top_k, remedy="leave it out to allow every token")
    if seed is not None and not 0 <= seed < 2**64:
        raise ArgumentError("0 <= seed < 2^64", f"seed={seed}", "choose one in that range")
    prompt = default_prompt(vocabulary) if prompt is None else prompt
    if not prompt:
        raise ArgumentError(
            "a prompt of at least one character", "an empty one", "give a line break"
        )
    tokens = torch.from_numpy(vocabulary.encode(prompt, unknown="error").astype(np.int64))
    tokens = tokens.to(device_of(model))
    return _continue(model, vocabulary, tokens, length, temperature, top_k, seed)


def default_prompt(vocabulary: Vocabulary) -> str:
    """What to continue where nothing was given: the end of a line, or what comes nearest to it.

    Args:
        vocabulary: that of the model.

    Returns:
        one character that the vocabulary knows: a line feed, another end of a line, a space, or else
        its first symbol.

    Example:
        >>> from bptt.data import CharVocabulary
        >>> [default_prompt(CharVocabulary.from_text(t)) for t in ("a b\\n", "a b", "ba")]
        ['\\n', ' ', 'a']
    """
    for character in _BEGINNINGS:
        if not (vocabulary.encode(character) == vocabulary.unknown_id).any():
            return character
    return vocabulary.decode([1])  # id 0 stands for what is unknown


_BEGINNINGS = ("\n", "\r", "\u2028", "\u2029", "\x85", " ", "\u3000")


def _continue(
    model: nn.Module,
    vocabulary: Vocabulary,
    prompt: Tensor,
    length: int,
    temperature: float,
    top_k: int | None,
    seed: int | None,
) -> Iterator[str]:
    random = torch.Generator("cpu")
    if seed is None:
        random.seed()
    else:
        random.manual_seed(seed)
    decoder = vocabulary.stream_decoder()
    tokens, carry = prompt.unsqueeze(1), None
    for place in range(length):
        with inference(model):
            logits, carry = model(tokens, carry)
            carry = carries.detach(carry)
            last = logits[-1, 0].cpu()
            _require_finite(last, place)
            token = _draw(last, temperature, top_k, vocabulary.unknown_id, random)
        tokens = token.reshape(1, 1).to(prompt.device)
        yield decoder.push(int(token))
    yield decoder.finish()


def _require_finite(logits: Tensor, place: int) -> None:
    """Raise NonFiniteError where they say nothing; -inf is a token that cannot come."""
    if not bool(logits.max().isfinite()):
        kind = "nan" if bool(logits.isnan().any()) else "inf"
        raise diverged(f"{kind} among those for token {place + 1}")


def _draw(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    unknown: int | None,
    random: torch.Generator,
) -> Tensor:
    """One token; never the unknown symbol, which stands for no character."""
    logits = logits.double().clone()
    if unknown is not None:
        logits[unknown] = -torch.inf
    if top_k is not None and top_k < logits.numel():
        logits[logits.argsort(descending=True, stable=True)[top_k:]] = -torch.inf
    if temperature == 0:
        return (logits == logits.max()).nonzero()[0, 0]
    # From the largest down: whatever it is divided by, the largest stays 0 and none is NaN.
    scaled = (logits - logits.max()) / temperature
    return torch.multinomial(torch.softmax(scaled, -1), 1, generator=random)[0]


# A piece of a text as the model reads it, for pictures.

PICTURED, TOLD = (
    200,
    2000,
)  # symbols that are shown, and those from which is told what a unit follows


def read_piece(
    model: nn.Module, vocabulary: Vocabulary, stream: Stream, *, seed: int = 0
) -> Reading:
    """Read a place of a text at random: which earlier symbols each prediction depends on.

    Args:
        model: a :class:`bptt.models.LanguageModel`.
        vocabulary: that of the model.
        stream: the tokens, two or more.
        seed: of the place.

    Returns:
        :class:`bptt.probes.Reading` of 200 tokens, its units chosen on 2,000; of fewer where the text is
        shorter.

    Cost: 200 lanes of 200 steps, forward and backward.
    """
    length = min(TOLD + 1, len(stream.tokens) - 1)
    chunk = RandomChunks(*stream, batch=1, chunk=length, seed=seed).take()
    decoder = vocabulary.stream_decoder()
    ids = [*chunk.inputs[:, 0].tolist(), int(chunk.targets[-1, 0])]
    reset = None if chunk.reset is None else [*chunk.reset[:, 0].tolist(), False]
    if ids[-1] < 0:  # another document begins there
        ids, reset = ids[:-1], None if reset is None else reset[:-1]
    device = device_of(model)
    return read_text(
        model,
        torch.tensor(ids, device=device),
        [decoder.push(token) for token in ids],
        steps=min(PICTURED, len(ids) - 1),
        reset=None if reset is None else torch.tensor(reset, device=device),
    )

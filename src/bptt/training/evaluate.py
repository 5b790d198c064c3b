"""The held-out score: mean negative log-likelihood per token, and what it is in bits and perplexity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bptt import ops
from bptt.data import IGNORED, Lanes, Stream, Vocabulary
from bptt.errors import DataError, NonFiniteError, whole
from bptt.models.language import generate, inference
from bptt.nn import carry as carries
from bptt.ops.device import device_of
from bptt.training.distributed import Group

AT_ONCE = (
    1 << 19
)  # logits; in double and with their logarithms they take 10 MB, which a cache holds


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text.

    Attributes:
        tokens: predictions that were scored.
        nats: mean negative log-likelihood per token, natural logarithm.
        pieces: of the text, each scored from nothing; 1 gives the text's own score.
        characters: that those tokens have; None where a token is a character or a byte. An unknown word
            counts as one.
    """

    tokens: int
    nats: float
    pieces: int = 1
    characters: int | None = None

    @property
    def bits(self) -> float:
        """Bits per token, nats / ln 2."""
        return self.nats / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp(nats): the size of a uniform vocabulary that would be as hard."""
        return math.exp(self.nats) if self.nats < 700 else math.inf

    @property
    def bits_per_character(self) -> float | None:
        """Bits of all tokens over their characters; None where these are the same."""
        return None if not self.characters else self.bits * self.tokens / self.characters

    def as_dict(self) -> dict[str, float | None]:
        """The document that ``bptt eval --json`` prints; None where a number is not finite."""
        numbers = {"nats": self.nats, "bits": self.bits, "perplexity": self.perplexity}
        if self.bits_per_character is not None:
            numbers |= {"bits_per_character": self.bits_per_character}
        finite = {name: v if math.isfinite(v) else None for name, v in numbers.items()}
        return {"tokens": self.tokens, **finite}


def evaluate(
    model: nn.Module,
    stream: Stream,
    *,
    lanes: int = 1,
    chunk: int = 512,
    group: Group = Group(),  # noqa: B008
    vocabulary: Vocabulary | None = None,
) -> Score:
    """Score a model on a text.

    With one lane this is the text's own score: every token but the first is predicted from all that
    stands before it in its document. More lanes run faster and start that many times from nothing,
    which makes the score slightly worse; the tokens that do not fill the lanes are left out.

    Args:
        model: a language model, on any device; its mode is kept.
        stream: tokens, and where documents begin.
        lanes: B.
        chunk: steps per call of the model, fewer where the vocabulary is large; it changes the memory
            used, not the score.
        group: processes that score together, each its lanes where there are enough; otherwise each
            scores all of it, and the first one's score counts.
        vocabulary: that of the model; one of words or pieces gives a score per character too.

    Raises:
        DataError: fewer than two tokens, or none that is scored.

    Cost: one forward pass over the text.
    """
    lanes, chunk = whole("lanes", lanes), whole("chunk", chunk)
    length = len(stream.tokens)
    if length < 2:
        raise DataError("at least 2 tokens to score", f"{length}", "give a longer text")
    lanes = min(lanes, length - 1)
    symbols = lanes * int(getattr(model, "vocabulary_size", 1))
    chunk = max(1, min(chunk, (length - 1) // lanes, AT_ONCE // symbols))
    total, tokens, characters, carry = 0.0, 0, 0, None
    sizes = None if vocabulary is None else vocabulary.lengths
    split = lanes >= group.size
    own = group.lanes(lanes) if split else None
    device = device_of(model)
    with inference(model):
        for piece in Lanes(*stream, batch=lanes, chunk=chunk, lane_range=own):
            here = piece.to(device)
            logits, carry = model(here.inputs, carry, reset=None if piece.fresh else here.reset)
            carry = carries.detach(carry)
            total += ops.summed_nats(logits, here.targets)
            tokens += piece.scored
            if sizes is not None:
                characters += int(sizes[piece.targets[piece.targets != IGNORED].numpy()].sum())
    counts = [total, float(tokens), float(characters)]
    total, scored, read = group.total(counts if split or group.rank == 0 else [0.0] * 3)
    tokens = int(scored)
    if tokens == 0:
        raise DataError("a token to score", "documents of one token each", "give longer documents")
    return Score(tokens, total / tokens, lanes, None if sizes is None else int(read))


# A look at what a model makes of its text, while it trains.

LOOK = 60  # tokens


@dataclass(frozen=True)
class Look:
    """What a model predicts of a text's beginning, and what it writes by itself.

    Attributes:
        target: the text.
        predicted: for each of its tokens the likeliest, given all that stands before it.
        sample: written freely; empty where the model's numbers are out of range.
    """

    target: str
    predicted: str
    sample: str


def look(
    model: nn.Module, vocabulary: Vocabulary, stream: Stream, *, length: int = LOOK, seed: int = 0
) -> Look:
    """Read the beginning of a text with a model, and let it write.

    Args:
        model: a language model; its mode is kept.
        vocabulary: that of the model.
        stream: the text, of two tokens or more.
        length: tokens that are read, fewer where the text is shorter, and that are written.
        seed: of the sample.

    Returns:
        a :class:`Look`. Torch's random numbers are left as they were: equal calls give equal looks.

    Cost: one forward pass over ``length`` tokens, and as many of one token.

    Example:
        >>> from bptt.data import Corpus
        >>> from bptt.models import LanguageModel
        >>> text = Corpus.from_text("hello world!", valid_fraction=0)
        >>> found = look(LanguageModel(text.vocabulary.size, hidden=4), text.vocabulary, text.train)
        >>> found.target, len(found.predicted)
        ('ello world!', 11)
    """
    length = whole("length", length)
    chunk = Lanes(*stream, batch=1, chunk=min(length, len(stream.tokens) - 1)).take()
    here = chunk.to(device_of(model))
    with inference(model):
        logits, _ = model(here.inputs, None, reset=None if chunk.fresh else here.reset)
    asked = chunk.targets[:, 0] != IGNORED
    predicted = logits[:, 0].argmax(-1).cpu()[asked]
    try:
        pieces = generate(model, vocabulary, length=length, temperature=0.8, seed=seed)
        sample = "".join(pieces)
    except NonFiniteError:
        sample = ""
    return Look(
        vocabulary.decode(chunk.targets[asked, 0].numpy()),
        vocabulary.decode(predicted.numpy()),
        sample,
    )


# Forecasts of a series, beside what came.


@dataclass(frozen=True)
class ForecastScore:
    """How far forecasts were off, from every origin of a part of a series.

    Attributes:
        name: of the forecaster.
        mae: mean absolute error over all origins and steps ahead, in the unit of the series.
        mase: the same, divided by the error of "as a season before" on the training part; None where
            that is nothing.
        ahead: mean absolute error by steps ahead, from 1 on; NaN where no value is known.
        held: share of the values within the interval; None without one.
        width: mean width of the interval.
        blocks: mean absolute errors of origins a horizon apart, which share no value: what two
            forecasters differ by is judged on them.
    """

    name: str
    mae: float
    mase: float | None
    ahead: tuple[float, ...]
    held: float | None
    width: float | None
    blocks: tuple[float, ...]


def score_forecast(
    name: str, said: NDArray[Any], wanted: NDArray[Any], divisor: float
) -> ForecastScore:
    """Score forecasts.

    Args:
        name: of the forecaster.
        said: ``(N, H)``, or ``(N, H, 3)`` with an interval around the middle one.
        wanted: ``(N, H)``, NaN where no value is known.
        divisor: of MASE.

    Example:
        >>> said, wanted = np.zeros((4, 2)), np.array([[1.0, 3.0], [1.0, 3.0], [1.0, 3.0], [1.0, np.nan]])
        >>> found = score_forecast("zero", said, wanted, 2.0)
        >>> found.ahead, round(found.mae, 3), round(found.mase, 3), found.blocks
        ((1.0, 3.0), 1.857, 0.929, (2.0, 2.0))

    Source: R. J. Hyndman and A. B. Koehler, 2006, Another look at measures of forecast accuracy.
    """
    middle = said[:, :, 1] if said.ndim == 3 else said
    errors, known = np.abs(middle - wanted), np.isfinite(wanted)
    mae = float(errors[known].mean()) if known.any() else math.nan
    ahead = tuple(
        float(errors[known[:, h], h].mean()) if known[:, h].any() else math.nan
        for h in range(wanted.shape[1])
    )
    apart = range(0, len(wanted), wanted.shape[1])
    blocks = tuple(float(errors[n][known[n]].mean()) for n in apart if known[n].any())
    held = width = None
    if said.ndim == 3 and known.any():
        within = (wanted >= said[:, :, 0]) & (wanted <= said[:, :, 2])
        held, width = float(within[known].mean()), float((said[:, :, 2] - said[:, :, 0]).mean())
    mase = mae / divisor if divisor > 0 else None
    return ForecastScore(name, mae, mase, ahead, held, width, blocks)


def clearly_better(one: ForecastScore, other: ForecastScore) -> bool:
    """Whether the first is off by less than the second, by more than chance makes of these origins: two
    standard errors of the difference over the blocks, of which there must be at least five."""
    gaps = np.array(other.blocks) - np.array(one.blocks)
    if len(gaps) < 5:
        return False
    return bool(gaps.mean() > 2 * gaps.std(ddof=1) / math.sqrt(len(gaps)))

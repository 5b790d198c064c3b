"""The held-out score: mean negative log-likelihood per token, and what it is in bits and perplexity."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from bptt import ops
from bptt.data import Lanes, Stream
from bptt.errors import DataError, whole
from bptt.models.language import inference
from bptt.nn import carry as carries
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
    """

    tokens: int
    nats: float
    pieces: int = 1

    @property
    def bits(self) -> float:
        """Bits per token, nats / ln 2."""
        return self.nats / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp(nats): the size of a uniform vocabulary that would be as hard."""
        return math.exp(self.nats) if self.nats < 700 else math.inf

    def as_dict(self) -> dict[str, float | None]:
        """The document that ``bptt eval --json`` prints; None where a number is not finite."""
        numbers = {"nats": self.nats, "bits": self.bits, "perplexity": self.perplexity}
        finite = {name: v if math.isfinite(v) else None for name, v in numbers.items()}
        return {"tokens": self.tokens, **finite}


def evaluate(
    model: nn.Module,
    stream: Stream,
    *,
    lanes: int = 1,
    chunk: int = 512,
    group: Group = Group(),  # noqa: B008
) -> Score:
    """Score a model on a text.

    With one lane this is the text's own score: every token but the first is predicted from all that
    stands before it in its document. More lanes run faster and start that many times from nothing,
    which makes the score slightly worse; the tokens that do not fill the lanes are left out.

    Args:
        model: a language model; its mode is kept.
        stream: tokens, and where documents begin.
        lanes: B.
        chunk: steps per call of the model, fewer where the vocabulary is large; it changes the memory
            used, not the score.
        group: processes that score together, each its lanes where there are enough; otherwise each
            scores all of it, and the first one's score counts.

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
    total, tokens, carry = 0.0, 0, None
    split = lanes >= group.size
    own = group.lanes(lanes) if split else None
    with inference(model):
        for piece in Lanes(*stream, batch=lanes, chunk=chunk, lane_range=own):
            reset = None if piece.fresh else piece.reset
            logits, carry = model(piece.inputs, carry, reset=reset)
            carry = carries.detach(carry)
            total += ops.summed_nats(logits, piece.targets)
            tokens += piece.scored
    counts = [total, float(tokens)] if split or group.rank == 0 else [0.0, 0.0]
    total, scored = group.total(counts)
    tokens = int(scored)
    if tokens == 0:
        raise DataError("a token to score", "documents of one token each", "give longer documents")
    return Score(tokens, total / tokens, lanes)

"""A smoothed table of n-gram counts: the rung of the ladder that is counted, not trained.

Limits: counting needs 16 bytes of memory per distinct n-gram and level, twice that while two
blocks are merged; the tokens themselves may lie in a memory map and are read in blocks. V must be
below 2^21, and with a large V the number of distinct contexts below 2^63 / V².
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bptt.errors import ArgumentError, DataError
from bptt.models import ngrams
from bptt.models.window import check_sizes, check_tokens, recent_tokens

MAX_ORDER = 8
COLUMNS = ("contexts", "backoff", "rows", "symbols", "masses")


class CountModel(nn.Module):
    """Predicts the next token from how often it followed the last ``order - 1`` tokens.

    Interpolated modified Kneser–Ney smoothing. With c a context of j tokens, c' the same without
    its oldest token, and n the count:

    ``p(w | c) = max(n(c w) - D(n(c w)), 0) / n(c) + γ(c) p(w | c')``

    where ``n(c) = Σ_w n(c w)`` and ``γ(c) = Σ_w D(n(c w)) / n(c)`` is the mass that discounting
    frees. At the longest contexts n counts occurrences. Below, it counts in how many ways the
    n-gram goes on to the left: distinct tokens before it, and the beginning of a document. Under
    the shortest, empty context stands the uniform distribution 1 / V, so nothing has probability
    0; a context never seen hands on to c' (γ = 1). The discounts are, per level, with n_i the
    number of n-grams counted i times and ``Y = n_1 / (n_1 + 2 n_2)``:

    ``D(i) = i - (i + 1) Y n_{i+1} / n_i`` for i = 1, 2 and 3, D(3) also for more.

    Where a level has too few n-grams for that (an n_i is 0, or a D(i) outside (0, i)), its
    discounts are 1/2, 1 and 3/2.

    ``order=1`` is the unigram model, 2 the bigram. Contexts do not cross the beginning of a
    document: there the model predicts from what has been seen of it. There are no parameters;
    ``fit`` fills the buffers, and ``load_state_dict`` takes them at any size.

    Args:
        vocabulary_size: V.
        order: tokens in the longest n-gram, the predicted one included; 1 to 8.

    Raises:
        ArgumentError: a size is out of range.

    Cost: ``fit`` sorts N keys at each of the levels, O(order N log N); ``forward`` takes
    O(T B V order) at worst, and O(T B V) memory of about 40 bytes each. 12 bytes are stored per
    distinct n-gram and 20 per distinct context.

    Example:
        >>> model = CountModel(3, order=2).fit(np.array([0, 1, 2] * 20))
        >>> logits, carry = model(torch.tensor([[0], [1]]))
        >>> logits.argmax(-1).squeeze(1).tolist()
        [1, 2]
        >>> torch.allclose(logits.exp().sum(-1), torch.ones(2, 1))
        True

    Source: Kneser and Ney (1995), "Improved backing-off for m-gram language modeling"; Chen and
    Goodman (1999), "An empirical study of smoothing techniques for language modeling".
    """

    header: Tensor  # (order + 2,) V, then where each level's contexts begin, and the end
    contexts: Tensor  # (C,) codes of the contexts, ascending within a level
    backoff: Tensor  # (C,) γ(c)
    rows: Tensor  # (C + 1,) where each context's n-grams begin, and the end
    symbols: Tensor  # (E,) w of each n-gram
    masses: Tensor  # (E,) max(n(c w) - D, 0) / n(c)

    def __init__(self, vocabulary_size: int, order: int = 6) -> None:
        super().__init__()
        vocabulary_size, order = check_sizes(vocabulary_size=vocabulary_size, order=order)
        if order > MAX_ORDER:
            raise ArgumentError(
                f"order <= {MAX_ORDER}", f"order={order}", "longer contexts hardly ever repeat"
            )
        if vocabulary_size >= 1 << 21:
            raise ArgumentError(
                "vocabulary_size < 2^21", f"{vocabulary_size}", "use a smaller vocabulary"
            )
        self.vocabulary_size = vocabulary_size
        self.order = order
        self.register_buffer("header", torch.tensor([vocabulary_size] + [0] * (order + 1)))
        self.register_buffer("contexts", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("backoff", torch.zeros(0))
        self.register_buffer("rows", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("symbols", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("masses", torch.zeros(0))

    @property
    def entries(self) -> int:
        """How many probabilities and back-off weights are stored: what compares to parameters."""
        return self.masses.numel() + self.backoff.numel()

    def fit(
        self,
        tokens: NDArray[Any],
        starts: NDArray[Any] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CountModel:
        """Count a text, in place of what was counted before.

        Args:
            tokens: (N,) integers in 0 .. V - 1, N >= 1; may be a memory map.
            starts: (D,) ascending positions at which documents begin; None for one document.
            progress: called with (tokens read, tokens to read); each level reads them all.

        Returns:
            This model.

        Raises:
            ShapeError, DtypeError, DataError: tokens or starts do not fit.
        """
        starts = ngrams.checked_text(tokens, starts)
        size, total = self.vocabulary_size, len(tokens) * self.order

        def tell(level: int, high: int) -> None:
            if progress is not None:
                progress(level * len(tokens) + high, total)

        # The contexts of one level are needed to code the next, and their order never changes.
        contexts: list[ngrams.Ints] = []
        counted: list[ngrams.Counted] = []
        for level in range(self.order):
            counted.append(ngrams.count(tokens, starts, size, contexts, level, tell))
            contexts.append(np.unique(counted[-1].keys // size))
            if level + 1 < self.order and len(contexts[-1]) * size * size > ngrams.LIMIT:
                raise ArgumentError(
                    f"contexts · V² < 2^63 with V={size}",
                    f"{len(contexts[-1])} contexts of {level} tokens",
                    "lower the order or use a smaller vocabulary",
                )
        levels = []
        for level in range(self.order):
            counts = counted[level]
            if level + 1 < self.order:
                longer = counted[level + 1].keys
                counts = ngrams.continuations(tokens, starts, size, contexts, level, longer)
            levels.append(ngrams.smoothed(counts, size))
        self._store(levels)
        return self

    def _store(self, levels: list[ngrams.Level]) -> None:
        header = np.cumsum([0] + [len(level.contexts) for level in levels])
        columns = {
            "header": np.concatenate(([self.vocabulary_size], header)),
            "contexts": np.concatenate([level.contexts for level in levels]),
            "backoff": np.concatenate([level.backoff for level in levels]),
            "rows": np.cumsum(np.concatenate([[0]] + [level.lengths for level in levels])),
            "symbols": np.concatenate([level.symbols for level in levels]),
            "masses": np.concatenate([level.masses for level in levels]),
        }
        for name, column in columns.items():
            old: Tensor = getattr(self, name)
            setattr(self, name, torch.from_numpy(column).to(old.device, old.dtype))

    def forward(
        self, tokens: Tensor, carry: Tensor | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the token after each step.

        Args:
            tokens: (T, B) int64.
            carry: (max(order - 2, 0), B) int64, the tokens before these, each as its id plus 1,
                and 0 where there was none; None starts fresh.
            reset: (T, B) bool, True where a new document begins with this token.

        Returns:
            log-probabilities (T, B, V), valid as logits, and the next carry.

        Raises:
            DataError: nothing was counted yet, or a token is out of range.
            ShapeError, DtypeError: an argument does not fit.
        """
        if not len(self.contexts):
            raise DataError("a counted text", "an empty table", "call fit(tokens) first")
        reset = check_tokens(tokens, reset, self.vocabulary_size)
        reach = max(self.order - 1, 1)
        windows, carry = recent_tokens(tokens, carry, reset, reach, self.vocabulary_size)
        chances = self._probabilities(windows.flatten(0, 1).flip(1))
        # Rounding could underflow to 0 after many back-offs; the logarithm must stay finite.
        chances = chances.clamp_min(torch.finfo(chances.dtype).tiny)
        return chances.log().view(*tokens.shape, self.vocabulary_size), carry

    def _probabilities(self, recent: Tensor) -> Tensor:
        """p(w | recent), (M, V), with recent (M, order - 1) from the newest token to the oldest.

        A token is its id plus 1; 0 stands before the beginning of the document.
        """
        size, starts = self.vocabulary_size, self.header[1:].tolist()
        ranked = ngrams.ranked(size, np.diff(starts).tolist())
        chances = self.masses.new_full((len(recent), size), 1 / size)
        flat = chances.view(-1)
        place = torch.arange(len(recent), device=recent.device)  # whose context was still found
        code = torch.zeros_like(place)
        for level in range(self.order):
            if level:
                symbol = recent[place, level - 1] - 1
                inside = symbol >= 0
                place, code = place[inside], code[inside] * size + symbol[inside]
            known = self.contexts[starts[level] : starts[level + 1]]
            if not len(known) or not len(place):
                break
            row = torch.searchsorted(known, code).clamp_max(len(known) - 1)
            # A context that was never seen has no longer one that was.
            found = known[row] == code
            place, row = place[found], row[found]
            code = row if ranked[level] else code[found]
            chances[place] *= self.backoff[starts[level] + row].unsqueeze(1)
            first, end = self.rows[starts[level] + row], self.rows[starts[level] + row + 1]
            length = end - first
            shift = first - (length.cumsum(0) - length)
            entry = torch.repeat_interleave(shift, length)
            entry += torch.arange(len(entry), device=entry.device)
            cell = torch.repeat_interleave(place * size, length) + self.symbols[entry]
            flat[cell] += self.masses[entry]
        return chances

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        header = state_dict.get(prefix + "header")
        if header is not None:
            if header.shape != self.header.shape or int(header[0]) != self.vocabulary_size:
                came = f"a header of shape {tuple(header.shape)}"
                if header.dim() == 1 and len(header):
                    came = f"vocabulary_size={int(header[0])}, order={len(header) - 2}"
                error_msgs.append(
                    f"expected counts with {self.extra_repr()}, received {came}: "
                    "make the model with the sizes that were saved"
                )
                return
            columns = [state_dict.get(prefix + name) for name in COLUMNS]
            problem = None
            if all(isinstance(column, Tensor) for column in columns):
                problem = _problem(header, cast(list[Tensor], columns), self.vocabulary_size)
            if problem is not None:
                error_msgs.append(
                    f"expected counts as fit() makes them, received {problem}: "
                    "restore the file from a copy"
                )
                return
            # How many n-grams there are is a result of counting, so the sizes come with the file.
            for name, old in list(self.named_buffers(recurse=False)):
                if prefix + name in state_dict:
                    setattr(self, name, old.new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """What ``print(model)`` adds."""
        return f"vocabulary_size={self.vocabulary_size}, order={self.order}"


def _problem(header: Tensor, columns: list[Tensor], size: int) -> str | None:
    """What of saved counts points outside of them, or is no probability; None where all fits."""
    contexts, backoff, rows, symbols, masses = columns
    if any(column.dim() != 1 for column in columns):
        return "a table that is not one row"
    if any(column.is_floating_point() for column in (header, contexts, rows, symbols)):
        return "a header, contexts, rows or symbols that are no whole numbers"
    for name, ends, last in (("header", header[1:], contexts), ("rows", rows, symbols)):
        if not len(ends) or int(ends[0]) != 0 or int(ends[-1]) != len(last):
            return f"{name} that do not span what they divide"
        if bool((ends.diff() < 0).any()):
            return f"{name} that do not ascend"
    if not len(contexts) == len(backoff) == len(rows) - 1 or len(symbols) != len(masses):
        return "tables of different lengths"
    if len(symbols) and not bool(((symbols >= 0) & (symbols < size)).all()):
        return "a symbol outside the vocabulary"
    for name, shares in (("backoff", backoff), ("masses", masses)):
        if not bool(((shares >= 0) & (shares < torch.inf)).all()):
            return f"{name} that are no finite numbers from 0"
    return None

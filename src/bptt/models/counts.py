"""A smoothed table of n-gram counts: the rung of the ladder that is counted, not trained.

Limits: counting needs 16 bytes of memory per distinct n-gram and level, twice that while two
blocks are merged; the tokens themselves may lie in a memory map and are read in blocks. V must be
below 2^21, and with a large V the number of distinct contexts below 2^63 / V².
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bptt.axes import describe
from bptt.errors import ArgumentError, DataError, DtypeError, ShapeError
from bptt.models.window import check_sizes, check_tokens, recent_tokens

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MAX_ORDER = 8
_BLOCK = 1 << 22
_LIMIT = 2**63 - 1


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
        check_sizes(vocabulary_size=vocabulary_size, order=order)
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
        starts = _checked_text(tokens, starts)
        size, total = self.vocabulary_size, len(tokens) * self.order

        def tell(level: int, high: int) -> None:
            if progress is not None:
                progress(level * len(tokens) + high, total)

        # The contexts of one level are needed to code the next, and their order never changes.
        contexts: list[Ints] = []
        counted: list[_Counts] = []
        for level in range(self.order):
            counted.append(_count(tokens, starts, size, contexts, level, tell))
            contexts.append(np.unique(counted[-1].keys // size))
            if level + 1 < self.order and len(contexts[-1]) * size * size > _LIMIT:
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
                counts = _continuations(tokens, starts, size, contexts, level, longer)
            levels.append(_smoothed(counts, size))
        self._store(levels)
        return self

    def _store(self, levels: list[_Level]) -> None:
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
        check_tokens(tokens, reset, self.vocabulary_size)
        reach = max(self.order - 1, 1)
        windows, carry = recent_tokens(tokens, carry, reset, reach, self.vocabulary_size)
        chances = self._probabilities(windows.flatten(0, 1).flip(1))
        # Rounding could underflow to 0 after many back-offs; the logarithm must stay finite.
        chances = chances.clamp_min(torch.finfo(chances.dtype).tiny)
        return chances.log().view(*tokens.shape, -1), carry

    def _probabilities(self, recent: Tensor) -> Tensor:
        """p(w | recent), (M, V), with recent (M, order - 1) from the newest token to the oldest.

        A token is its id plus 1; 0 stands before the beginning of the document.
        """
        size, starts = self.vocabulary_size, self.header[1:].tolist()
        ranked = _ranked(size, np.diff(starts).tolist())
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
                came = f"vocabulary_size={int(header[0])}, order={len(header) - 2}"
                error_msgs.append(
                    f"expected counts with {self.extra_repr()}, received {came}: "
                    "make the model with the sizes that were saved"
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


# How an n-gram becomes a number. The context x_{t-1} … x_{t-j} has the code
# (…(x_{t-1} V + x_{t-2}) V + …) V + x_{t-j}, the newest token most significant, and the n-gram the
# key code V + w. Integer division therefore drops the oldest token, and a level's contexts extend
# those of the level before. Where one more token would not fit into 63 bits, the code is replaced
# by its rank among the contexts that occur, and goes on from there.


class _Counts(NamedTuple):
    keys: Ints  # ascending
    counts: Ints


class _Level(NamedTuple):
    contexts: Ints
    backoff: Floats
    lengths: Ints
    symbols: Ints
    masses: Floats


def _ranked(size: int, contexts: Sequence[int]) -> list[bool]:
    """For each level, given its number of contexts, whether longer codes go on from ranks."""
    cells, ranked = 1, []
    for count in contexts:
        ranked.append(cells * size * size > _LIMIT)
        cells = (count if ranked[-1] else cells) * size
    return ranked


def _code(older: Iterable[NDArray[Any]], size: int, contexts: list[Ints], length: int) -> Ints:
    """Codes of contexts whose tokens ``older`` gives, newest first; ``length`` contexts."""
    code = np.zeros(length, np.int64)
    ranked = _ranked(size, [len(level) for level in contexts])
    for level, tokens in enumerate(older):
        if ranked[level]:
            code = np.searchsorted(contexts[level], code)
        code *= size
        code += tokens
    return code


def _checked_text(tokens: NDArray[Any], starts: NDArray[Any] | None) -> Ints:
    if tokens.ndim != 1 or not len(tokens):
        raise ShapeError("tokens (N,), N >= 1", describe(tokens.shape), "pass one long text")
    if tokens.dtype.kind not in "iu":
        raise DtypeError("integer tokens", str(tokens.dtype), "encode the text first")
    if starts is None:
        return np.zeros(1, np.int64)
    if starts.ndim != 1:
        raise ShapeError("starts (D,)", describe(starts.shape), "pass positions, ascending")
    if starts.dtype.kind not in "iu":
        raise DtypeError("integer starts", str(starts.dtype), "turn flags into np.flatnonzero")
    starts = starts.astype(np.int64)
    if len(starts) and (
        starts[0] < 0 or starts[-1] >= len(tokens) or bool((np.diff(starts) <= 0).any())
    ):
        raise DataError(
            f"starts ascending in 0 .. {len(tokens) - 1}", "others", "pass each position once"
        )
    return starts if len(starts) and starts[0] == 0 else np.insert(starts, 0, 0)


def _count(
    tokens: NDArray[Any],
    starts: Ints,
    size: int,
    contexts: list[Ints],
    level: int,
    tell: Callable[[int, int], None],
) -> _Counts:
    """How often each n-gram with a context of ``level`` tokens occurs within a document."""
    done = _Counts(np.empty(0, np.int64), np.empty(0, np.int64))
    waiting: list[_Counts] = []
    for begin in range(0, len(tokens), _BLOCK):
        low, high = max(begin, level), min(begin + _BLOCK, len(tokens))
        if low < high:
            target = tokens[low:high].astype(np.int64)
            if level == 0 and not 0 <= int(target.min()) <= int(target.max()) < size:
                wrong = target[(target < 0) | (target >= size)][0]
                raise DataError(
                    f"tokens in 0 .. {size - 1}", str(wrong), "use the vocabulary of this text"
                )
            older = (tokens[low - back : high - back] for back in range(1, level + 1))
            keys = _code(older, size, contexts, high - low) * size + target
            near = starts[(starts > low - level) & (starts < high)]
            young = (near[:, None] + np.arange(level) - low).ravel()
            inside = np.ones(high - low, bool)
            inside[young[(young >= 0) & (young < len(inside))]] = False
            waiting.append(_Counts(*np.unique(keys[inside], return_counts=True)))
        # Merging only when as much waits as is done keeps the total work O(N log N).
        last = high == len(tokens)
        if waiting and (last or sum(len(run.keys) for run in waiting) >= len(done.keys)):
            done, waiting = _merged([done, *waiting]), []
        tell(level, high)
    return done


def _merged(runs: list[_Counts]) -> _Counts:
    runs = [run for run in runs if len(run.keys)]
    if len(runs) < 2:
        return runs[0] if runs else _Counts(np.empty(0, np.int64), np.empty(0, np.int64))
    keys, counts = (np.concatenate(column) for column in zip(*runs, strict=True))
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return _Counts(keys[first], np.add.reduceat(counts, first))


def _continuations(
    tokens: NDArray[Any],
    starts: Ints,
    size: int,
    contexts: list[Ints],
    level: int,
    longer: Ints,
) -> _Counts:
    """In how many ways each n-gram goes on to the left, given the next level's n-grams."""
    base = longer // size // size
    if _ranked(size, [len(one) for one in contexts])[level]:
        base = contexts[level][base]
    keys, counts = np.unique(base * size + longer % size, return_counts=True)
    # An n-gram that begins a document goes on to the left in one way more.
    place = starts[starts + level < np.append(starts[1:], len(tokens))] + level
    older = (tokens[place - back] for back in range(1, level + 1))
    first = _code(older, size, contexts, len(place)) * size + tokens[place].astype(np.int64)
    first = np.unique(first)
    return _merged([_Counts(keys, counts), _Counts(first, np.ones_like(first))])


def _smoothed(counted: _Counts, size: int) -> _Level:
    keys, counts = counted
    context = keys // size
    first = np.flatnonzero(np.diff(context, prepend=-1))
    lengths = np.diff(np.append(first, len(keys)))
    if not len(keys):
        empty = np.empty(0)
        return _Level(keys, empty, lengths, keys, empty)
    discount = _discounts(counts)[np.minimum(counts, 3) - 1]
    total = np.add.reduceat(counts, first)
    masses = (counts - discount) / np.repeat(total, lengths)
    backoff = np.add.reduceat(discount, first) / total
    return _Level(context[first], backoff, lengths, keys % size, masses)


def _discounts(counts: Ints) -> Floats:
    """D(1), D(2), D(3)."""
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(np.float64)
    if n.all():
        i = np.arange(1, 4)
        found = i - (i + 1) * n[0] / (n[0] + 2 * n[1]) * n[1:] / n[:3]
        if bool(((found > 0) & (found < i)).all()):
            return found
    return np.array([0.5, 1.0, 1.5])

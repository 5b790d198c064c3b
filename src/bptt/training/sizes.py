"""Sizes that were not given, chosen to fit a text; those that were given, compared with it.

A chunk of B lanes and C steps needs B C + 1 tokens to train on. In a long text every size has the value
that ``bptt train --help`` names. In a short one lanes are given up first, since a gradient over few steps
teaches less than one over few lanes; then steps. So any text of two tokens or more can be trained on, and
the same text always gets the same sizes.

``--gradient full`` and ``checkpointed`` go back through a whole chunk. Without ``--k`` or ``--chunk``
that chunk is the whole lane, of a lane of ``2 LONGEST`` steps or more ``LONGEST`` at a time: one update
a pass over a long text would train hardly at all.

This file must not import torch, as ``bptt.training.settings`` must not.
"""

from __future__ import annotations

import dataclasses

from bptt.errors import ArgumentError
from bptt.training.settings import WHOLE, Settings

SIZES = ("batch", "chunk", "k", "window", "order", "context", "valid_fraction")
SHARE = 0.1  # held out
LEAST_HELD_OUT = 20  # tokens; a score over fewer would choose the best checkpoint by chance
LONGEST = 1024  # steps
ORDER = 6
CONTEXT = {"window": 8, "attention": 64}
ENDLESS = 10**15  # tokens: a text in which nothing has to shrink


def own_k(settings: Settings) -> int | None:
    """How many steps back a run's gradient reaches at most; None if that is drawn or not bounded."""
    if settings.model != "recurrent":
        return None
    if settings.gradient == "truncated":
        return settings.k1
    if settings.gradient == "windowed":
        return min(settings.k2, settings.steps_per_update)
    return settings.steps_per_update if settings.gradient in ("full", "checkpointed") else None


def fitted(settings: Settings, tokens: int, processes: int = 1) -> Settings:
    """The settings with every size filled in.

    Args:
        settings: sizes that are None are chosen; the others stay.
        tokens: of the whole text, at least 2.
        processes: that train together; each has a lane at least.

    Raises:
        ArgumentError: sizes that were given do not fit; all that must change are in the message, each
            with a value that does.

    Example:
        >>> small = fitted(Settings(), 38)
        >>> small.batch, small.chunk, small.k, small.valid_fraction
        (1, 37, 37, 0.0)
        >>> large = fitted(Settings(), 465_126)
        >>> large.batch, large.chunk, large.k, large.valid_fraction
        (16, 64, 64, 0.1)
    """
    share = settings.valid_fraction
    if share is None:
        share = SHARE if tokens - _border(tokens, SHARE) >= LEAST_HELD_OUT else 0.0
    steps = _border(tokens, share) - 1
    wanted, least = _wanted(settings), _least(settings)
    batch = settings.batch
    if batch is None:
        batch = max(1, min(settings.lanes, max(steps // wanted, min(processes, steps))))
    longest = steps // batch if settings.partition == "lanes" else steps
    if not _parted(tokens, share) or longest < least:
        raise _misfit(settings, tokens, share, least, processes)
    chunk = min(wanted, longest)
    if _whole(settings) and longest < 2 * LONGEST:
        chunk = longest
    context, most = settings.context, CONTEXT.get(settings.model)
    if context is None and most is not None and steps < most:
        context = steps
    return dataclasses.replace(
        settings,
        batch=batch,
        chunk=chunk,
        k=_k(settings, chunk) if settings.k is None else settings.k,
        order=min(ORDER, steps + 1) if settings.order is None else settings.order,
        context=context,
        valid_fraction=share,
    )


def chosen(settings: Settings, now: Settings) -> list[str]:
    """The sizes that are others than in a long text, as they would be typed.

    Example:
        >>> chosen(Settings(), fitted(Settings(), 38))
        ['--batch 1', '--chunk 37', '--k 37', '--valid-fraction 0']
    """
    usual = fitted(settings, ENDLESS)
    always = {"chunk"} if _whole(settings) else set()
    return [
        _word(n, getattr(now, n))
        for n in used_sizes(settings)
        if getattr(settings, n) is None and (n in always or getattr(now, n) != getattr(usual, n))
    ]


def used_sizes(settings: Settings) -> list[str]:
    """The sizes that make a difference to this model."""
    if settings.model in ("bigram", "ngram"):
        unused = {"batch", "chunk", "k", "window", "context"}
    else:
        unused = {"k"} if settings.gradient in WHOLE else set()
    if settings.model != "ngram":
        unused.add("order")
    return [name for name in SIZES if name not in unused]


def _border(tokens: int, share: float) -> int:
    """Tokens to train on: as ``Corpus`` parts them."""
    return int((1 - share) * tokens)


def _parted(tokens: int, share: float) -> bool:
    border = _border(tokens, share)
    return border >= 2 and (share == 0 or tokens - border >= 2)


def _whole(settings: Settings) -> bool:
    """Whether a chunk is to be the whole lane."""
    return settings.gradient in WHOLE and settings.k is None and settings.chunk is None


def _wanted(settings: Settings) -> int:
    """Steps of a chunk where there are enough."""
    return LONGEST if _whole(settings) else settings.steps_per_update


def _least(settings: Settings) -> int:
    """Steps that a chunk must have for the sizes that were given."""
    if settings.chunk is not None:
        return settings.chunk
    window = settings.window if settings.gradient == "windowed" else None
    return max(settings.k or 1, window or 1)


def _k(settings: Settings, chunk: int) -> int:
    most = min(chunk, settings.window or chunk)
    if settings.gradient in WHOLE:
        return most
    # Where a chunk is to have room for several k, it still has.
    return settings.k1 if most >= settings.k1 else max(1, most // settings.room)


def _misfit(
    settings: Settings, tokens: int, share: float, least: int, processes: int
) -> ArgumentError:
    """Everything that must change, each with a value that fits together with the others."""
    expected, fit = [], {}
    if not _parted(tokens, share):
        expected.append("2 tokens or more in each part of the text")
        fit["valid_fraction"] = share = 0.0
    steps = _border(tokens, share) - 1
    lanes, longest = settings.partition == "lanes", min(least, steps)
    if lanes and settings.batch is None:
        longest = min(least, steps // max(1, min(processes, steps)))
    elif lanes and settings.batch is not None and settings.batch * longest > steps:
        fit["batch"] = steps // longest
    for name in ("chunk", "k", "window"):
        value = getattr(settings, name)
        if value is not None and longest < least and value > longest:
            fit[name] = longest
    if len(fit) > len(expected):
        what = "--batch times --chunk" if lanes else "--chunk"
        expected.append(f"{what} of at most {steps}, a chunk to hold --k and --window")
    given = {n: getattr(settings, n) for n in SIZES if n not in ("order", "context")}
    received = " ".join(_word(n, v) for n, v in given.items() if v is not None)
    remedy = " ".join(_word(n, fit[n]) for n in given if n in fit)
    return ArgumentError(
        " and ".join(expected),
        f"{received} for a text of {tokens} tokens",
        f"pass {remedy} (a size that is left out is chosen to fit)",
    )


def _word(name: str, value: float) -> str:
    return (
        f"--{name.replace('_', '-')} {value:g}" if name == "valid_fraction" else f"--{name} {value}"
    )

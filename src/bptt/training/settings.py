"""Everything a run is told, in one flat record: the command line, the configuration file, the API.

This file must not import torch: ``bptt train --help`` is built from it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, cast, get_args, get_origin, get_type_hints

import tyro

from bptt.choices import (
    CLIPS,
    REGULARISERS,
    STARTS,
    TOKENS,
    Word,
    check_cell,
    clip_form,
    device_word,
    nearest,
    parse_form,
    parse_forms,
)
from bptt.errors import ArgumentError, RunError, plain
from bptt.files.memory import MOST_THREADS
from bptt.files.read import shown

Gradient = Literal[
    "truncated", "full", "windowed", "checkpointed", "adaptive", "randomized", "forward"
]
WHOLE = ("full", "checkpointed")  # gradients that go back through a whole chunk
ROOMY = ("windowed", "adaptive", "randomized")  # that need a chunk of several k
LANES, K = 16, 64


@dataclass(frozen=True)
class Settings:
    """Settings of a training run; the defaults train a good small model in a minute on two cores.

    Sizes that are None are chosen when the text is read: see ``bptt.training.sizes``.
    """

    files: tyro.conf.Positional[tuple[str, ...]] = ()
    """UTF-8 texts, read one after another; with none, the text that every CPython carries."""

    model: Literal["recurrent", "bigram", "ngram", "window", "attention"] = "recurrent"
    """What predicts: recurrent layers, or a rung of the ladder below and above them."""
    cell: Literal["rnn", "rnn-relu", "gru", "lstm", "mingru", "lru"] = "gru"
    """The recurrent cell."""
    hidden: int | None = None
    """Size H of a layer; default: 192 (recurrent), 256 (window), 96 (attention)."""
    layers: int | None = None
    """How many layers; default: 1 (recurrent), 2 (window), 3 (attention)."""
    embedding: int | None = None
    """Size of a token's vector; default: H (recurrent), 32 (window)."""
    dropout: float | None = None
    """Share dropped while training; default: 0.1 (recurrent), 0.2 (window), 0 (attention)."""
    order: int | None = None
    """Tokens an n-gram spans; default: 6."""
    context: int | None = None
    """Tokens that are seen at once; default: 8 (window), 64 (a layer of attention)."""

    batch: int | None = None
    """Lanes B that are trained side by side; default: 16, fewer for a short text."""
    gradient: Gradient = "truncated"
    """How the gradient is taken through a chunk; docs/estimators says which to take."""
    k: int | None = None
    """Truncation length K; windowed: steps a window scores, k1; default: 64, fewer for a short text."""
    window: int | None = None
    """Steps a window of --gradient windowed spans, k2; default: 2 k."""
    states: int | None = None
    """States that --gradient checkpointed keeps; default: one for each of its segments."""
    cut: float = 0.5
    """Probability with which --gradient randomized cuts at a border of k steps."""
    bias: float = 0.05
    """Relative bias that --gradient adaptive allows; it sets k by measuring."""
    chunk: int | None = None
    """Steps per update; default: k, and 4 k where an estimator needs room (windowed, adaptive,
    randomized); full and checkpointed without --k: the whole lane, a long one 1024 at a time."""
    partition: Literal["lanes", "random"] = "lanes"
    """Lanes carry the state through the text; random chunks start afresh each."""

    init: Annotated[str, tyro.conf.arg(metavar="START")] = "default"
    """Start of the recurrent layers: small, gaussian, identity, irnn, orthogonal, np, radius or norm,
    with a number if wanted (radius:0.9); forget:BIAS, chrono:STEPS; joined by +; default: as torch
    has it."""
    orthogonal: bool = False
    """Hold the recurrent matrices orthogonal while they are trained."""
    forget_bias: float | None = None
    """Bias of an LSTM's forget gates; default: as --init leaves it."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """What turns a gradient into an update."""
    lr: float | None = None
    """Peak learning rate; default: 0.003 (adamw), 1 (sgd)."""
    warmup: float = 0.02
    """Share of the run over which the rate rises from zero."""
    decay: Literal["cosine", "linear", "none"] = "cosine"
    """How the rate falls to zero after that."""
    weight_decay: float = 0.01
    """AdamW's pull towards zero."""
    momentum: float = 0.0
    """SGD's momentum."""
    clip: float | str | None = 1.0
    """Largest gradient norm; or norm, value, rescale, auto (percentile), z or unit with a number, e.g.
    auto:10; none switches clipping off."""
    regularise: Annotated[str | None, tyro.conf.arg(metavar="PENALTY")] = None
    """Penalty on the recurrence, with its weight: omega:1 (Pascanu's), floss:1 (gradient flossing)."""

    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """When a loss, gradient or parameter is not finite: stop before the update, skip it, or roll back to
    the last checkpoint and go on with other data."""

    minutes: float | None = None
    """Stop after so many minutes; default: 1, if neither --steps nor --epochs is given."""
    steps: int | None = None
    """Stop after so many updates."""
    epochs: float | None = None
    """Stop after so many passes over the text."""
    patience: int = 0
    """Stop early after this many scores in a row without a new best; 0: never."""
    eval_every: int | None = None
    """Steps between held-out scores and checkpoints; default: ten in a run, fewer where they would take
    more than a tenth of it."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    horizon_every: int = 100
    """Steps between measurements of how far back the gradient reaches; 0: never."""
    sample_every: int = 0
    """Steps between looks at the text: what the model predicts beside what stands there, and a sample;
    0: never."""
    guard: bool = True
    """Mistakes of the training loop are named while it runs; --no-guard does not look for them."""
    keep: int = 3
    """Newest checkpoints to keep, beside the best one."""

    tokens: str = "char"
    """What a token is: char, byte, word (word:N: the N most frequent), or bpe:N, N pieces that byte-pair
    encoding finds, 256 or more."""
    bytes: bool = False
    """Read bytes in place of characters: --tokens byte."""
    documents: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Begin a new document after this text, e.g. '\\n\\n', two line breaks; files always begin one."""
    line_ends: Literal["keep", "unix"] = "keep"
    """unix: read the line ends of Windows, \\r\\n, and of old Macs, \\r, as \\n."""
    valid_fraction: float | None = None
    """Share of the text, at its end, held out; default: 0.1, or nothing where that is under 20 tokens."""
    seed: int = 0
    """Seed of the weights, of dropout and of random chunks."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """Where the model is trained: cpu, cuda, cuda:N or mps. auto: cuda where there is one, else cpu."""
    amp: bool = False
    """Train in bfloat16 where that is safe (torch's autocast); weights and scores stay in float32."""
    threads: Annotated[int | str | None, tyro.conf.arg(metavar="N")] = "auto"
    """Threads of torch, or auto: by --minutes as many as the updates are fastest with, measured now and
    then; by --steps or --epochs torch's own number, so that the run repeats to the bit."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """New folder for the run; default: runs/CELL-DATE-TIME."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(str(file) for file in self.files))
        for name, hint in _hints().items():
            self._keep_plain(name, set(get_args(hint)) | {hint})
        for name, hint in _hints().items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                self._refuse(name, _choices(hint), shown(getattr(self, name), 80))
        for text in (*self.files, self.documents or "", self.out or ""):
            # So Python holds a byte that is not UTF-8, which config.toml could not.
            if any("\ud800" <= c <= "\udfff" for c in text):
                raise ArgumentError(
                    "files, --documents and --out in UTF-8", f"{text!r:.200}", "choose another name"
                )
        for name in ("hidden", "layers", "embedding", "context", "batch", "k", "chunk", "steps"):
            self._at_least(name, 1)
        for name in ("window", "states", "order", "eval_every", "log_every", "keep"):
            self._at_least(name, 1)
        self._check_threads()
        device_word(self.device)
        if self.amp and self.device == "mps":
            self._refuse("device", "cpu or cuda beside --amp", "mps")
        if self.out is not None and "\0" in self.out:
            self._refuse("out", "a name that a folder can have", repr(self.out[:80]))
        for name in (
            "patience",
            "horizon_every",
            "sample_every",
            "seed",
            "weight_decay",
            "momentum",
        ):
            self._at_least(name, 0)
        for name in ("lr", "minutes", "epochs"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                self._refuse(name, "a number above 0", value)
        for name in ("dropout", "valid_fraction", "warmup", "cut", "bias"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                self._refuse(name, "a share from 0 up to, not including, 1", value)
        # TOML has no None, and a run that is read back keeps its clip.
        if self.clip in (None, "None"):
            object.__setattr__(self, "clip", "none")
        self._check_form("tokens", self.tokens, TOKENS)
        if self.bytes and self.tokens not in ("char", "byte"):
            raise ArgumentError(
                "--bytes or --tokens", f"--bytes and --tokens {self.tokens}", "keep one of them"
            )
        if self.bytes or self.tokens == "byte":  # two words for one thing, which is kept in both
            object.__setattr__(self, "bytes", True)
            object.__setattr__(self, "tokens", "byte")
        self._check_form("init", self.init, STARTS)
        self._check_form("clip", clip_form(self.clip), CLIPS)
        self._check_form("regularise", self.regularise or "none", REGULARISERS)
        if (self.orthogonal or self.regularise) and self.model != "recurrent":
            flag = "--orthogonal" if self.orthogonal else "--regularise"
            raise ArgumentError(
                f"{flag} with --model recurrent", f"--model {self.model}", f"leave {flag} out"
            )
        if self.model == "recurrent":
            check_cell(self.cell, self.init, self.regularise or "none", self.orthogonal)
        if self.model == "attention" and (self.hidden or 0) % 8:  # four heads of an even width each
            self._refuse("hidden", "a multiple of 8, with --model attention,", self.hidden)
        if self.model == "ngram" and (self.order or 1) > 8:
            self._refuse("order", "at most 8 tokens", self.order)
        budgets = [n for n in ("minutes", "steps", "epochs") if getattr(self, n) is not None]
        if len(budgets) > 1:
            raise ArgumentError(
                "one of --minutes, --steps and --epochs",
                " and ".join("--" + name for name in budgets),
                "keep the one that should end the run",
            )
        if not budgets:
            object.__setattr__(self, "minutes", 1.0)
        if self.forget_bias is not None and (self.model, self.cell) != ("recurrent", "lstm"):
            raise ArgumentError(
                "--forget-bias with --cell lstm", f"--cell {self.cell}", "leave the bias out"
            )
        self._check_k()

    def _check_threads(self) -> None:
        if self.threads is None:
            object.__setattr__(self, "threads", "auto")
        elif self.threads != "auto":
            self._at_least("threads", 1)
            if cast(int, self.threads) > MOST_THREADS:
                self._refuse("threads", f"at most {MOST_THREADS} threads", self.threads)

    def _check_k(self) -> None:
        """Everything that holds k steps must be that long."""
        cuts = self.gradient in ("truncated", "windowed", "randomized")
        holders = {"chunk": self.chunk if cuts else None, "window": self.window}
        short = {n: v for n, v in holders.items() if v is not None and v < (self.k or 1)}
        if short:
            raise ArgumentError(
                " and ".join(f"--{name} at least --k" for name in short),
                " ".join(f"--{name} {value}" for name, value in {**short, "k": self.k}.items()),
                f"pass --k {min(short.values())}, or leave out "
                + " and ".join(f"--{n}" for n in short),
            )

    @property
    def unit(self) -> str:
        """What a token is, in a word."""
        return {"char": "character", "byte": "byte"}.get(self.tokens, "token")

    @property
    def lanes(self) -> int:
        """Lanes B; in a long text, where they were not given."""
        return LANES if self.batch is None else self.batch

    @property
    def k1(self) -> int:
        """Truncation length K; in a long text, where it was not given."""
        return K if self.k is None else self.k

    @property
    def k2(self) -> int:
        """Time steps in a window."""
        return 2 * self.k1 if self.window is None else self.window

    @property
    def room(self) -> int:
        """How many k a chunk is to hold."""
        return 4 if self.gradient in ROOMY else 1

    @property
    def steps_per_update(self) -> int:
        """Time steps in a chunk; in a long text, where they were not given."""
        if self.chunk is not None:
            return self.chunk
        return max(self.room * self.k1, self.k2 if self.gradient == "windowed" else 1)

    @property
    def learning_rate(self) -> float:
        """The peak learning rate."""
        if self.lr is not None:
            return self.lr
        return 0.003 if self.optimizer == "adamw" else 1.0

    def to_toml(self) -> str:
        """The settings as a TOML document; what is None is left out, since TOML has no such value."""
        import tomli_w

        values = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        return tomli_w.dumps({**values, "files": list(self.files)})

    @classmethod
    def from_toml(cls, text: str, name: str) -> Settings:
        """Read what :meth:`to_toml` wrote.

        Raises:
            RunError: not TOML, an unknown setting, or a value of the wrong type.
        """
        return cls(**read_toml(text, name, "restore the file, or start a new run"))

    @staticmethod
    def _check_form(name: str, text: str, words: Mapping[str, Word]) -> None:
        try:
            parse_forms(text, words) if name == "init" else parse_form(text, words)
        except ArgumentError as error:
            raise ArgumentError(
                f"{error.expected} for --{name}", error.received, error.remedy
            ) from None

    def _keep_plain(self, name: str, kinds: set[Any]) -> None:
        """NumPy's numbers as Python's, for config.toml; by exact type, because True is an int."""
        given = getattr(self, name)
        value = plain(given)
        object.__setattr__(self, name, value)
        if value is None or not kinds & {int, float} or {str, float} <= kinds:
            return
        if str in kinds and isinstance(value, str) and value == "auto":
            return
        if type(value) is not int and not (type(value) is float and float in kinds):
            expected = "a number" if float in kinds else "a whole number"
            expected += " or auto" if str in kinds else ""
            self._refuse(name, expected, f"{value!r:.80} of type {type(given).__name__}")

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and not least <= value < 2**63:
            self._refuse(name, f"a number of at least {least}", value)

    @staticmethod
    def _refuse(name: str, expected: str, value: object) -> NoReturn:
        flag = "--" + name.replace("_", "-")
        raise ArgumentError(f"{expected} for {flag}", str(value), f"change {flag}")


def read_toml(text: str, name: str, remedy: str = "mend the file") -> dict[str, Any]:
    """The settings that a TOML document names, each of its type; no word yet on what fits together.

    Args:
        text: as :meth:`Settings.to_toml` writes it, or a part of that.
        name: of the file, for messages.
        remedy: what to do where it is no TOML.

    Raises:
        RunError: not TOML, an unknown setting, or a value of the wrong type.
    """
    values = read_toml_document(text, name, remedy)
    return {key: _checked(key, value, name) for key, value in values.items()}


def read_toml_document(text: str, name: str, remedy: str = "mend the file") -> dict[str, Any]:
    """A TOML document, whatever it holds; RunError where it is none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"TOML in {name}", str(error), remedy) from None


def read_word(name: str, word: str) -> Any:
    """The value of a setting from one word, as in a variable of the environment.

    Raises:
        ValueError: it is none of this setting; the message says what would be.

    Example:
        >>> read_word("hidden", "64"), read_word("clip", "auto:10"), read_word("bytes", "yes")
        (64, 'auto:10', True)
    """
    hint = _hints()[name]
    kinds = get_args(hint) or (hint,)
    if hint is bool:
        known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if word.lower() not in known:
            raise ValueError("1 or 0")
        return known[word.lower()]
    if get_origin(hint) is Literal:
        if word not in kinds:
            raise ValueError(_choices(hint))
        return word
    for kind in (kind for kind in (int, float) if kind in kinds):
        try:
            return kind(word)
        except ValueError:
            continue
    if str not in kinds:
        raise ValueError("a number" if float in kinds else "a whole number")
    return word


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings)


def _choices(hint: Any) -> str:
    return "one of " + ", ".join(get_args(hint))


def _checked(name: str, value: Any, file: str) -> Any:
    hint = _hints().get(name)
    if hint is None:
        meant = nearest(name.replace("-", "_"), _hints())
        remedy = "remove that line" if meant is None else f"did you mean {meant}?"
        raise RunError(f"known settings in {file}", shown(name, 200), remedy)
    if name == "files":
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
    elif get_origin(hint) is Literal:
        fits = value in get_args(hint)
    else:
        kinds = get_args(hint) or (hint,)
        # By exact type, because True is an int; but 1 may stand for 1.0.
        fits = type(value) in kinds or (type(value) is int and float in kinds)
        fits = fits and not (type(value) is int and abs(value) >= 2**63)  # as TOML itself has it
    if not fits:
        kind = getattr(hint, "__name__", str(hint).replace("typing.", ""))
        kind = _choices(hint) if get_origin(hint) is Literal else kind
        raise RunError(f"{name} in {file} as {kind}", shown(value, 200), "mend that line")
    return value


def default_folder(settings: Settings, now: str) -> Path:
    """A free name under ``runs/`` for a run that was given none."""
    what = settings.cell if settings.model == "recurrent" else settings.model
    base = Path("runs") / f"{what}-{now}"
    candidates = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in range(1, 10_000))
    return next(path for path in candidates if not path.exists())

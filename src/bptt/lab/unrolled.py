"""Page *Unrolled*: a word goes through a network letter by letter, then the gradient comes back.

The network is :mod:`bptt.reference.language`, NumPy float64, whose letters the page's equations use.
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch

from bptt.errors import ArgumentError
from bptt.nn import RNN
from bptt.reference import LanguageTrace, LanguageWeights, Pair, language
from bptt.remedies import start_recurrent
from bptt.report.chart import WIDTH, Chart, Color, Line, Mark, number, raised
from bptt.report.chart_svg import frame_figure, paint, swatch
from bptt.report.words import percent

ALPHABET = string.ascii_lowercase
# A word of n letters makes n - 1 steps; more do not fit a phone in height.
SHORTEST, LONGEST = 3, 10
DEFAULT = "gradient"


@dataclass(frozen=True, eq=False)
class Unrolled:
    """What the page shows.

    Attributes:
        word: what is read; step k reads its k-th letter and should predict the next one.
        follow: t, from 1, the step whose loss is followed back.
        trace: the forward pass.
        pairs: for k = 1 … T what ℓ_t sends to the weights as step k used them; zero after step t.
    """

    word: str
    follow: int
    trace: LanguageTrace
    pairs: tuple[Pair, ...]

    @property
    def steps(self) -> int:
        """T."""
        return len(self.word) - 1

    @property
    def deltas(self) -> list[list[float]]:
        """``(T, H)`` δ_k = ∂ℓ_t/∂z_k: the bias is added to z, so it is the bias's gradient."""
        return [one.db.tolist() for one in self.pairs]

    @property
    def sizes(self) -> list[float]:
        """``(T,)`` ‖δ_k‖."""
        return [float(np.linalg.norm(one.db)) for one in self.pairs]

    @property
    def total(self) -> np.ndarray:
        """``(H, H)`` ∂ℓ_t/∂W_h, the sum over all steps."""
        return reduce(np.add, [one.dw_h for one in self.pairs])


def letters(text: str) -> tuple[str, str]:
    """The word to read out of what was typed, and what to tell about it (empty if nothing).

    Example:
        >>> letters("Hello")
        ('hello', '')
        >>> letters("x1")[0]
        'gradient'
    """
    word = "".join(c for c in text.lower() if c in ALPHABET)
    if len(word) < SHORTEST:
        return DEFAULT, (
            f"A word needs at least {SHORTEST} letters from a to z; this is “{DEFAULT}”."
        )
    if len(word) > LONGEST:
        return word[:LONGEST], f"The first {LONGEST} letters of the word are shown."
    if word != text.strip().lower():
        return word, f"Letters from a to z alone are read: “{word}”."
    return word, ""


def unrolled(
    word: str = DEFAULT,
    hidden: int = 4,
    radius: float = 0.9,
    follow: int | None = None,
    *,
    seed: int = 0,
) -> Unrolled:
    """Read a word with an untrained network; take the loss of one step back to every step before it.

    W_h is orthogonal times ρ; W_x and W_y are normal, of deviation ½ and 1/√H; the biases are zero.

    Args:
        word: 3 to 10 letters from a to z.
        hidden: H.
        radius: ρ, the spectral radius of W_h.
        follow: t, from 1 to T; the last by default.
        seed: of the weights.

    Raises:
        ArgumentError: the word or the step to follow will not do.

    Cost: T²/2 products of (H, H).

    Example:
        >>> found = unrolled("hello", follow=3)
        >>> found.steps, [size > 0 for size in found.sizes]
        (4, [True, True, True, False])
    """
    if letters(word) != (word, ""):
        raise ArgumentError(
            f"{SHORTEST} to {LONGEST} letters from a to z", repr(word), "pass another word"
        )
    tokens = [ALPHABET.index(c) for c in word]
    T = len(word) - 1
    follow = T if follow is None else follow
    if not 1 <= follow <= T:
        raise ArgumentError(f"follow from 1 to {T}", f"{follow}", "count the steps from 1")
    weights = _weights(hidden, radius, seed)
    trace = language.forward(tokens[:-1], tokens[1:], np.zeros(hidden), weights)
    nothing = Pair(np.zeros_like(weights.w_x), np.zeros_like(weights.w_h), np.zeros(hidden))
    pairs = [nothing] * T
    for k in range(follow):
        share = language.pair(trace, follow - 1, k)
        # A pair is a share of the mean loss, L = (Σ ℓ) / T; here it is ℓ_t itself.
        pairs[k] = Pair(share.dw_x * T, share.dw_h * T, share.db * T)
    return Unrolled(word, follow, trace, tuple(pairs))


def _weights(hidden: int, radius: float, seed: int) -> LanguageWeights:
    generator = torch.Generator().manual_seed(seed)
    V = len(ALPHABET)

    def normal(rows: int, columns: int, deviation: float) -> np.ndarray:
        drawn = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
        return (deviation * drawn).numpy()

    rnn = RNN(V, hidden, bias=False).double()
    start_recurrent(rnn, f"orthogonal:{radius!r}", generator=generator)
    w_h = dict(rnn.named_parameters())["weight_hh_l0"].detach().numpy()
    return LanguageWeights(
        normal(hidden, V, 0.5),
        w_h,
        np.zeros(hidden),
        normal(V, hidden, hidden**-0.5),
        np.zeros(V),
    )


def place(found: Unrolled, position: int) -> tuple[int, bool]:
    """The step, from 1, and whether the gradient is under way: 1 … T go forward, T+1 … 2T come back.

    Example:
        >>> found = unrolled("word")
        >>> [place(found, position) for position in range(1, 7)]
        [(1, False), (2, False), (3, False), (3, True), (2, True), (1, True)]
    """
    T = found.steps
    return (2 * T + 1 - position, True) if position > T else (position, False)


def equations(found: Unrolled, position: int) -> str:
    """The equations with the present step's number in them; those at work now are lit."""
    now, back = place(found, position)
    t, word, trace = found.follow, found.word, found.trace
    k = now
    forward = (
        (
            f"z{_sub(k)} = W{_sub('x')} x{_sub(k)} + W{_sub('h')} h{_sub(k - 1)} + b",
            _reads(word, k),
        ),
        (f"h{_sub(k)} = tanh(z{_sub(k)})", _vector(trace.h[k - 1].tolist())),
        (f"p{_sub(k)} = softmax(W{_sub('y')} h{_sub(k)} + b{_sub('y')})", ""),
        (
            f"ℓ{_sub(k)} = −log p{_sub(k)}[{word[k]}]",
            f"{trace.losses[k - 1]:.4f} nats, probability "
            f"{percent(float(trace.p[k - 1, trace.targets[k - 1]]))}",
        ),
    )
    start = f"δ{_sub(t)} = W{_sub('y')}ᵀ(p{_sub(t)} − {word[t]}) ⊙ (1 − h{_sub(t)}²)"
    if not back or k > t:
        return _listed(forward, not back) + _listed(((start, "here it begins"),), False)
    one = f"δ{_sub(k)} = W{_sub('h')}ᵀ δ{_sub(k + 1)} ⊙ (1 − h{_sub(k)}²)"
    shown = _vector(found.deltas[k - 1])
    backward = ((start if k == t else one, shown),)
    chips = " + ".join(
        f'<span class="{"lit" if j == k else "done" if j > k else "wait"}">'
        f"δ{_sub(j)}h{_sub(j - 1)}ᵀ</span>"
        for j in range(t, 0, -1)
    )
    gain = number(float(np.linalg.norm(found.pairs[k - 1].dw_h)))
    note = f"the lit term is of size {gain}"
    if k == 1:
        note = "h₀ = 0, so this term is zero"
    return (
        _listed(forward[1:2], False)
        + _listed(backward, True)
        + _listed(((f"dW{_sub('h')} = {chips}", note),), True, "sum")
    )


def _listed(lines: tuple[tuple[str, str], ...], lit: bool, kind: str = "") -> str:
    rows = "".join(
        f'<li class="{"lit" if lit else "wait"} {kind}"><span class="formula">{formula}</span>'
        + (f'<span class="note">{note}</span>' if note else "")
        + "</li>"
        for formula, note in lines
    )
    return f'<ul class="equations">{rows}</ul>'


def _sub(index: int | str) -> str:
    return f"<sub>{index}</sub>"


def _reads(word: str, k: int) -> str:
    start = ", h₀ = 0" if k == 1 else ""
    return f"x<sub>{k}</sub> is “{word[k - 1]}”{start}"


def _vector(values: list[float]) -> str:
    return "(" + ", ".join(minus(number(v)) for v in values) + ")"


def summary(found: Unrolled, position: int) -> dict[str, str]:
    """The numbers of the present step."""
    now, back = place(found, position)
    where = {"step": f"{now} of {found.steps}, {'back' if back else 'forward'}"}
    if not back:
        loss = found.trace.losses[now - 1]
        return {
            **where,
            "reads": found.word[now - 1],
            "should predict": found.word[now],
            "loss of this step": f"{number(loss)} nats",
        }
    size, first = found.sizes[now - 1], found.sizes[found.follow - 1]
    return {
        **where,
        f"‖δ‖ at step {now}": number(size),
        f"of its size at step {found.follow}": percent(size / first),
        "‖its term of dWₕ‖": number(float(np.linalg.norm(found.pairs[now - 1].dw_h))),
    }


def tell(found: Unrolled, position: int) -> tuple[str, ...]:
    """The present step in words."""
    now, back = place(found, position)
    t = found.follow
    if not back:
        before = "a state of zeros" if now == 1 else f"the state of step {now - 1}"
        first = (
            f"Step {now} mixes the letter “{found.word[now - 1]}” with {before} and predicts the "
            f"next letter, “{found.word[now]}”. The same weights are used at every step."
        )
        if now == found.steps:
            first += " The word is read. Move on: the gradient comes back."
    elif now > t:
        first = f"The loss of step {t} does not depend on what happens after it: δ is zero at step {now}."
    elif now == t:
        first = (
            f"The gradient of loss {t} begins here: predicted probabilities minus the letter that "
            "came, taken back through the output weights and the slope of tanh."
        )
    else:
        share = percent(found.sizes[now - 1] / found.sizes[t - 1])
        apart = t - now
        first = (
            f"{apart} step{'s' * (apart > 1)} back {share} of δ is left: so much of loss {t} "
            f"is there to teach the weights what to do with “{found.word[now - 1]}”."
        )
    return (
        first,
        "The weights are drawn at random and nothing is trained, so the losses lie near log 26 = "
        "3.26. Try ρ = 0.3 and ρ = 1.5, a longer word, or follow an earlier loss.",
    )


def minus(text: str) -> str:
    """A number's text with a minus sign in place of a hyphen."""
    return text.replace("-", "\u2212")


# The picture: the network step by step downwards, its gradient coming back up.

ROW, TOP, CELL = 84, 8, 25
CELLS = (62, 352)  # where the cells of a state begin and end
LEGEND: tuple[tuple[str, Color], ...] = (
    ("state above 0", "blue"),
    ("state below 0", "orange"),
    ("gradient above 0", "green"),
    ("gradient below 0", "purple"),
)


def draw(found: Unrolled, position: int) -> str:
    """The network unrolled, time downwards: letter, state, next letter; beneath each state its δ."""
    now, back = place(found, position)
    body = "".join(_row(found, k, now, back) for k in range(1, found.steps + 1))
    height = TOP + found.steps * ROW - 8
    caption = (
        "Each row is a step: the letter read, the state hₖ, the letter that should come next and its "
        "loss in nats; below the state the gradient δₖ, in units of the power of ten on the right."
    )
    legend = "".join(swatch(color, name) for name, color in LEGEND)
    title = f"“{found.word}”, unrolled"
    return frame_figure(title, f'<g fill="currentColor">{body}</g>', height, caption, legend)


def _row(found: Unrolled, k: int, now: int, back: bool) -> str:
    top = TOP + (k - 1) * ROW
    read = back or k <= now
    middle = top + CELL / 2
    H = found.trace.h.shape[1]
    fade = "" if read else ' opacity="0.45"'
    parts = []
    if k == now:
        parts.append(
            f'<rect x="2" y="{top - 5}" width="{WIDTH - 4}" height="{2 * CELL + 11}" rx="8" '
            f'fill="none" stroke="var(--ink)" stroke-width="1.5"/>'
        )
    word = found.word
    parts.append(
        f'<g{fade}><circle cx="26" cy="{middle}" r="12.5" fill="none" stroke="currentColor"/>'
        f'<text x="26" y="{middle + 4.5}" text-anchor="middle" fill="var(--ink)">{word[k - 1]}</text>'
        f"{_arrow(41, middle, 58, middle)}{_arrow(CELLS[1] + 3, middle, CELLS[1] + 15, middle)}</g>"
    )
    state = found.trace.h[k - 1].tolist() if read else [None] * H
    parts.append(_cells(f"h{k}", state, top, ("blue", "orange"), 1.0, "{:.2f}"))
    if read:
        followed = k == found.follow
        mark = ' font-weight="700" fill="var(--ink)"' if followed else ""
        parts.append(
            f'<text x="{CELLS[1] + 19}" y="{middle + 4.5}"{mark}>{word[k]}: '
            f"{found.trace.losses[k - 1]:.2f}</text>"
        )
    come = back and k >= now
    size = found.sizes[k - 1]
    delta: list[float | None] = [None] * H
    unit = 0
    if come:
        delta = list(found.deltas[k - 1])
        largest = max(abs(v) for v in found.deltas[k - 1])
        unit = math.floor(math.log10(largest)) if largest > 0 else 0
    under = top + CELL + 1
    if come and size > 0:
        scale = 10.0**unit
        shown = [None if v is None else v / scale for v in delta]
        parts.append(_cells(f"δ{k}", shown, under, ("green", "purple"), 10.0, "{:.2f}", delta))
        if unit:
            parts.append(
                f'<text x="{CELLS[1] + 19}" y="{under + CELL / 2 + 4.5}">·10{raised(unit)}</text>'
            )
    else:
        zero: list[float | None] = [0.0] * H if come else delta
        parts.append(_cells(f"δ{k}", zero, under, ("green", "purple"), 1.0, "{:.0f}"))
    parts.append(
        f'<text x="{CELLS[0] - 8}" y="{under + CELL / 2 + 4.5}" text-anchor="end">δ</text>'
    )
    if k < found.steps:
        low, high = under + CELL + 7, top + ROW - 7
        lit = k + 1 == now and not back
        gone = back or k + 1 <= now
        parts.append(_link(low, high, 150, "Wₕ", "blue", lit, gone))
        lit = back and k == now and k < found.follow
        gone = back and now <= k < found.follow
        parts.append(_link(high, low, 250, "Wₕᵀ", "green", lit, gone))
    return "".join(parts)


def _cells(
    name: str,
    values: list[float | None],
    top: float,
    colors: tuple[Color, Color],
    full: float,
    form: str,
    exact: list[float | None] | None = None,
) -> str:
    width = (CELLS[1] - CELLS[0]) / len(values)
    text = ""
    for i, value in enumerate(values):
        left = CELLS[0] + i * width
        box = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{CELL}"'
        if value is None:
            text += (
                f'<rect {box} fill="none" stroke="currentColor" stroke-dasharray="2 3" '
                f'opacity="0.4"/>'
            )
            continue
        color = paint(colors[0] if value >= 0 else colors[1])
        share = 0.08 + 0.42 * min(1.0, abs(value) / full)
        precise = value if exact is None else exact[i]
        text += (
            f"<g><title>{name}[{i + 1}] = {precise!r}</title>"
            f'<rect {box} fill="{color}" fill-opacity="{share:.2f}" stroke="currentColor" '
            f'stroke-opacity="0.5"/><text x="{left + width / 2:.1f}" y="{top + CELL / 2 + 4.5}" '
            f'text-anchor="middle" fill="var(--ink)">{minus(form.format(value))}</text></g>'
        )
    return text


def _arrow(x1: float, y1: float, x2: float, y2: float, width: float = 1.4) -> str:
    head = 4
    if x1 == x2:
        way = 1 if y2 > y1 else -1
        tip = f"M{x2 - head} {y2 - way * head}L{x2} {y2}L{x2 + head} {y2 - way * head}"
    else:
        tip = f"M{x2 - head} {y2 - head}L{x2} {y2}L{x2 - head} {y2 + head}"
    return (
        f'<path d="M{x1} {y1}L{x2} {y2}{tip}" stroke="currentColor" stroke-width="{width}" '
        f'fill="none"/>'
    )


def _link(y1: float, y2: float, x: float, name: str, color: Color, lit: bool, gone: bool) -> str:
    ink = paint(color) if gone or lit else "currentColor"
    faint = "" if gone or lit else ' opacity="0.4"'
    weight = ' font-weight="700"' if lit else ""
    return (
        f'<g color="{ink}"{faint}{weight}>{_arrow(x, y1, x, y2, 2.6 if lit else 1.4)}'
        f'<text x="{x + 9}" y="{(y1 + y2) / 2 + 4.5}" fill="currentColor" font-size="11">'
        f"{name}</text></g>"
    )


def draw_sizes(found: Unrolled, position: int) -> Chart:
    """‖δ_k‖ by step."""
    now, back = place(found, position)
    steps = list(range(1, found.follow + 1))
    reached = found.sizes[: found.follow]
    top = 1.01 * max(reached)
    parts: list[Line | Mark] = [Line("", steps, reached, "green", dots=True)]
    if back:
        parts.append(Mark(f"step {now}", x=now))
    return Chart(
        f"How much of loss {found.follow} reaches each step",
        parts, x="step k", y="‖δₖ‖", log=True, xlim=(0.8, found.steps + 0.2),
        ylim=(10.0 ** math.floor(math.log10(min(reached))), 10.0 ** math.ceil(math.log10(top))),
        caption="Each step back multiplies by Wₕᵀ and by the slopes of tanh.",
    )  # fmt: skip

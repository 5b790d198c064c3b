"""What would help: the rules, each with its number and its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from bptt.errors import optional
from bptt.probes import Gate
from bptt.probes.diagnose import ModuleDiagnosis
from bptt.report.figures import is_number
from bptt.report.words import has_gradient
from bptt.training.settings import Settings

# What a run's own numbers say about its settings: clipping, and k beside the horizon.

# The later half of a run: what happens while a start settles is no fault of the settings.
SETTLED = 0.5
# Share of updates that were clipped. Always at the threshold, the clip and not the rate sets the step.
ALWAYS = 0.9
# A pre-clip norm so small beside the threshold that no update of it was ever near being cut.
NEAR_ZERO = 1e-3
# A horizon within a tenth of the chunk's length is the chunk's, not the gradient's.
FILLED = 0.9


def health(records: Iterable[dict[str, Any]], settings: Settings) -> tuple[Advice, ...]:
    """Every rule that a run's metrics meet, from the later half of its lines.

    Args:
        records: lines of ``metrics.jsonl``.
        settings: of the run.

    Example:
        >>> lines = [{"step": n, "norm": 9.0, "clipped": 1.0} for n in range(20)]
        >>> [advice.rule for advice in health(lines, Settings())]
        ['always clipped']
    """
    lines = list(records)
    lines = lines[int(len(lines) * SETTLED) :]
    trained = [
        line for line in lines if is_number(line.get("norm")) and is_number(line.get("clipped"))
    ]
    if not trained:
        return ()
    return (*_clipping(trained, settings.clip), *_truncation(trained, settings))


def _clipping(lines: list[dict[str, Any]], clip: object) -> Iterable[Advice]:
    threshold = clip if isinstance(clip, (int, float)) else 1.0
    norm = sum(line["norm"] for line in lines) / len(lines)
    clipped = sum(line["clipped"] for line in lines) / len(lines)
    if clipped > ALWAYS:
        yield Advice(
            "always clipped",
            f"{clipped:.0%} of the updates were clipped, at a mean norm of {norm:.2g}: the threshold, "
            "not the rate, sets the step. Lower --lr, raise --clip, or try another --init "
            "(docs/mistakes.md#always-clipped).",
        )
    if norm < NEAR_ZERO * threshold:
        yield Advice(
            "norm near zero",
            f"The gradient's mean norm is {norm:.2g}: it vanishes, or there is nothing left to learn. "
            "bptt diagnose RUN says which (docs/mistakes.md#near-zero).",
        )


def _truncation(lines: list[dict[str, Any]], settings: Settings) -> Iterable[Advice]:
    measured = [line for line in lines if is_number(line.get("horizon")) and _spectrum(line)]
    if not measured or settings.gradient != "truncated":
        return
    last = measured[-1]
    spectrum = _spectrum(last)
    if last["horizon"] >= FILLED * settings.k1:
        yield Advice(
            "k may be too short",
            f"The gradient reaches {last['horizon']} steps, all of k = {settings.k1}: it may go on "
            "beyond. bptt diagnose RUN measures it on longer sequences.",
        )
        return
    near = settings.k1
    for k, share in reversed(spectrum):
        if share is None or share > 0.01:
            break
        near = int(k)
    if settings.k1 > TOO_LONG * near:
        yield Advice(
            "k too long",
            f"Beyond {near} steps only 1 % of the gradient is left, and k = {settings.k1}: a shorter k "
            "gives nearly the same gradient and more updates in the same text.",
        )


def _spectrum(line: dict[str, Any]) -> list[tuple[float, float | None]]:
    """(k, bias) of a line, ascending; empty where it carries none, or a broken one."""
    spectrum = line.get("spectrum")
    if not isinstance(spectrum, dict):
        return []
    grid, bias = spectrum.get("truncations"), spectrum.get("bias")
    if not isinstance(grid, (list, tuple)) or not isinstance(bias, (list, tuple)):
        return []
    if len(grid) != len(bias) or not all(map(is_number, grid)):
        return []
    return (
        list(zip(grid, bias, strict=True)) if all(b is None or is_number(b) for b in bias) else []
    )


# Twice the tolerance of the horizon: a truncation that changes every update by a tenth.
TOO_SHORT = 0.10
# Four times the 1 % horizon: half of it, and half again, would still change the gradient by under 1 %.
TOO_LONG = 4
# Saturated units pass a fifth or less of the gradient: with a quarter of them the factor per step
# falls by about a fifth, which alone is a vanishing gradient. A gradient that is healthy all the same
# goes past them, as a GRU's does through its update gate: nothing is said then.
SATURATED = 0.25
# A forget gate of 0.7 leaves a tenth of the cell after 7 steps; a bias of 1 starts it at 0.73, of 2
# at 0.88.
FORGETS = 0.7
# Mean update of a GRU's state in a step: at 0.5 half of it is new, and a tenth is left after 4 steps.
OVERWRITES = 0.5

Say: TypeAlias = Callable[[str, str], None]


@dataclass(frozen=True)
class Advice:
    """One rule that applies.

    Attributes:
        rule: its name.
        text: what was measured, what to do, and why.
    """

    rule: str
    text: str


def advise(found: ModuleDiagnosis, k: int | None = None) -> tuple[Advice, ...]:
    """Every rule that applies to a module, the most urgent first; none when nothing is amiss.

    Args:
        found: what was measured.
        k: the truncation that is trained with.

    Example:
        >>> import torch, bptt
        >>> rnn = torch.nn.RNN(3, 5)
        >>> batch = torch.randn(40, 2, 3), torch.randn(40, 2, 5)
        >>> found = bptt.diagnose(rnn, batch, torch.nn.functional.mse_loss, k=1).main
        >>> [a.rule for a in advise(found, k=1)]
        ['k too short', 'plain cell']
    """
    k = optional("k", k)
    watched, spectrum = found.watched, found.watched.spectrum
    verdict, given = watched.verdict, []

    def say(rule: str, text: str) -> None:
        given.append(Advice(rule, text))

    if verdict == "exploding":
        say(
            "exploding",
            "The gradient grows on its way back: clip its norm (--clip 1), lower the learning rate, or "
            "start the recurrent matrix smaller (--init orthogonal, spectral norm 1).",
        )
    if has_gradient(spectrum):
        _truncations(found, k, say)
    elif spectrum.gradient_norm == 0:
        say(
            "no gradient",
            "No gradient reaches this module, so there is nothing to truncate: look for units that "
            "are all shut (a ReLU that is 0 everywhere), a detach() on the way, or a loss that does "
            "not ask for its output.",
        )
    if verdict == "vanishing":
        _longer(found, say)
    return tuple(given)


def _truncations(found: ModuleDiagnosis, k: int | None, say: Say) -> None:
    """What the bias of truncations says of k and of the sequence's length."""
    spectrum = found.watched.spectrum
    if k is not None and k < spectrum.steps and spectrum.bias_of(k) > TOO_SHORT:
        at = spectrum.horizon()
        say(
            "k too short",
            f"Truncating to k = {k} leaves {100 * spectrum.bias_of(k):.2g} % of the gradient out, over "
            f"{100 * TOO_SHORT:.0f} %: use k = {at}, where it is within 5 %.",
        )
    near = spectrum.horizon(0.01)
    # A horizon as long as the sequence is one that was not found, and a k beyond it was not tried.
    if k is not None and near < spectrum.steps and TOO_LONG * near < k <= spectrum.steps:
        say(
            "k too long",
            f"k = {k} is more than {TOO_LONG} times the {near} steps after which the bias is under 1 %: "
            f"k = {2 * near} gives nearly the same gradient, keeps less in memory, and updates "
            "more often in the same text.",
        )
    wrong = (spectrum.measured_cosine < 0).nonzero()
    if len(wrong):
        last = int(spectrum.truncations[wrong[-1, 0]])
        say(
            "wrong way",
            f"Truncated to {last} steps or fewer, the gradient can point away from the full one: a "
            "longer k is not a matter of taste here.",
        )
    if spectrum.horizon() >= spectrum.steps:
        say(
            "sequence too short",
            f"The horizon is as long as the {spectrum.steps} steps that were measured, so it may be "
            f"longer: measure {4 * spectrum.steps} (--steps {4 * spectrum.steps}).",
        )


def _longer(found: ModuleDiagnosis, say: Say) -> None:
    """What makes a gradient that vanishes reach farther, by the kind of cell."""
    known = found.watched.saturation
    gates = {} if known is None else known.layers[-1]
    if known is not None and known.share > SATURATED:
        say(
            "saturated",
            f"{100 * known.share:.0f} % of the values that carry the state stand at the flat ends of "
            f"their activation (limit {100 * SATURATED:.0f} %), where little gradient passes: a smaller "
            "start, a lower rate or weight decay keeps them nearer the middle.",
        )
    if "forget" in gates and mean(gates["forget"]) < FORGETS:
        say(
            "forget gate",
            f"The forget gates stand at {mean(gates['forget']):.2f} on average, below {FORGETS:g}: start "
            "them more open (--forget-bias 1, or 2 for long memory).",
        )
    elif "update" in gates and mean(gates["update"]) < OVERWRITES:
        say(
            "update gate",
            f"The update gates keep {100 * mean(gates['update']):.0f} % of the state in a step, below "
            f"{100 * OVERWRITES:.0f} %: if the task needs a longer memory, start their bias at 1 or "
            "more, or try a linear recurrence (--cell lru, --cell mingru).",
        )
    elif "h" in gates or "relu" in gates:
        say(
            "plain cell",
            f"A plain RNN multiplies the gradient by {found.watched.decay:.2g} a step: if the task needs "
            "more than its horizon, an orthogonal start (--init orthogonal) or a gated cell (--cell gru) "
            "reaches farther.",
        )


def mean(gate: Gate) -> float:
    """Mean of a gate's values, to the width of a histogram's bin."""
    return float((gate.shares * (gate.edges[1:] + gate.edges[:-1]) / 2).sum())

"""What would help: the rules, each with its number and its reason."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from bptt.choices import clip_form
from bptt.errors import BpttError, optional
from bptt.experiments.trials import switch_k
from bptt.probes import VERDICTS, Gate, Verdict, judge
from bptt.probes.diagnose import ModuleDiagnosis
from bptt.probes.verdict import CUTS
from bptt.report.figures import is_number
from bptt.report.words import has_gradient
from bptt.training.settings import Settings
from bptt.training.sizes import ENDLESS, fitted

# What a run's own numbers say about its clip.

# The later half of a run: what happens while a start settles is no fault of the settings.
SETTLED = 0.5
# Share of updates that were clipped. Always at the threshold, the clip and not the rate sets the step.
ALWAYS = 0.9
# A pre-clip norm so small beside the threshold that no update of it was ever near being cut.
NEAR_ZERO = 1e-3


def health(records: Iterable[dict[str, Any]], settings: Settings) -> tuple[Advice, ...]:
    """What a run's metrics say of its clip, from the later half of its lines.

    Of k and of the horizon they say nothing here: that is the verdict's, by :func:`next_step`.

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
    return tuple(_clipping(trained, settings.clip)) if trained else ()


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


# Four times the 1 % horizon: half of it, and half again, would still change the gradient by under 1 %.
TOO_LONG = 4
# Saturated units pass a fifth or less of the gradient: where a quarter of a plain RNN's stand so, that
# alone makes it vanish. Of a GRU and an LSTM none count: bptt.probes.Saturation.blocks says why.
SATURATED = 0.25
# A forget gate of 0.7 leaves a tenth of the cell after 7 steps; a bias of 1 starts it at 0.73, of 2
# at 0.88.
FORGETS = 0.7
# Mean update of a GRU's state in a step: at 0.5 half of it is new, and a tenth is left after 4 steps.
OVERWRITES = 0.5

# Cells whose recurrent matrices --init starts.
STARTED = ("rnn", "rnn-relu", "gru", "lstm")

Say: TypeAlias = Callable[[str, str], None]


@dataclass(frozen=True)
class Advice:
    """What to do.

    Attributes:
        rule: its name.
        text: what was measured, what to do, and why.
        command: what to type next, in a shell for a run, else in Python; empty where there is no more
            than the text.
    """

    rule: str
    text: str
    command: str = ""


# Of a verdict: one thing to do, and one command to type.


@dataclass(frozen=True)
class Run:
    """The run that a verdict is on, as far as a command has to know it.

    Attributes:
        path: its folder, as it was named.
        settings: of the run.
        tokens: of its whole text; None if that is not known.
        files: names of its text from here; empty for those that the settings have.
    """

    path: str
    settings: Settings
    tokens: int | None = None
    files: tuple[str, ...] = ()

    def anew(self, switch: str) -> str:
        """Train the same once more, with one thing changed."""
        config = str(Path(self.path) / "config.toml")
        return shlex.join(["bptt", "train", *self.files, "--config", config]) + f" {switch}"

    def fits(self, **sizes: Any) -> bool:
        """Whether the text has room for these sizes, as :func:`bptt.training.sizes.fitted` counts it."""
        try:
            fitted(replace(self.settings, **sizes), self.tokens or ENDLESS)
        except BpttError:
            return False
        return True


TRY_FOR = 5  # minutes: enough updates to rank the remedies of a default run


def next_step(judged: Verdict, run: Run | None = None) -> Advice:
    """What to do about a verdict, with one command.

    Args:
        judged: the verdict.
        run: that it is on; None of a model of one's own, whose commands are Python.

    Example:
        >>> import torch, bptt
        >>> batch = torch.randn(40, 2, 3), torch.randn(40, 2, 5)
        >>> found = bptt.diagnose(torch.nn.RNN(3, 5), batch, torch.nn.functional.mse_loss)
        >>> found.verdict.word, next_step(found.verdict).command
        ('vanishing', 'bptt.diagnose(model, batch, loss, try_for=30)')
    """
    word = judged.word
    advice = VERDICTS[word].advice
    if judged.switch:
        text = "Switch on what reached farther and lowered the loss."
        return Advice(word, text, judged.switch if run is None else run.anew(judged.switch))
    if word == "healthy":
        return _healthy(judged, run)
    if word == "cut short":
        return _cut_short(judged, run)
    if word == "vanishing":
        if run is None:
            return Advice(word, advice, "bptt.diagnose(model, batch, loss, try_for=30)")
        return Advice(
            word, advice, shlex.join(["bptt", "diagnose", run.path]) + f" --try-for {TRY_FOR}"
        )
    if run is None:
        lower = "for group in optimizer.param_groups: group['lr'] /= 3"
        commands = {
            "diverged": lower,
            "exploding": "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
            "no gradient": "with bptt.guard(model, optimizer): ...",
        }
        return Advice(word, advice, commands[word])
    return Advice(word, advice, run.anew(_calmer(word, run.settings)))


def _calmer(word: str, settings: Settings) -> str:
    """The switches for a run that broke: those that it does not have yet."""
    lower = f"--lr {settings.learning_rate / 3:.2g}"
    unclipped = clip_form(settings.clip) == "none"
    if word == "no gradient" and settings.cell == "rnn-relu":
        return "--cell rnn"
    if word == "exploding":
        if unclipped:
            return "--clip 1"
        plain = settings.init == "default" and settings.forget_bias is None
        return "--init orthogonal" if plain and settings.cell in STARTED else lower
    return f"{lower} --clip 1" if unclipped else lower


def _healthy(judged: Verdict, run: Run | None) -> Advice:
    k, near = judged.k, judged.near
    if k is not None and near < judged.steps and TOO_LONG * near < k:
        shorter = 2 * near
        text = (
            f"k = {k} is more than {TOO_LONG} times the {near} steps after which the bias is under 1 %: "
            f"k = {shorter} gives nearly the same gradient, keeps less in memory, and updates more often."
        )
        if run is None:
            return Advice("k too long", text, f"bptt.gradients.Truncated({shorter})")
        return Advice("k too long", text, run.anew(switch_k(run.settings, shorter)))
    if judged.horizon >= judged.steps and (k is None or k >= judged.steps) and judged.steps > 1:
        text = (
            f"Nothing has to change. The horizon is as long as the {judged.steps} steps that were "
            "measured, so it may be longer: longer sequences tell."
        )
        if run is None:
            return Advice("sequence too short", text, "bptt.diagnose(model, longer_batch, loss)")
        held = (run.tokens or 0) * (run.settings.valid_fraction or 0)
        if held > 4 * judged.steps + 1:
            command = shlex.join(["bptt", "diagnose", run.path]) + f" --steps {4 * judged.steps}"
            return Advice("sequence too short", text, command)
    text = "Nothing has to change: train on."
    if run is None:
        return Advice("keep", text, "with bptt.watch(model, every=50) as flow: ...")
    settings = run.settings
    budget = next((b for b in ("steps", "epochs") if getattr(settings, b) is not None), "minutes")
    twice = 2 * (getattr(settings, budget) or 1)
    words = ["bptt", "train", *run.files, "--resume", run.path, f"--{budget}", f"{twice:g}"]
    return Advice("keep", text, shlex.join(words))


def _cut_short(judged: Verdict, run: Run | None) -> Advice:
    left, k = judged.left_out or 0.0, judged.k or 1
    longer = max(judged.horizon, k + 1)
    text = (
        f"Truncating to k = {k} leaves {100 * left:.2g} % of the gradient out, over {100 * CUTS:.0f} %: "
        f"use k = {longer}"
        + (", where it is within 5 %." if judged.horizon < judged.steps else ", or more.")
    )
    if run is None:
        return Advice("k too short", text, f"bptt.gradients.Truncated({longer})")
    settings, chunk = run.settings, max(longer, run.settings.steps_per_update)
    switch = switch_k(settings, longer)
    name = {"truncated": "k", "windowed": "window"}.get(settings.gradient, "chunk")
    lanes = settings.lanes
    while lanes and not run.fits(**{"chunk": chunk, name: longer, "batch": lanes}):
        lanes //= 2
    if not lanes:
        text += " This text has no room for that; a remedy may need less of it."
        words = ["bptt", "diagnose", run.path, "--try-for", str(TRY_FOR)]
        return Advice("k too short", text, shlex.join(words))
    if lanes < settings.lanes:
        text += f" The text has room for it in {lanes} lanes."
        switch += f" --batch {lanes}"
    return Advice("k too short", text, run.anew(switch))


# Of a module: every rule that applies to it.


def advise(
    found: ModuleDiagnosis, k: int | None = None, judged: Verdict | None = None
) -> tuple[Advice, ...]:
    """What a module's own numbers advise, the most urgent first; none when nothing is amiss.

    Args:
        found: what was measured.
        k: the truncation that is trained with.
        judged: the verdict on it; default: on this module and this batch alone.

    Example:
        >>> import torch, bptt
        >>> rnn = torch.nn.RNN(3, 5)
        >>> batch = torch.randn(40, 2, 3), torch.randn(40, 2, 5)
        >>> found = bptt.diagnose(rnn, batch, torch.nn.functional.mse_loss, k=1).main
        >>> [a.rule for a in advise(found, k=1)]
        ['k too short']
    """
    k = optional("k", k)
    spectrum = found.watched.spectrum
    judged = judge([spectrum], k=k) if judged is None else judged
    step, given = next_step(judged), []

    def say(rule: str, text: str) -> None:
        given.append(Advice(rule, text))

    if judged.word in ("diverged", "exploding", "no gradient"):
        say(judged.word, step.text)
    elif step.rule != "keep":
        say("remedy" if judged.switch else step.rule, step.text)
    if judged.word == "vanishing" and not judged.switch:
        given.clear()
        _longer(found, say)
        if k is not None and TOO_LONG * judged.near < k <= spectrum.steps:
            say(
                "k too long",
                f"If the task needs no more, k = {2 * judged.near} gives nearly the same gradient as "
                f"k = {k}, keeps less in memory, and updates more often in the same text.",
            )
    wrong = (spectrum.measured_cosine < 0).nonzero()
    if len(wrong) and has_gradient(spectrum):
        last = int(spectrum.truncations[wrong[-1, 0]])
        say(
            "wrong way",
            f"Truncated to {last} steps or fewer, the gradient can point away from the full one: a "
            "longer k is not a matter of taste here.",
        )
    return tuple(given)


def _longer(found: ModuleDiagnosis, say: Say) -> None:
    """What makes a gradient that vanishes reach farther, by the kind of cell."""
    known = found.watched.saturation
    gates = {} if known is None else known.layers[-1]
    if known is not None and known.blocks > SATURATED:
        say(
            "saturated",
            f"{100 * known.blocks:.0f} % of the values that carry the state stand at the flat ends of "
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
            f"{100 * OVERWRITES:.0f} %: if the task needs a longer memory, start them spread over "
            "it (--init chrono:STEPS).",
        )
    elif "h" in gates or "relu" in gates:
        say(
            "plain cell",
            "A plain RNN multiplies the gradient by the same matrix at every step: if the task needs "
            f"more than its horizon of {found.watched.horizon}, an orthogonal start (--init "
            "orthogonal) or a gated cell (--cell gru) reaches farther.",
        )


def mean(gate: Gate) -> float:
    """Mean of a gate's values, to the width of a histogram's bin."""
    return float((gate.shares * (gate.edges[1:] + gate.edges[:-1]) / 2).sum())

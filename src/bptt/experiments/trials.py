"""Remedies tried on somebody's model, each for a few seconds, and what each did to the horizon.

A rule of thumb says that an orthogonal start or a gated cell "reaches farther"; this trains fresh
copies of the model at hand, each with one thing changed, on the same batches for the same number of
updates, and measures. A few seconds show what a start, a cell, a clip or a truncation does to the
gradient; who wins after hours, they do not.

Limits: a copy starts afresh by the ``reset_parameters`` of its modules; parameters that no such method
fills stay as they are. In a model of one's own a cell is exchanged only where its place stays the
same for the code around it: an RNN for a GRU.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from bptt import nn as layers
from bptt.choices import clip_form
from bptt.errors import ArgumentError, BpttError, optional, real, whole
from bptt.gradients import Truncated
from bptt.ops.device import CPU
from bptt.probes import diagnose as probes
from bptt.probes.diagnose import Diagnosis, Trial
from bptt.probes.verdict import verdict
from bptt.probes.watch import Watched, watch
from bptt.remedies import build_clip, start_recurrent
from bptt.training.build import build_model
from bptt.training.fit import Gradients, fit_step
from bptt.training.settings import Settings

# What can be tried on a run's model: its own settings with one of them changed.

CELLS = ("rnn", "gru", "lstm")
SEEDS = 1 << 31


def run_variants(
    settings: Settings,
    vocabulary_size: int,
    *,
    steps: int,
    k: int | None,
    device: torch.device = CPU,
) -> tuple[Variant, ...]:
    """Starts, cells, clips and truncations beside what the run was trained with.

    Args:
        settings: of a run of a recurrent model.
        vocabulary_size: V.
        steps: T of the batches it is tried on: the memory a chrono start is spread over.
        k: steps its gradient is truncated to; None for all.
        device: where the batches are.
    """

    def variant(name: str, switch: str, to: int | None = k, **changed: Any) -> Variant:
        made = replace(settings, **changed)
        longer = k is not None and to is not None and to > k
        if changed.get("forget_bias", 0) is None and settings.forget_bias is not None:
            switch += " --forget-bias None"

        def build() -> nn.Module:
            # A model is built from the seed of its settings: that of this start is torch's now.
            seed = torch.initial_seed() % SEEDS
            return build_model(replace(made, seed=seed), vocabulary_size).to(device)

        return Variant(name, switch, build, made.clip, to, longer)

    found = [variant("as it is", "")]
    if settings.init != "orthogonal" and settings.cell in ("rnn", "rnn-relu", "gru", "lstm"):
        found.append(variant("orthogonal start", "--init orthogonal", init="orthogonal"))
    if settings.cell in ("gru", "lstm", "mingru") and steps > 2:
        word = f"chrono:{steps}"
        found.append(variant("chrono start", f"--init {word}", init=word, forget_bias=None))
    for cell in CELLS:
        if cell != settings.cell and (settings.init, settings.orthogonal) == ("default", False):
            found.append(variant(cell.upper(), f"--cell {cell}", cell=cell, forget_bias=None))
    if clip_form(settings.clip) == "none":
        found.append(variant("clipped to 1", "--clip 1", clip=1.0))
    else:
        found.append(variant("no clipping", "--clip none", clip=None))
    if k is not None:
        found += [
            variant(f"k = {other}", switch_k(settings, other), to=other)
            for other in (k // 2, 2 * k)
            if 1 <= other <= steps
        ]
    return tuple(found)


def switch_k(settings: Settings, k: int) -> str:
    """The words that make a run's gradient reach back k steps; what has to hold them changes with it."""
    chunk = settings.steps_per_update
    if settings.gradient == "windowed":
        own = f"--k {k} " if k < settings.k1 else ""
        return f"{own}--window {k} --chunk {max(chunk, k)}"
    if settings.gradient != "truncated":
        return f"--chunk {k}"
    return f"--k {k} --chunk {k}" if chunk == settings.k1 or chunk < k else f"--k {k}"


Batch = tuple[Any, Any]
Loss = Callable[[Any, Any], Tensor]

LANES = 8  # measured in each trial: what the horizon differs by between remedies, so many show
RATE = 3e-3  # of AdamW, where the caller names no optimiser
STARTS = 3  # of each remedy, where they are to be ranked
SLOWER = 4  # times the first trial's seconds after which another one is stopped


@dataclass(frozen=True)
class Variant:
    """A model with one thing changed.

    Attributes:
        name: what is changed, in a few words.
        switch: how it is switched on; empty for the model as it is.
        build: makes it, freshly started.
        clip: as :func:`bptt.remedies.build_clip` takes it; None for none.
        k: steps its gradient is truncated to; None for the whole sequence.
        longer: a longer truncation is all that is changed.
    """

    name: str
    switch: str
    build: Callable[[], nn.Module]
    clip: float | str | None
    k: int | None
    longer: bool = False


def try_remedies(
    variants: Sequence[Variant],
    batches: Callable[[int], Batch],
    measured: Batch,
    loss: Loss,
    *,
    seconds: float = 2.0,
    updates: int | None = None,
    starts: int = 1,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    seed: int = 0,
    done: Callable[[Trial], None] = lambda trial: None,
) -> tuple[Trial, ...]:
    """Train each variant for a few seconds and measure its gradient by lag.

    Args:
        variants: what to try; the first sets how many updates the others make.
        batches: the batch ``(inputs, target)`` of the n-th update, the same for every variant.
        measured: the batch that is measured, after training.
        loss: ``loss(output, target)``, a scalar.
        seconds: how long the first variant trains, from each of its starts; the others make as many
            updates, and stop after four times as long.
        updates: train so many in place of that.
        starts: copies of each, from starts of their own: what they differ by is the spread of the loss,
            without which nothing is ranked (``bptt.probes.verdict.rank``).
        optimizer: made for each variant's model; default AdamW at 0.003.
        seed: each variant starts from it; its further starts from the next numbers.
        done: called after each.

    Returns:
        A :class:`Trial` each, in order.

    Raises:
        ArgumentError: nothing to try, or no time to try it.

    Cost: ``seconds`` for each start, and a :func:`bptt.watch`-ed step on eight lanes.

    Example:
        >>> import torch, bptt
        >>> model = torch.nn.RNN(3, 5)
        >>> batch = torch.randn(20, 4, 3), torch.randn(20, 4, 5)
        >>> tried = try_remedies(
        ...     model_variants(model, steps=20), lambda n: batch, batch,
        ...     torch.nn.functional.mse_loss, updates=3,
        ... )
        >>> [t.name for t in tried]
        ['as it is', 'orthogonal start', 'GRU', 'no clipping']
    """
    if not variants:
        raise ArgumentError("variants to try", "none", "see bptt.experiments.trials.model_variants")
    seconds = real("seconds", seconds, "leave it out")
    updates = optional("updates", updates, None, "leave it out")
    seed, starts = whole("seed", seed, None), whole("starts", starts)
    if not (seconds > 0 and math.isfinite(seconds)) or (updates is not None and updates < 1):
        raise ArgumentError(
            "seconds > 0 and at least 1 update", f"{seconds} and {updates}", "leave them out"
        )
    made: list[Trial] = []
    most = seconds if updates is None else math.inf
    for variant in variants:
        copies: list[Trial] = []
        for start in range(starts):
            with torch.random.fork_rng(), torch.enable_grad():
                torch.manual_seed(seed + start)
                copies.append(_try(variant, batches, measured, loss, updates, most, optimizer))
            if updates is None:
                updates, most = copies[0].updates, SLOWER * seconds
        made.append(_together(copies, variant.longer))
        done(made[-1])
    return tuple(made)


def diagnose(
    model: nn.Module,
    batch: Batch,
    loss: Loss,
    *,
    k: int | None = None,
    lanes: int | None = None,
    try_for: float | None = None,
    others: Sequence[Batch] = (),
) -> Diagnosis:
    """Run one forward and backward pass and measure everything about it that runs through time.

    Parameters, ``.grad``, random numbers and training mode are afterwards what they were.

    Args:
        model, batch, loss, k, lanes, others: as :func:`bptt.probes.diagnose.diagnose` takes them: any
            module with recurrent layers or cells; ``(inputs, target)``; ``loss(output, target)``, one
            number;
            the truncation you train with; the most lanes to measure; further batches, for the
            spread.
        try_for: seconds to train fresh copies of the model for, on these batches, each with one remedy
            and from three starts: :func:`try_remedies`. Default: not at all. For remedies of your own,
            call that.

    Returns:
        :class:`bptt.Diagnosis`; draw it with :func:`bptt.report.write_report`, or print it with
        :func:`bptt.report.show`.

    Raises:
        ArgumentError: the batch is no pair, k is out of range, or nothing in the model is recurrent.
        WatchError: the loss does not depend on a recurrent module.

    Cost: for each module that of :func:`bptt.probes.lag_spectrum`, some seconds for the products of
    Jacobians of 512 states; with ``try_for`` as many seconds for each remedy.

    Example:
        >>> import torch
        >>> model = torch.nn.GRU(3, 5)
        >>> batch = torch.randn(20, 2, 3), torch.randn(20, 2, 5)
        >>> [m.watched.name for m in diagnose(model, batch, torch.nn.functional.mse_loss).modules]
        ['']
    """
    found = probes.diagnose(model, batch, loss, k=k, lanes=lanes, others=others)
    if try_for is None:
        return found
    # Only a model that hands its carry on can be trained truncated.
    own = found.k if found.hands_on else None
    variants = model_variants(model, steps=found.main.watched.spectrum.steps, k=own)
    given = [batch, *others]
    trials = try_remedies(
        variants, lambda n: given[n % len(given)], batch, loss,
        seconds=real("try_for", try_for) / STARTS, starts=STARTS,
    )  # fmt: skip
    return replace(found, trials=trials)


def _try(
    variant: Variant, batches: Callable[[int], Batch], measured: Batch, loss: Loss,
    updates: int | None, seconds: float, optimizer: Callable[[nn.Module], Any] | None,
) -> Trial:  # fmt: skip
    model = variant.build().train()
    update = torch.optim.AdamW(model.parameters(), RATE) if optimizer is None else optimizer(model)
    clip = build_clip(variant.clip)
    gradients, given = _gradients(loss, variant.k)
    began, count, note = time.perf_counter(), 0, ""
    while updates is None or count < updates:
        if count and time.perf_counter() - began > seconds:
            note = "" if updates is None else f"stopped after {count} of {updates} updates"
            break
        done = fit_step(model, update, batches(count), gradients, given, clip=clip)
        if not done.finite:
            what = "gradient" if math.isfinite(done.loss) and done.sound else "loss"
            note = f"its {what} is no number after {count} updates"
            break
        count += 1
    took = time.perf_counter() - began
    try:
        value, found = _measure(model.eval(), measured, loss)
        failed = "" if math.isfinite(value) else note or "its loss is no number"
    except BpttError as error:
        failed = note or f"not measured: {error}"
    if failed:
        return Trial(
            variant.name, variant.switch, count, took, math.nan, None, None, math.nan, "", failed
        )
    return Trial(
        variant.name, variant.switch, count, took, value, found.horizon,
        found.spectrum.horizon(0.01), found.decay, verdict(found.spectrum, variant.k), note,
    )  # fmt: skip


def _together(copies: list[Trial], longer: bool) -> Trial:
    """Copies from several starts as one trial: the mean of their losses, the middle of their horizons."""
    count = min(t.updates for t in copies)
    note = next((t.note for t in copies if t.note), "")
    losses = [t.loss for t in copies]
    reached = sorted((t for t in copies if t.horizon is not None), key=lambda t: t.horizon or 0)
    if len(reached) < len(copies):  # a remedy that fails from one start fails
        reached, losses = [], [math.nan]
    one = reached[(len(reached) - 1) // 2] if reached else copies[0]
    error = statistics.stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else math.nan
    return replace(
        one, updates=count, seconds=sum(t.seconds for t in copies), loss=statistics.fmean(losses),
        horizon=one.horizon if reached else None, near=one.near if reached else None,
        verdict=one.verdict if reached else "", note=note, starts=len(copies), spread=error,
        low=reached[0].horizon if reached else None, high=reached[-1].horizon if reached else None,
        longer=longer,
    )  # fmt: skip


def _gradients(loss: Loss, k: int | None) -> tuple[Gradients, Loss | None]:
    """How a batch is differentiated, and the loss that an estimator asks for."""
    if k is not None:
        return Truncated(k), loss
    # Any module, whatever else it returns: an estimator asks for (output, carry).
    return lambda model, batch: loss(_output(model, batch[0]), batch[1]), None


def _measure(model: nn.Module, batch: Batch, loss: Loss) -> tuple[float, Watched]:
    inputs, target = batch
    with watch(model, lanes=LANES) as flow:
        value = loss(_output(model, inputs), target)
        value.backward()
    return float(value.detach()), flow.last.main


def _output(model: nn.Module, inputs: Any) -> Any:
    output = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return output[0] if isinstance(output, tuple) else output


def model_variants(
    model: nn.Module, *, steps: int, k: int | None = None, clip: float | None = 1.0
) -> tuple[Variant, ...]:
    """What can be tried on any model: itself, starts, a gated cell, the clip, and twice or half of k.

    Args:
        model: with recurrent layers or cells; it is copied, and stays what it is.
        steps: T of the batches: the memory a chrono start is spread over.
        k: the truncation you train with; the model must then take ``(x, carry)``.
        clip: the norm you clip to; None for none.
    """
    steps, k = whole("steps", steps), optional("k", k)
    clip = None if clip is None else real("clip", clip)
    base = Variant("as it is", "", lambda: fresh(model), clip, k)
    found = [base]

    def start(word: str, name: str) -> None:
        def build() -> nn.Module:
            started = fresh(model)
            start_recurrent(started, word)
            return started

        try:  # an LSTM's start on a model without one
            with torch.random.fork_rng():
                build()
        except BpttError:
            return
        found.append(Variant(name, f"start_recurrent(model, {word!r})", build, clip, k))

    start("orthogonal", "orthogonal start")
    if steps > 2:
        start(f"chrono:{steps}", "chrono start")
    if any(isinstance(m, nn.RNN) for m in model.modules()):
        found.append(Variant("GRU", "GRU in place of RNN", lambda: gated(fresh(model)), clip, k))
    if clip is None:
        found.append(Variant("clipped to 1", "clip_norm(parameters, 1)", base.build, 1.0, k))
    else:
        found.append(Variant("no clipping", "no clip", base.build, None, k))
    if k is not None:
        found += [
            Variant(f"k = {other}", f"Truncated({other})", base.build, clip, other, other > k)
            for other in (k // 2, 2 * k)
            if 1 <= other <= steps
        ]
    return tuple(found)


def fresh(model: nn.Module) -> nn.Module:
    """A copy, started anew by the ``reset_parameters`` of its modules."""
    made = copy.deepcopy(model)
    for module in made.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset) and not is_parametrized(module):
            reset()
    return made


def gated(model: nn.Module) -> nn.Module:
    """The model with a GRU of the same sizes in the place of every RNN, ours where it was ours."""

    def exchanged(module: nn.Module) -> nn.Module:
        if not isinstance(module, nn.RNN):
            return module
        kind = layers.GRU if isinstance(module, layers.RNN) else nn.GRU
        like = next(module.parameters())
        return kind(
            module.input_size, module.hidden_size, module.num_layers, module.bias,
            module.batch_first, module.dropout, module.bidirectional,
            device=like.device, dtype=like.dtype,
        )  # fmt: skip

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            setattr(parent, name, exchanged(child))
    return exchanged(model)

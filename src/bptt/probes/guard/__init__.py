"""Name the mistakes of a training loop while it runs: the block around it, its findings, its report."""

from __future__ import annotations

import copy
import html
import math
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from bptt.errors import ArgumentError, BpttError, LoopError, LoopWarning, optional
from bptt.probes.guard import call_rules, norm_rules, update_rules
from bptt.probes.guard.calls import RECURRENT
from bptt.probes.guard.loop import Finding, Loop, Rule, outermost
from bptt.probes.guard.observe import Observer
from bptt.probes.watch import Flow, watch
from bptt.recurrence.record import plain_name, takes_two

__all__ = ["RULES", "Finding", "Guard", "Rule", "guard"]

RULES: tuple[Rule, ...] = (
    call_rules.MissingDetach(), call_rules.Carry(), call_rules.Mode(), call_rules.Padding(),
    update_rules.ClipTiming(), update_rules.ZeroGrad(), update_rules.TwoSteps(),
    update_rules.FrozenRecurrent(), update_rules.LossScale(), norm_rules.AtThreshold(),
    norm_rules.NormTrend(), norm_rules.NearZero(), norm_rules.Saturated(), norm_rules.NotFinite(),
)  # fmt: skip
"""Every rule, with its usual thresholds."""

FIRST = 20  # the update of the first measurement of the horizon


class guard:
    """Watch a training loop and name the mistakes it makes.

    ``with bptt.guard(model, optimizer) as guard:`` goes around any loop. Each mistake is told once, as a
    :class:`bptt.LoopWarning` in three parts: what was seen, why it matters, which line to write. What
    was seen stands in ``guard.findings``. No number of the training changes, not by a bit.

    A rule that cannot see what it needs says nothing. The lengths of padded sequences and the places
    where sequences begin can be told: ``guard.lengths(lengths)``, ``guard.new_sequence(mask)``.

    Args:
        model: holds recurrent layers, cells, or modules that are called step by step.
        optimizer: what updates it: one or several; others that hold its parameters
            are found as they step.
        rules: with thresholds of your own; each takes the place of the rule of its kind.
        off: codes that are not to be told.
        measure_every: updates between two measurements of the horizon and of saturation; None for none.
        tell: called with each :class:`Finding` in place of the warning.

    Returns:
        on entering, a :class:`Guard`.

    Raises:
        ArgumentError: the model holds nothing recurrent, or a code is not known.
        bptt.LoopError: in place of torch's own error, where that is a mistake's last word.

    Cost: two norms of the gradient an update and a few comparisons a call; see ``docs/mistakes.md``.
    The horizon is measured on two lanes, at update 20 and then every ``measure_every``.

    Example:
        >>> import torch, bptt, warnings
        >>> model = torch.nn.GRU(3, 5)
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> with warnings.catch_warnings(), bptt.guard(model, optimizer) as guard:
        ...     warnings.simplefilter("ignore")
        ...     for _ in range(4):
        ...         model(torch.randn(7, 2, 3))[0].square().mean().backward()
        ...         optimizer.step()
        >>> [finding.code for finding in guard.findings]
        ['zero-grad-missing']
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer],
        *,
        rules: Sequence[Rule] = (),
        off: Sequence[str] = (),
        measure_every: int | None = 1000,
        tell: Callable[[Finding], Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentError("a torch.nn.Module", type(model).__name__, "pass the model itself")
        held = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        wrong = [o for o in held if not isinstance(o, torch.optim.Optimizer)]
        if wrong:
            raise ArgumentError(
                "a torch.optim.Optimizer", type(wrong[0]).__name__, "pass what calls step()"
            )
        for rule in rules:
            if not isinstance(rule, Rule):
                raise ArgumentError("rules of bptt.probes.guard", type(rule).__name__, "see RULES")
        known = {code for rule in (*RULES, *rules) for code in rule.codes}
        unknown = [code for code in off if code not in known]
        if unknown:
            raise ArgumentError(
                f"one of {', '.join(sorted(known))}", repr(unknown[0]), "pass a code as off=[code]"
            )
        recurrent: dict[str, nn.Module] = {
            plain_name(name) or "model": module
            for name, module in model.named_modules()
            if isinstance(module, RECURRENT)
        } or {  # a cell of one's own
            plain_name(name) or "model": module
            for name, module in model.named_modules()
            if not type(module).__module__.startswith("torch.") and takes_two(module)
        }
        if not recurrent:
            raise ArgumentError(
                "a model with recurrent layers or cells",
                f"{type(model).__name__} without any",
                "pass the model that holds them",
            )
        measure_every = optional("measure_every", measure_every, remedy="pass a number of updates")
        own = {type(rule) for rule in rules}
        chosen = [*(rule for rule in RULES if type(rule) not in own), *rules]
        self._guard = Guard(
            Loop(model, recurrent, outermost(model, recurrent)),
            chosen,
            set(off),
            measure_every,
            tell or _warn,
        )
        self._observer = Observer(self._guard.loop, held, self._guard.tell)
        self._guard.settle = self._observer.tell_updates

    def __enter__(self) -> Guard:
        self._observer.attach()
        self._guard.measure_begins()
        return self._guard

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._observer.detach()
        self._guard.measure_ends(failed=True)
        if error is None:
            return
        found = self._guard.tell("on_error", error, warn=False)  # it is raised instead
        if found and isinstance(error, RuntimeError) and not isinstance(error, BpttError):
            one = found[0]
            raise LoopError(
                f"a state without the graph of an earlier chunk in {one.module}",
                one.seen.rstrip("."),
                f"{one.write} ({one.page})",
            ) from error


class Guard:
    """What :func:`guard` sees.

    Attributes:
        findings: each mistake once, in the order they were seen.
        loop: the facts its rules share.
    """

    def __init__(
        self,
        loop: Loop,
        rules: Sequence[Rule],
        off: set[str],
        measure_every: int | None,
        told: Callable[[Finding], Any],
    ) -> None:
        self.loop, self.findings, self._told = loop, list[Finding](), told
        self._rules, self._off, self._every = copy.deepcopy(list(rules)), off, measure_every
        # Which rules answer which event: the others need not be asked.
        self._asked = {
            event: [r for r in self._rules if getattr(type(r), event) is not getattr(Rule, event)]
            for event in ("on_call", "on_return", "on_clip", "on_update", "on_flow", "on_error")
        }
        self._resting = [r for r in self._asked["on_update"] if r.always]
        self._watch: watch | None = None
        self._flow: Any = None
        self._norms: deque[tuple[float, float]] = deque(maxlen=200)
        self._clipped = 0
        self._failed = False
        self.settle: Callable[[], None] = lambda: None  # judge the updates that wait

    def lengths(self, lengths: Tensor | Sequence[int]) -> None:
        """Tell how many steps of each lane of the next batch are real; the rest is padding.

        Args:
            lengths: (B,) whole numbers. They hold until the next call.
        """
        self.loop.lengths = torch.as_tensor(lengths, device="cpu")

    def new_sequence(self, begins: bool | Tensor = True) -> None:
        """Tell in which lanes of the next batch a sequence begins.

        Args:
            begins: (B,) truth values, or one for all lanes. They hold until the next call.
        """
        self.loop.fresh, self.loop.hinted = begins, True

    def tell(self, event: str, record: Any, warn: bool = True) -> list[Finding]:
        """Ask every rule about an event, and warn of what they found. Never raises."""
        new = []
        resting = event == "on_update" and not record.attended
        for rule in self._resting if resting else self._asked[event]:
            try:
                for finding in getattr(rule, event)(self.loop, record):
                    if finding.code not in self._off and all(
                        f.code != finding.code for f in self.findings
                    ):
                        self.findings.append(finding)
                        new.append(finding)
            except Exception as error:  # of any kind: the training that is observed goes on
                self._fail(type(rule).__name__, error)
        if event == "on_update":
            self._note_update(record)
        for finding in new if warn else ():
            self._told(finding)
        return new

    def _note_update(self, update: Any) -> None:
        if update.before is not None and update.after is not None:
            self._norms.append((update.before, update.after))
        self._clipped += update.clipped
        if update.number == self.loop.updates:
            self.measure_ends()
            self.measure_begins()

    def measured(self, flow: Flow) -> None:
        """Tell what :class:`bptt.watch` measured, where that is done anyway."""
        self.loop.horizon, self.loop.steps = flow.horizon, flow.spectrum.steps
        self.tell("on_flow", flow)

    def norms(self) -> dict[str, float]:
        """``norm`` and ``norm_clipped`` of the newest update that is known; empty before."""
        self.settle()
        found = [n for n in self._norms if math.isfinite(n[0])][-1:]
        return {} if not found else dict(zip(("norm", "norm_clipped"), found[0], strict=True))

    # How far back, now and then.

    def measure_begins(self) -> None:
        """Before an update that is to be measured."""
        now = self.loop.updates
        if self._every is None or self._failed:
            self.loop.wake = sys.maxsize
            return
        due = (now // self._every + 1) * self._every
        due = min(due, FIRST) if now < FIRST else due
        self.loop.wake = due if due == now + 1 else due - 1
        if due != now + 1:
            return
        try:
            self._watch = watch(self.loop.model, every=sys.maxsize)
            self._flow = self._watch.__enter__()
        except BpttError as error:
            self._watch = None
            self._fail("the horizon", error)

    def measure_ends(self, failed: bool = False) -> None:
        """After it."""
        if self._watch is None:
            return
        observer, self._watch = self._watch, None
        try:
            observer.__exit__(RuntimeError if failed else None, None, None)
            if not failed:
                self.measured(self._flow)
        except BpttError:  # what is observed goes on; the horizon stays unknown
            self.loop.horizon = None

    def _fail(self, what: str, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            said = str(error).partition("\n")[0]
            with suppress(LoopWarning):
                warnings.warn(
                    f"the guard could not judge {what}: {type(error).__name__}: {said}",
                    LoopWarning,
                    stacklevel=_users_line(),
                )

    # The sheet.

    def facts(self) -> dict[str, str]:
        """The loop's figures in words: what a health sheet says beside the findings."""
        self.settle()
        loop = self.loop
        facts = {
            "updates": f"{loop.updates}",
            "passes looked at": f"{loop.passes}",
            "recurrent": ", ".join(loop.recurrent),
        }
        norms = [n for n, _ in self._norms if math.isfinite(n)]
        if len(norms) > 1:
            low, middle, high = quantiles(norms, n=4)
            facts["norm before clipping"] = f"{middle:.3g} (quartiles {low:.3g} … {high:.3g})"
            after = [n for _, n in self._norms if math.isfinite(n)]
            if after:
                facts["norm after clipping"] = f"{median(after):.3g}"
            facts["clipped"] = f"{self._clipped} of {loop.updates} updates"
        if loop.horizon is not None:
            facts["horizon"] = f"{loop.horizon} of {loop.steps} steps"
        return facts

    def report(self) -> str:
        """The health sheet as text: the figures, then each finding in three lines."""
        lines = [f"{name:<22}{value}" for name, value in self.facts().items()]
        if not self.findings:
            lines.append(f"{'findings':<22}none")
        for one in self.findings:
            row = f" Ledger: {one.claim}." if one.claim else ""
            lines += [
                "", f"{one.code} in {one.module}, at update {one.update}", f"  seen   {one.seen}",
                f"  why    {one.why}{row}", f"  write  {one.write}", f"  more   {one.page}",
            ]  # fmt: skip
        return "\n".join(lines)

    def __repr__(self) -> str:
        codes = ", ".join(f.code for f in self.findings) or "nothing found"
        return f"Guard({self.loop.updates} updates: {codes})"

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><td {_NAME}>{html.escape(n)}</td><td {_LEFT}>{html.escape(v)}</td></tr>"
            for n, v in self.facts().items()
        )
        found = "".join(map(_card, self.findings)) or "<p>No mistake was seen.</p>"
        return f"<div {_SHEET}><table>{facts}</table>{found}</div>"


# A notebook's page has colours of its own, light or dark: only its ink is used here.
_SHEET = "style='max-width:46em;line-height:1.5'"
_LEFT = "style='text-align:left'"
_NAME = "style='text-align:left;opacity:.75;padding-right:1.5em;white-space:nowrap'"
_CARD = "style='border-left:4px solid #d55e00;padding:.1em 0 .1em 1em;margin:1em 0'"
_CODE = "style='white-space:pre-wrap;margin:.4em 0;background:none;color:inherit;padding:0'"


def _card(one: Finding) -> str:
    """A finding for a notebook: its name and place, what, why, the line to write, where more stands."""
    code, module, seen, why = map(html.escape, (one.code, one.module, one.seen, one.why))
    row = f"Ledger: {html.escape(one.claim)}. " if one.claim else ""
    return (
        f"<div {_CARD}><div><b>{code}</b> in {module}, at update {one.update}</div>"
        f"<div>{seen}</div><div style='opacity:.75'>{why}</div>"
        f"<pre {_CODE}>{html.escape(one.write)}</pre>"
        f"<div style='opacity:.75;font-size:.9em'>{row}More: {html.escape(one.page)}</div></div>"
    )


def _warn(finding: Finding) -> None:
    # Warnings may be errors for a test: they come out of the loop's own calls then, by choice.
    warnings.warn(str(finding), LoopWarning, stacklevel=_users_line())


def _users_line() -> int:
    """How far up the stack the loop itself is: past this package's frames and torch's."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("torch.", "bptt.", "contextlib")
    ):
        frame, level = frame.f_back, level + 1
    return level

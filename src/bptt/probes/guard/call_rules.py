"""Rules about the state and the batch: what a call is given, and what becomes of what it returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from bptt.probes.guard.loop import Call, Finding, Loop, Places, Rule, Update, oldest_reached
from bptt.recurrence.loops import LAYERS

DETACH = "h = h.detach() before the chunk (an LSTM: h = tuple(s.detach() for s in h))"


@dataclass
class MissingDetach(Rule):
    """The state still carries the graph of a chunk that was differentiated before.

    Source: the threads that torch's message "Trying to backward through the graph a second time" fills.
    """

    passes: int = 8  # a graph this many backward passes deep is growing, and no window
    codes: ClassVar[tuple[str, ...]] = ("missing-detach",)
    why: ClassVar[dict[str, str]] = {
        "missing-detach": "The gradient runs on into earlier chunks, whose graph is freed, "
        "or grows with each one."
    }
    claim: ClassVar[dict[str, str]] = {"missing-detach": "C11"}
    _depth: int = field(default=0, init=False)
    _suspect: tuple[str, str] | None = field(default=None, init=False)
    _silent: bool = field(default=False, init=False)  # no layer was seen in the model's call

    @override
    def on_call(self, loop: Loop, call: Call) -> Iterator[Finding]:
        outside = call.whole and call.name not in loop.recurrent
        if not outside:
            self._silent = False
        if not call.graph or not call.first or loop.last_node < 0:
            return
        if outside:  # its layers are asked themselves, but for those that a compiler took in
            self._silent = True
            return
        yield from self._judge(loop, call)

    @override
    def on_return(self, loop: Loop, call: Call) -> Iterator[Finding]:
        if self._silent and call.whole:
            self._silent = False
            yield from self._judge(loop, call)

    def _judge(self, loop: Loop, call: Call) -> Iterator[Finding]:
        if not oldest_reached(call.states, loop.last_node):
            if call.states and (self._suspect is None or self._suspect[0] == call.name):
                self._depth, self._suspect = 0, None
            return
        if self._suspect is None or self._suspect[0] == call.name:
            self._depth += 1
        self._suspect = (call.name, call.argument)
        if self._depth >= self.passes:
            yield self.found(
                loop, "missing-detach", call.name,
                f"{call.argument} reaches back through {self._depth} backward passes (retain_graph=True "
                "keeps them all).", DETACH,
            )  # fmt: skip

    @override
    def on_error(self, loop: Loop, error: BaseException) -> Iterator[Finding]:
        text = str(error)
        freed = "backward through the graph a second time" in text
        changed = "modified by an inplace operation" in text
        if self._suspect is None or not (freed or changed):
            return
        name, argument = self._suspect
        what = "whose graph was freed" if freed else "whose weights were updated since"
        yield self.found(
            loop, "missing-detach", name,
            f"{argument} carries the graph of an earlier chunk, {what}; retain_graph=True is "
            "no cure.",
            DETACH,
        )  # fmt: skip


class _Order:
    """Whether one batch goes on where the one before ended, as views of one tensor show it."""

    def __init__(self) -> None:
        self._last: tuple[Any, ...] | None = None
        self._places = Places(4)

    def compare(self, x: Tensor | None, axis: int) -> str | None:
        """``"on"``, ``"lanes"`` (each lane goes on where another ended), ``"elsewhere"`` or None."""
        if x is None or x.dim() < 2:
            self._last = None
            return None
        before, known = self._last, self._places.find(x)
        start, shape, strides = x.storage_offset(), tuple(x.shape), x.stride()
        self._last = (start, shape, strides)
        if known is None:
            self._places.note(x)
            return None
        if before is None or before[2] != strides:
            return None
        moved = start - before[0]
        if moved == 0:
            return None
        lanes = 1 - axis
        if moved == before[1][axis] * strides[axis]:
            # A batch of rows of one long row: what follows a row is the next lane of the same batch.
            rows = x.shape[lanes] > 1 and strides[lanes] == before[1][axis] * strides[axis]
            return None if rows else "on"
        if (
            before[1][lanes] > 1
            and strides[lanes] == before[1][axis] * strides[axis]
            and moved == before[1][lanes] * strides[lanes]
        ):
            return "lanes"
        return "elsewhere"


@dataclass
class Carry(Rule):
    """The state and the data do not belong together: one goes on where the other does not.

    The order is known where batches are views of one tensor, or come from a ``DataLoader``; after
    ``guard.new_sequence`` the user's word counts. Where it is not known, nothing is said.
    """

    calls: int = 4  # in a row
    codes: ClassVar[tuple[str, ...]] = ("carry-dropped", "carry-over-unrelated", "lane-shuffled")
    why: ClassVar[dict[str, str]] = {
        "carry-dropped": "Each chunk begins from nothing: what came before it is forgotten in silence.",
        "carry-over-unrelated": "The state tells of another text than the one that follows.",
        "lane-shuffled": "Each lane goes on with the state of another.",
    }
    claim: ClassVar[dict[str, str]] = {"carry-dropped": "D4", "carry-over-unrelated": "C21"}
    _order: dict[str, _Order] = field(default_factory=dict, init=False)
    _runs: dict[str, int] = field(default_factory=dict, init=False)
    _returned: Places = field(default_factory=lambda: Places(16), init=False)
    _how: str | None = field(default=None, init=False)

    @override
    def on_call(self, loop: Loop, call: Call) -> Iterator[Finding]:
        if not (call.graph and call.training):
            return
        if call.whole:
            self._how = self._read_order(loop, call)
        if not isinstance(call.module, LAYERS):
            return
        if call.name == "model":
            self._how = self._read_order(loop, call)
        how = self._how
        carried = [self._returned.find(s) for s in call.states]
        taken = any(c is not None for c in carried)
        yield from self._lane_count(loop, call, carried)
        if loop.hinted:
            yield from self._told(loop, call, taken)
            return
        # No state, or one of zeros that is made anew for every chunk.
        dropped = how == "on" and not taken and not any(bool(s.any()) for s in call.states)
        if self._run("dropped " + call.name, dropped):
            yield self.found(
                loop, "carry-dropped", call.name,
                f"{self.calls} chunks followed one another, and each began with a zero state.",
                f"y, h = {call.name}(x, h), then h = h.detach()",
            )  # fmt: skip
        if self._run("unrelated " + call.name, how in ("elsewhere", "random") and taken):
            where = (
                "a loader with shuffle=True"
                if how == "random"
                else "places that do not follow one another"
            )
            yield self.found(
                loop, "carry-over-unrelated", call.name,
                f"{self.calls} batches came from {where}, and the state was carried over each time.",
                "h = None at each batch, or draw the chunks in order (shuffle=False, one lane a text)",
            )  # fmt: skip
        if self._run("lanes " + call.name, how == "lanes" and taken):
            yield self.found(
                loop, "lane-shuffled", call.name,
                f"{self.calls} batches of consecutive pieces: the piece after lane 0's is in lane 1, "
                "not in lane 0 of the next batch.",
                "x = text.view(lanes, -1), then x[:, i:i + T] for the chunks",
            )  # fmt: skip

    @override
    def on_return(self, loop: Loop, call: Call) -> Iterator[Finding]:
        if isinstance(call.module, LAYERS) and call.training and call.graph:
            for state in call.returned:
                self._returned.note(state, lanes=_lanes(state))
        yield from ()

    def _read_order(self, loop: Loop, call: Call) -> str | None:
        if call.x is not None:
            batch = loop.batches.find(call.x)
            if batch is not None:
                return "random" if batch["shuffled"] else None
        return self._order.setdefault(call.name, _Order()).compare(call.x, loop.time_axis)

    def _run(self, what: str, happened: bool) -> bool:
        self._runs[what] = self._runs.get(what, 0) + 1 if happened else 0
        return self._runs[what] >= self.calls

    def _told(self, loop: Loop, call: Call, taken: bool) -> Iterator[Finding]:
        if loop.fresh is None:
            return
        begins = bool(torch.as_tensor(loop.fresh, device="cpu").any())
        all_begin = bool(torch.as_tensor(loop.fresh, device="cpu").all())
        carried = taken and any(bool(s.any()) for s in call.states)
        if all_begin and carried:
            yield self.found(
                loop, "carry-over-unrelated", call.name,
                "a sequence begins in every lane, and the state of the one before was given.",
                "h = None where a sequence begins, or reset=mask to a layer of bptt.nn",
            )  # fmt: skip
        if not begins and self._run("told " + call.name, not call.states):
            yield self.found(
                loop, "carry-dropped", call.name,
                f"{self.calls} chunks in which no sequence began, and each began with a zero state.",
                f"y, h = {call.name}(x, h), then h = h.detach()",
            )  # fmt: skip

    def _lane_count(self, loop: Loop, call: Call, carried: list[Any]) -> Iterator[Finding]:
        for state, facts in zip(call.states, carried, strict=True):
            now = _lanes(state)
            if facts is not None and facts["lanes"] > now and not loop.hinted:
                yield self.found(
                        loop, "lane-shuffled", call.name,
                        f"the state was cut from {facts['lanes']} lanes to {now} to fit the batch.",
                        "drop_last=True in the loader, or h = None when the number of lanes changes",
                    )  # fmt: skip
                return


def _lanes(state: Tensor) -> int:
    return state.shape[1] if state.dim() >= 3 else 1  # (L, B, …), whatever a unit consists of


@dataclass
class Mode(Rule):
    """Dropout is off in training or on in evaluation; a state of training enters evaluation."""

    updates: int = 5  # in a row, without dropout
    calls: int = 3  # in a row, without gradients and with dropout
    codes: ClassVar[tuple[str, ...]] = ("eval-mode", "state-in-eval")
    why: ClassVar[dict[str, str]] = {
        "eval-mode": "Dropout that is off regularises nothing; dropout that is on makes "
        "the score a random one.",
        "state-in-eval": "The score depends on what training read last.",
    }
    _still: int = field(default=0, init=False)
    _still_call: bool = field(default=False, init=False)
    _noisy: int = field(default=0, init=False)
    _returned: Places = field(default_factory=lambda: Places(16), init=False)

    @override
    def on_call(self, loop: Loop, call: Call) -> Iterator[Finding]:
        if call.whole or call.name == "model":
            dropout = _dropout(loop.model)
            off = bool(dropout) and not any(m.training for m in dropout)
            self._still_call = off and call.graph
            self._noisy = (
                self._noisy + 1
                if dropout and not call.graph and any(m.training for m in dropout)
                else 0
            )
            if self._noisy >= self.calls:
                yield self.found(
                    loop, "eval-mode", "model",
                    f"{self._noisy} calls in a row without gradients had dropout on.",
                    "model.eval() before the evaluation, model.train() after it",
                )  # fmt: skip
        evaluated = not call.graph and not call.training and isinstance(call.module, LAYERS)
        if evaluated and any(self._returned.find(s) is not None for s in call.states):
            yield self.found(
                loop, "state-in-eval", call.name,
                "a state that training returned was given to it in evaluation.",
                "h = None before the evaluation",
            )  # fmt: skip

    @override
    def on_return(self, loop: Loop, call: Call) -> Iterator[Finding]:
        if call.graph and call.training and isinstance(call.module, LAYERS):
            for state in call.returned:
                self._returned.note(state)
        yield from ()

    @override
    def on_update(self, loop: Loop, update: Update) -> Iterator[Finding]:
        self._noisy = 0
        self._still = self._still + 1 if self._still_call else 0
        if self._still >= self.updates:
            yield self.found(
                loop, "eval-mode", "model",
                f"{self._still} updates in a row were made with every dropout of the model off.",
                "model.train() before the updates",
            )  # fmt: skip


def _dropout(model: nn.Module) -> list[nn.Module]:
    return [
        m
        for m in model.modules()
        if (isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0)
        or (isinstance(m, LAYERS) and m.dropout > 0 and m.num_layers > 1)
    ]


@dataclass
class Padding(Rule):
    """Padding takes part: in the loss, or in a state that is used.

    Only with ``guard.lengths(...)``: without the lengths, nothing is said.
    """

    batches: int = 2
    codes: ClassVar[tuple[str, ...]] = ("padding-in-loss", "padding-in-state")
    why: ClassVar[dict[str, str]] = {
        "padding-in-loss": "The model is trained to predict padding, the more so the shorter "
        "a sequence is.",
        "padding-in-state": "The final state is what padding made of it.",
    }
    claim: ClassVar[dict[str, str]] = {"padding-in-state": "C10"}
    _seen: dict[str, int] = field(default_factory=dict, init=False)
    _open: list[Finding] = field(default_factory=list, init=False)

    @override
    def on_return(self, loop: Loop, call: Call) -> Iterator[Finding]:
        if loop.lengths is None or not call.graph:
            return
        lengths = loop.lengths
        if call.whole or isinstance(call.module, LAYERS):
            axis = loop.time_axis
            output = call.output[0] if isinstance(call.output, (tuple, list)) else call.output
            if isinstance(output, Tensor) and output.requires_grad and output.dim() >= 2:
                self._watch_output(loop, call, output, lengths, axis)
        if (
            isinstance(call.module, LAYERS)
            and not call.lengths
            and int(lengths.min()) < int(lengths.max())
        ):
            for state in call.returned:
                if state.requires_grad:
                    self._watch_state(loop, call, state)
        yield from ()

    def _watch_output(
        self, loop: Loop, call: Call, output: Tensor, lengths: Tensor, axis: int
    ) -> None:
        steps, lanes = output.shape[axis], output.shape[1 - axis]
        if lanes != lengths.numel() or steps < int(lengths.max()):
            return
        padding = torch.arange(steps, device="cpu")[:, None] >= lengths.cpu()[None, :]
        if axis:
            padding = padding.t()
        if not bool(padding.any()):
            return
        name, whole = call.name, call.whole

        def look(gradient: Tensor) -> None:
            count = int(
                (gradient.reshape(*gradient.shape[:2], -1) != 0).any(-1).cpu()[padding].sum()
            )
            # Of a layer, the gradient at padding may be a later layer's; of the model, only the loss's.
            if count and (whole or name == "model"):
                self._note(
                    loop, "padding-in-loss", name,
                    f"the loss has a gradient at {count} of {int(padding.sum())} padded places.",
                    "F.cross_entropy(…, ignore_index=PAD), or an average over the real steps alone",
                )  # fmt: skip

        output.register_hook(look)

    def _watch_state(self, loop: Loop, call: Call, state: Tensor) -> None:
        name = call.name

        def look(gradient: Tensor) -> None:
            if bool(gradient.any()):
                self._note(
                    loop, "padding-in-state", name,
                    "its final state is used, and it ran over the padding of shorter sequences before.",
                    f"{name}(x, lengths=lengths) with bptt.nn, or pack_padded_sequence(x, lengths, …)",
                )  # fmt: skip

        state.register_hook(look)

    def _note(self, loop: Loop, code: str, module: str, seen: str, write: str) -> None:
        self._seen[code] = self._seen.get(code, 0) + 1
        if self._seen[code] == self.batches:
            self._open.append(self.found(loop, code, module, seen, write))

    @override
    def on_update(self, loop: Loop, update: Update) -> Iterator[Finding]:
        yield from self._open
        self._open = []

"""A run in memory: its parts, how far it has come, and both to and from a checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from bptt.data import Chunk, Corpus, Lanes, RandomChunks
from bptt.errors import DataError, RunError
from bptt.gradients import Estimator
from bptt.models import CountModel
from bptt.nn import carry as carries
from bptt.ops.backend import require_backend
from bptt.ops.device import (
    CPU,
    choose,
    random_state,
    seed_device,
    set_random_state,
)
from bptt.probes.guard import Guard as LoopGuard
from bptt.remedies import build_clip, build_regulariser
from bptt.training.build import build_data, build_estimator, build_model, build_optimizer
from bptt.training.checkpoint import Checkpoint
from bptt.training.distributed import Group, fresh_random_state, fresh_seed
from bptt.training.evaluate import Score
from bptt.training.expected import check_state, check_tensors
from bptt.training.randomness import DEVICE, random_states, restore_random_states, seed_others
from bptt.training.restore import is_same, record
from bptt.training.schedule import Budget, Progress, Spent, Tally
from bptt.training.settings import Settings
from bptt.training.sizes import SHARE, chosen, fitted


class Session:
    """The parts of a run and its progress.

    Args:
        settings: what to train; sizes that are None are chosen to fit the text.
        corpus: what to train on.
        group: the processes that train together; carry and data are those of this one's lanes.

    Attributes:
        chosen: the sizes that the text made others than usual, as they would be typed.
        device: where the model is trained; a count table's is the CPU.
    """

    def __init__(self, settings: Settings, corpus: Corpus, group: Group = Group()) -> None:  # noqa: B008
        parts = (corpus.train, corpus.valid) if corpus.valid is not None else (corpus.train,)
        if any(
            len(part.starts) >= len(part.tokens) for part in parts
        ):  # a beginning is not predicted
            raise DataError(
                "a token to predict in each part of the text", "documents of one token each",
                "give longer documents",
            )  # fmt: skip
        tokens = sum(len(part.tokens) for part in parts)
        given = settings
        if settings.valid_fraction is None and settings.unit == "token":
            # How many there are depends on which were read; what was held out is known by now.
            settings = replace(settings, valid_fraction=0.0 if corpus.valid is None else SHARE)
        settings = fitted(settings, tokens, group.size)
        self.settings, self.chosen = settings, chosen(given, settings)
        self.group = group
        self.corpus = corpus
        seed_others(settings.seed)
        self.device = choose(settings.device)
        model = build_model(settings, corpus.vocabulary.size)
        if isinstance(model, CountModel):
            self.device = CPU
        elif any(isinstance(part, nn.RNNBase) for part in model.modules()):
            require_backend(self.device, amp=settings.amp)
        # Started on the CPU, so that a seed gives the same start everywhere.
        self.model: nn.Module = model.to(self.device)
        self.optimizer = build_optimizer(settings, self.model)
        # Its own source: with several processes each draws its own dropout, all the same cuts.
        self.generator = torch.Generator("cpu").manual_seed(settings.seed)
        self.estimator: Estimator = build_estimator(settings, self.generator, group)
        self.clip = build_clip(settings.clip)
        self.regulariser = build_regulariser(settings.regularise)
        self.data: Lanes | RandomChunks = build_data(settings, corpus.train, group)
        self.carry: carries.Carry = None
        self.progress = Progress()
        self.guard = Guard()
        self.watched: LoopGuard | None = None  # while a guard looks for mistakes in the loop
        if group.rank:  # the models began alike; the units they drop are not
            torch.set_rng_state(fresh_random_state(settings.seed, group.rank))
        if self.device != CPU:
            seed_device(self.device, fresh_seed(settings.seed, group.rank))

    def chunk_carry(self, chunk: Chunk) -> carries.Carry:
        """What a chunk begins with: None where every lane of it starts afresh."""
        return None if chunk.fresh else self.carry

    def random_states(self) -> dict[str, Tensor]:
        """Of the sources that an update draws from, by name."""
        states = {"random": torch.get_rng_state(), "random.estimator": self.generator.get_state()}
        if self.device != CPU:
            states[f"{DEVICE}{self.device.type}"] = random_state(self.device)
        return states

    def set_random_states(self, states: dict[str, Tensor]) -> None:
        """Put them back."""
        torch.set_rng_state(states["random"])
        self.generator.set_state(states["random.estimator"])
        if self.device != CPU:
            kept = states.get(f"{DEVICE}{self.device.type}")
            if kept is not None:
                set_random_state(kept, self.device)
            else:  # saved on another kind of device: a sequence of its own from here
                seed = self.settings.seed, self.group.rank, self.progress.step
                seed_device(self.device, fresh_seed(*seed))

    @cached_property
    def _text(self) -> dict[str, Any]:
        return record(self.corpus, self.settings)

    @property
    def _ends(self) -> dict[str, Any]:
        """What ends the run."""
        return {**asdict(Budget.of(self.settings)), "patience": self.settings.patience}

    @property
    def epochs(self) -> float:
        """Passes over the text, the current one by its share."""
        position = self.data.position
        size = self.data.steps if isinstance(self.data, Lanes) else len(self.data)
        return position.epoch + position.offset / size

    @property
    def spent(self) -> Spent:
        """What the run has spent so far."""
        return Spent(self.progress.step, self.epochs, self.progress.seconds)

    def note_score(self, score: Score) -> None:
        """Remember a held-out score, and whether it is the best so far."""
        progress = self.progress
        if score.nats < progress.best_nats:
            progress.best_nats, progress.best_step = score.nats, progress.step
            progress.without_best = 0
        else:
            progress.without_best += 1

    def checkpoint(self, metrics: int = 0) -> Checkpoint:
        """Everything needed to go on as if nothing had happened.

        Args:
            metrics: bytes of the metrics that were written so far.
        """
        training = random_states() | self.random_states()
        states = {} if self.optimizer is None else self.optimizer.state_dict()["state"]
        for index, state in states.items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    training[f"optimizer.{index}.{name}"] = value
        for index, state in enumerate(carries.tensors(self.carry)):
            training[f"carry.{index}"] = state
        numbers = asdict(self.progress)
        if not math.isfinite(self.progress.best_nats):
            numbers["best_nats"] = None  # JSON has no infinity
        numbers |= {"data": self.data.state(), "estimator": self.estimator.state_dict()}
        numbers["clip"] = {"form": self.settings.clip, "state": self.clip.state_dict()}
        numbers |= {**self._text, "metrics": metrics, "ends": self._ends}
        numbers["lr"] = self.settings.learning_rate
        return Checkpoint(self.model.state_dict(), training, numbers)

    def restore(self, saved: Checkpoint) -> int:
        """Become what a checkpoint holds. All of it is compared first: one that does not fit is refused,
        and the session is what it was.

        Returns:
            How many bytes of the metrics belong to it.

        Raises:
            RunError: it belongs to another model or another text, or an entry is not what it should be.

        Cost: one time step of the model, and a look at every tensor.
        """
        state = dict(saved.state)
        require_same_text(saved, self.corpus, self._text["text"])
        old = "scored_at" in state  # runs of old kept a share of their budget
        saved = replace(saved, state=_as_now(state))
        check_state(self, saved)
        carry = check_tensors(self, saved)
        state = dict(saved.state)
        for name in ("text", "files", "metrics", "data", "estimator", "clip", "ends", "lr"):
            del state[name]
        self.model.load_state_dict(saved.model)
        self.data.seek(saved.state["data"])
        self.estimator.load_state_dict(saved.state["estimator"])
        clip = saved.state["clip"]
        if clip["form"] == self.settings.clip:  # another one starts afresh
            self.clip.load_state_dict(clip["state"])
        self._restore_optimizer(saved.training)
        self.carry = carry
        scored, best = Spent(**state.pop("scored")), state.pop("best_nats")
        if old:  # its scores were due up to this very moment
            scored = replace(scored, epochs=self.epochs)
        self.progress = Progress(
            **{**state, "tally": Tally(**state["tally"])},
            best_nats=math.inf if best is None else best,
            scored=scored,
        )
        restore_random_states(saved.training)
        self.set_random_states(saved.training)
        self.progress.stopped = None  # it is tried again
        if saved.state["ends"] not in (None, self._ends):
            self.progress.without_best = 0  # more to spend, or more patience: counted anew
        return saved.state["metrics"]

    def _restore_optimizer(self, training: dict[str, Tensor]) -> None:
        if self.optimizer is None:
            return
        states: dict[int, dict[str, Any]] = {}
        for key, value in training.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                # load_state_dict keeps the tensors it is given, and a checkpoint may be restored twice.
                states.setdefault(int(index), {})[name] = value.clone()
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**whole, "state": states})


def require_same_text(saved: Checkpoint, corpus: Corpus, name: str | None = None) -> None:
    """Raise RunError where a checkpoint was trained on another text than the corpus, whose fingerprint
    may be given as its name."""
    text = saved.state.get("text")  # of another type: the checks of all entries will say so
    if isinstance(text, str) and text != name and not is_same(text, corpus):
        raise RunError(
            "a checkpoint of this model and this text",
            "another text",
            "resume with the text the run was begun on, unchanged",
        )


def _as_now(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint of an older release holds, with the entries that one of today has."""
    now = {"files": [], "ends": None, "lr": None, "stopped": None, **state}
    if isinstance(tally := now.get("tally"), dict) and "norms_clipped" not in tally:
        now["tally"] = {**tally, "norms_clipped": tally.get("norms")}
    if "scored_at" in now:
        del now["scored_at"]
        now["scored"] = {"steps": now.get("step"), "epochs": 0.0, "seconds": now.get("seconds")}
    return now


class Guard:
    """Keeps what an update changes, so that it can be taken back.

    Cost: a copy of parameters and optimiser state an update, small beside a chunk's gradient.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._numbers: dict[str, Any] = {}
        self._random: dict[str, Tensor] = {}
        self._carry: carries.Carry = None
        self._sound: Checkpoint | None = None
        self.metrics = 0

    def mark(self, session: Session) -> None:
        """Before a chunk is taken: all that this update may change."""
        live = written_to(session)
        if len(live) == len(self._kept):
            torch._foreach_copy_(self._kept, live)
        else:  # the first update gives the optimiser its state
            self._kept = [t.clone() for t in live]
        self._carry = session.carry  # replaced by an update, never written to
        self._random = session.random_states()
        self._numbers = {
            "data": session.data.state(),
            "estimator": session.estimator.state_dict(),
            "clip": session.clip.state_dict(),
        }

    def undo(self, session: Session) -> None:
        """Put everything back as it was marked."""
        live = written_to(session)
        torch._foreach_copy_(live[: len(self._kept)], self._kept)
        if len(live) > len(self._kept) and session.optimizer is not None:
            session.optimizer.state.clear()  # it had none
        session.model.zero_grad()
        session.carry = self._carry
        session.estimator.load_state_dict(self._numbers["estimator"])
        session.clip.load_state_dict(self._numbers["clip"])
        session.data.seek(self._numbers["data"])
        session.set_random_states(self._random)

    def remember(self, session: Session, metrics: int) -> None:
        """A state to roll back to, and how many bytes of the metrics belong to it: the one a run begins
        with, and that of every checkpoint."""
        if session.settings.on_nonfinite != "rollback":
            return
        self.metrics = metrics
        saved = session.checkpoint(metrics)
        model, training = (
            {name: tensor.detach().clone() for name, tensor in part.items()}
            for part in (saved.model, saved.training)
        )
        self._sound = Checkpoint(model, training, saved.state)

    def roll_back(self, session: Session) -> None:
        """To the last sound state; the clock and the count of rollbacks go on."""
        seconds, rollbacks = session.progress.seconds, session.progress.rollbacks
        session.restore(cast(Checkpoint, self._sound))  # remembered before the first update
        session.progress.seconds, session.progress.rollbacks = seconds, rollbacks + 1
        session.progress.tally.seconds = seconds


def written_to(session: Session) -> list[Tensor]:
    """What the optimiser writes to: parameters first, then its own state."""
    found = [p.detach() for p in session.model.parameters()]
    if session.optimizer is not None:
        for state in session.optimizer.state.values():
            found += [v for v in state.values() if isinstance(v, Tensor)]
    return found

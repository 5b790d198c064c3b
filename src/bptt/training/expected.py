"""What the checkpoint of a session must hold: worked out from the session's own parts, and compared.

Nothing here changes the session. What can say for itself whether a state fits it (data, estimator, clip,
sources of random numbers, the model for its carry) is asked, or a copy of it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypedDict, get_type_hints

import torch
from torch import Tensor, nn

from bptt.data import Lanes, RandomChunks
from bptt.errors import ArgumentError, BpttError
from bptt.nn import carry as carries
from bptt.ops.device import random_kept
from bptt.remedies import build_clip
from bptt.training.build import build_estimator, build_optimizer
from bptt.training.checkpoint import (
    MODEL,
    STATE,
    TRAINING,
    Checkpoint,
    Tensors,
    compare_tensors,
    compare_values,
    refuse,
)
from bptt.training.fit import fit_step
from bptt.training.randomness import DEVICE, check_random_states, random_states
from bptt.training.schedule import Progress
from bptt.training.settings import Settings


class Parts(Protocol):
    """What of a :class:`bptt.training.session.Session` is compared with a checkpoint."""

    settings: Settings
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    data: Lanes | RandomChunks
    device: torch.device
    progress: Progress

    def random_states(self) -> dict[str, Tensor]:
        """Of the sources that an update draws from, by name."""


class _Bias(TypedDict):
    """Of each truncation K; None where it is not finite."""

    truncations: list[int]
    bias: list[float | None]


class _Horizon(TypedDict):
    """What :mod:`bptt.training.update` measured, as a line of the metrics has it."""

    horizon: int
    decay: float | None
    verdict: Literal["healthy", "vanishing", "exploding", "cut short", "no gradient", "diverged"]
    spectrum: _Bias


class _Ends(TypedDict):
    """What ended the run, or was to."""

    steps: int | None
    epochs: float | None
    minutes: float | None
    patience: int


def check_state(session: Parts, saved: Checkpoint) -> None:
    """Compare the numbers of a checkpoint with the fields they are meant for; RunError names one that
    does not fit."""
    hints: dict[str, Any] = {
        **get_type_hints(type(session.progress)),
        "best_nats": float | None,  # JSON has no infinity
        "horizon": _Horizon | None,
        "text": str,
        "files": list[str],
        "ends": _Ends | None,
        "stopped": Literal["gradient", "update"] | None,
        "lr": float | None,
        "metrics": int,
        "data": dict.fromkeys(session.data.state(), int),
        "estimator": dict[str, Any],
        "clip": {"form": float | str, "state": dict[str, Any]},
    }
    state = saved.state
    compare_values(saved, state, hints)
    for name in ("best_step", "tally.steps"):
        value = state["tally"]["steps"] if name == "tally.steps" else state[name]
        if value is not None and value > state["step"]:
            refuse(saved, STATE, f"at most step = {state['step']} as {name}", str(value))
    parts: list[tuple[str, Callable[[Any], None], Any]] = [
        ("data", copy.copy(session.data).seek, state["data"]),
        ("estimator", build_estimator(session.settings).load_state_dict, state["estimator"]),
    ]
    if state["clip"]["form"] == session.settings.clip:
        fresh = build_clip(session.settings.clip)
        parts.append(("clip.state", fresh.load_state_dict, state["clip"]["state"]))
    for name, load, part in parts:
        try:
            load(part)
        except ArgumentError as error:
            refuse(saved, STATE, f"{error.expected} (under {name})", error.received)


def check_tensors(session: Parts, saved: Checkpoint) -> carries.Carry:
    """Compare the tensors of a checkpoint with those of the session; RunError names one that is wrong.

    Returns:
        The carry that the checkpoint holds, None where it holds none.
    """
    compare_tensors(saved, MODEL, saved.model, session.model.state_dict(), finite=True)
    training = saved.training
    begun = _without_carry(session)
    carried = {name: t for name, t in training.items() if name.startswith("carry.")}
    template = {f"carry.{i}": t for i, t in enumerate(carries.tensors(begun))} if carried else {}
    expected = {**_random(session, training), **_moments(session, saved.state["step"]), **template}
    gauss = [
        name for name in expected if name.endswith(".gauss") and _holds_one_at_most(training, name)
    ]
    compare_tensors(saved, TRAINING, training, expected, any_shape=gauss, finite=True)
    for name in expected:
        if name.startswith("optimizer.") and training[name].dim() == 0 and training[name] < 1:
            refuse(saved, TRAINING, f"1 or more as {name}", str(training[name].item()))
    try:
        check_random_states({n: t for n, t in training.items() if n.startswith("random")})
    except ValueError as error:
        refuse(saved, TRAINING, "a state that a source of random numbers can be in", str(error))
    if not carried:
        return None
    values = iter([carried[name] for name in template])
    carry = carries.apply(lambda _: next(values).to(session.device), begun)
    try:
        _one_step(session, carry)
    except BpttError as error:
        refuse(saved, TRAINING, f"{error.expected} (under carry)", error.received)
    return carry


def _without_carry(session: Parts) -> carries.Carry:
    """A carry of this model and these lanes: the model knows the structure, one step gives it."""
    return _one_step(session, None)


def _one_step(session: Parts, carry: carries.Carry) -> carries.Carry:
    low, high = session.data.lane_range
    tokens = torch.zeros(1, high - low, dtype=torch.int64, device=session.device)
    with torch.no_grad(), random_kept(session.device):  # dropout draws
        return session.model(tokens, carry)[1]


def _moments(session: Parts, step: int) -> Tensors:
    """What the optimiser keeps of every parameter after an update: known from an update of one of its
    kind, in which what is as large as the parameter is told from what is one number."""
    if session.optimizer is None or step == 0:
        return {}
    probe = nn.Module()
    weight = probe.weight = nn.Parameter(torch.zeros(2, 3, device=session.device))
    optimizer = build_optimizer(session.settings, probe)
    if optimizer is None:
        return {}
    fit_step(probe, optimizer, None, lambda model, _: 0 * weight.sum())
    kept = {n: t for n, t in optimizer.state[weight].items() if isinstance(t, Tensor)}
    parameters = [p for group in session.optimizer.param_groups for p in group["params"]]
    return {
        f"optimizer.{index}.{name}": torch.empty_like(parameter) if tensor.dim() else tensor
        for index, parameter in enumerate(parameters)
        for name, tensor in kept.items()
    }


def _random(session: Parts, training: Tensors) -> Tensors:
    """The random states of this process, and those that only some runs have: of other processes, of
    devices."""
    own = {**random_states(), **session.random_states()}
    elsewhere = ("random.cuda.", DEVICE)
    own = {name: tensor for name, tensor in own.items() if not name.startswith(elsewhere)}
    for name in training:
        if name.startswith(DEVICE):  # each kind of device has a size of its own
            own[name] = torch.empty_like(training[name], dtype=torch.uint8)
            continue
        kind, _, number = name.rpartition(".")
        if number.isascii() and number.isdigit() and len(number) < 6:
            if kind == "random":
                own[name] = own["random"]
            elif kind == "random.cuda":  # of another size than that of the CPU
                own[name] = torch.empty_like(training[name], dtype=torch.uint8)
    return own


def _holds_one_at_most(training: Tensors, name: str) -> bool:
    return name in training and training[name].dim() == 1 and len(training[name]) <= 1

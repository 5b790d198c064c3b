"""One row: which contest a case asks for; then check, then time, then say."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from bptt.errors import DependencyError
from bptt.experiments.benchmark import layers, peers
from bptt.experiments.benchmark.contest import (
    Case,
    Contest,
    check,
    matmul_rate,
    quartiles,
    take_turns,
    tolerance,
)

# Which contest a case asks for, and which of them there are.

TORCH_MODES: dict[str, Callable[[Case], Contest]] = {
    "train": layers.train,
    "infer": layers.infer,
    "packed": layers.packed,
    "reset": layers.reset,
    "stream": layers.stream,
    "model": layers.model,
}
# What a peer runs: modes, cells, and the packages it takes.
OTHERS = {
    "jax": (("train", "infer"), ("rnn", "gru"), ("jax",)),
    "onnxruntime": (("infer", "stream"), ("rnn", "gru", "lstm"), ("onnx", "onnxruntime")),
}


def supports(case: Case) -> bool:
    """Whether the case's peer has its mode and cell."""
    if case.peer == "torch":
        return case.mode in TORCH_MODES
    modes, cells, _ = OTHERS[case.peer]
    return case.mode in modes and case.cell in cells


def require(peer: str) -> None:
    """Make sure that a peer is installed.

    Raises:
        DependencyError: it is not.
    """
    packages = () if peer == "torch" else OTHERS[peer][2]
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"{' and '.join(packages)} for --peer {peer}",
            f"no {' and no '.join(missing)}",
            f"pip install {' '.join(missing)}, or leave that peer out",
        )


def contest(case: Case) -> Contest:
    """The two sides of a case."""
    require(case.peer)
    if case.peer == "jax":
        return peers.jax_contest(case)
    if case.peer == "onnxruntime":
        return peers.onnx_contest(case)
    return TORCH_MODES[case.mode](case)


# One row: check, then time, then say.


def measure(case: Case) -> dict[str, Any]:
    """Measure one case.

    Returns:
        The row. ``ours_us`` and ``peer_us`` are microseconds per time step of the whole batch,
        medians; ``ratio`` is the median over the rounds of peer over ours, ``ratio_quartiles`` its
        spread; ``share_of_matmul`` the layer's operations a second over ``matmul_gflops``, measured
        right before and after; ``max_error`` the largest difference of outputs and gradients.

    Raises:
        UnequalError: the results differ by more than rounding; nothing was timed.
        DependencyError: the peer is not installed.
    """
    duel = contest(case)
    limit = tolerance(duel.terms)
    worst = check(duel.ours.results(), duel.peer.results(), limit, case.peer)

    pause = min(0.2, case.seconds / 10)
    before = matmul_rate(pause)
    runners = [duel.ours.run, duel.peer.run, *duel.controls.values()]
    times = take_turns(runners, case.seconds)
    rate = statistics.mean((before, matmul_rate(pause)))

    ours, ratios = times.median(0), times.ratios(1, 0)
    own = {
        name: statistics.median(times.ratios(0, i)) for i, name in enumerate(duel.controls, start=2)
    }
    extras = {**duel.extras, **duel.describe(own)}
    if case.mode == "model":
        characters = case.steps * case.lanes
        extras["characters_per_second"] = characters / ours
        extras["peer_characters_per_second"] = characters / times.median(1)
    return {
        "cell": case.cell,
        "hidden": case.hidden,
        "batch": case.lanes,
        "steps": case.steps,
        "threads": torch.get_num_threads(),
        "mode": case.mode,
        "peer": case.peer,
        "ours_us": ours / case.steps * 1e6,
        "peer_us": times.median(1) / case.steps * 1e6,
        "ratio": statistics.median(ratios),
        "share_of_matmul": duel.flops / ours / rate,
        "max_error": worst,
        "tolerance": limit,
        "ratio_quartiles": quartiles(ratios),
        "rounds": len(times.rounds),
        "matmul_gflops": rate / 1e9,
        **extras,
    }

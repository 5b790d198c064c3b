"""One row: check, then time, then say."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from bptt.benchmark.case import Case
from bptt.benchmark.equality import check, tolerance
from bptt.benchmark.machine import matmul_rate
from bptt.benchmark.modes import contest
from bptt.benchmark.timing import quartiles, take_turns


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

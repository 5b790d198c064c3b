"""Recurrent policies of sb3-contrib and TorchRL, as they are and converted: equal first, then timed.

python benchmarks/rl.py [--json]        needs the optional part rl

Each pair runs in turns on one thread, and each row is the median of the turns, in time of the processor:
other work on the machine does not count. The first rows are a forward and backward pass over one batch
with resets, and one of them the steps of a rollout; the last is frames a second of whole training runs,
environment and optimiser included.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from tensordict import TensorDict
from torchrl.modules import GRUModule, LSTMModule, set_recurrent_mode

from bptt.integrations import sb3, torchrl

LANES, STEPS, INPUTS, HIDDEN = 16, 128, 32, 128
TURNS = 9
Row = dict[str, Any]


def timed(name: str, before: Callable[[], Any], after: Callable[[], Any]) -> Row:
    """Milliseconds of both, and how far their gradients and outputs are apart."""
    pairs = zip(before(), after(), strict=True)
    error = max(float((a - b).abs().max() / (1 + a.abs().max())) for a, b in pairs)
    if not error < 1e-5:
        raise SystemExit(f"{name}: the two differ by {error:.1e}; nothing is timed")
    spent: dict[Callable[[], Any], list[float]] = {before: [], after: []}
    for _ in range(TURNS):
        for run in spent:
            clock = time.process_time()
            run()
            spent[run].append(1e3 * (time.process_time() - clock))
    was, now = (statistics.median(spent[run]) for run in (before, after))
    return {
        "what": name,
        "unit": "ms",
        "before": was,
        "after": now,
        "ratio": was / now,
        "error": error,
    }


def one_sequence() -> Row:
    """RecurrentPPO's _process_sequence."""
    torch.manual_seed(0)
    made = RecurrentPPO(
        "MlpLstmPolicy", "CartPole-v1", device="cpu", policy_kwargs={"lstm_hidden_size": HIDDEN}
    )
    features = torch.randn(LANES * STEPS, 4)
    starts = (torch.rand(LANES * STEPS) < 0.04).float()
    states = (torch.randn(1, LANES, HIDDEN), torch.randn(1, LANES, HIDDEN))
    ours = sb3.convert(copy.deepcopy(made.policy))

    def run(policy: Any) -> Callable[[], Any]:
        def go() -> Any:
            policy.zero_grad()
            y, _ = policy._process_sequence(features, states, starts, policy.lstm_actor)
            y.square().mean().backward()
            return [y.detach(), *(p.grad for p in policy.lstm_actor.parameters())]

        return go

    return timed("sb3-contrib, LSTM", run(made.policy), run(ours))


def one_step(lanes: int = 8) -> Row:
    """RecurrentPPO's _process_sequence as a rollout calls it, eight environments a step."""
    torch.manual_seed(0)
    made = RecurrentPPO(
        "MlpLstmPolicy", "CartPole-v1", device="cpu", policy_kwargs={"lstm_hidden_size": HIDDEN}
    )
    features, starts = torch.randn(lanes, 4), (torch.arange(lanes) == 1).float()
    states = (torch.randn(1, lanes, HIDDEN), torch.randn(1, lanes, HIDDEN))
    ours = sb3.convert(copy.deepcopy(made.policy))

    def run(policy: Any) -> Callable[[], Any]:
        def go() -> Any:
            with torch.no_grad():
                for _ in range(1000):
                    y, ended = policy._process_sequence(features, states, starts, policy.lstm_actor)
            return [y, *ended]

        return go

    return timed("sb3-contrib, 1,000 steps of a rollout", run(made.policy), run(ours))


def one_batch(kind: Any, python_based: bool) -> Row:
    """A TorchRL module over a batch of trajectories."""
    torch.manual_seed(0)
    module = kind(INPUTS, HIDDEN, in_key="x", out_key="y", python_based=python_based)
    ours = torchrl.convert(copy.deepcopy(module))
    batch = TensorDict(
        {"x": torch.randn(LANES, STEPS, INPUTS), "is_init": torch.rand(LANES, STEPS, 1) < 0.04},
        [LANES, STEPS],
    )

    def run(policy: Any) -> Callable[[], Any]:
        def go() -> Any:
            policy.zero_grad()
            with set_recurrent_mode(True):
                y = policy(batch.clone(False))["y"]
            y.square().mean().backward()
            return [y.detach(), *(p.grad for p in policy.parameters())]

        return go

    name = f"TorchRL, {kind.__name__}{', python_based' if python_based else ''}"
    return timed(name, run(module), run(ours))


def training(timesteps: int = 1024) -> Row:
    """RecurrentPPO on CartPole: frames a second of the whole run."""
    speeds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(2):
        for converted, found in speeds.items():
            agent = RecurrentPPO(
                "MlpLstmPolicy", "CartPole-v1", n_steps=512, batch_size=128, device="cpu", seed=0,
                policy_kwargs={"lstm_hidden_size": HIDDEN},
            )  # fmt: skip
            if converted:
                sb3.convert(agent)
            clock = time.process_time()
            agent.learn(timesteps)
            found.append(timesteps / (time.process_time() - clock))
    was, now = (statistics.median(found) for found in speeds.values())
    return {
        "what": "RecurrentPPO on CartPole-v1", "unit": "frames/s", "before": was, "after": now,
        "ratio": now / was, "error": None,
    }  # fmt: skip


def main() -> None:
    """Print a table, or JSON."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = [
        one_sequence(),
        one_step(),
        *(one_batch(kind, based) for kind in (GRUModule, LSTMModule) for based in (False, True)),
        training(),
    ]
    if "--json" in sys.argv:
        print(json.dumps(rows))
        return
    print("| what | unit | before | after | times faster | largest difference |")
    print("|---|---|--:|--:|--:|--:|")
    for row in rows:
        error = "" if row["error"] is None else f"{row['error']:.0e}"
        digits = 0 if row["before"] > 100 and row["unit"] != "ms" else 1
        numbers = f"{row['before']:,.{digits}f} | {row['after']:,.{digits}f} | {row['ratio']:.1f}"
        print(f"| {row['what']} | {row['unit']} | {numbers} | {error} |")


if __name__ == "__main__":
    main()

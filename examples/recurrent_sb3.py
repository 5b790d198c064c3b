"""sb3-contrib's RecurrentPPO, and the same with its sequences run in our kernels: one call.

python examples/recurrent_sb3.py [TIMESTEPS]        needs the optional part rl

Both see the same episodes and take the same actions, because both draw from one seed and their numbers
agree to rounding; so what each earns is the same, and the time is not. It is the
processor's, on one thread: other work on the machine does not count. At the end the converted agent is
saved, loaded and asked again.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from recurrent_ppo import Recall
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor

from bptt.integrations import sb3


class Returns(BaseCallback):
    """The returns of the episodes of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[float] = []
        self._episodes: list[float] = []

    def _on_step(self) -> bool:
        self._episodes += [i["episode"]["r"] for i in self.locals["infos"] if "episode" in i]
        return True

    def _on_rollout_end(self) -> None:
        self.means.append(float(np.mean(self._episodes)))
        self._episodes = []


def make_agent() -> RecurrentPPO:
    """As anybody would write it."""
    return RecurrentPPO(
        "MlpLstmPolicy", Monitor(Recall()), n_steps=512, batch_size=128, n_epochs=8, seed=0,
        learning_rate=1e-3, policy_kwargs={"lstm_hidden_size": 128}, device="cpu",
    )  # fmt: skip


def main(timesteps: int) -> None:
    """Train both, print what each earned and how fast, and save and load the second."""
    torch.set_num_threads(1)
    for name in ("as it is", "converted"):
        agent = make_agent()
        if name == "converted":
            sb3.convert(agent)
        returns, clock = Returns(), time.process_time()
        agent.learn(timesteps, returns)
        seconds = time.process_time() - clock
        earned = " ".join(f"{mean:.2f}" for mean in returns.means)
        print(f"{name}: {timesteps / seconds:,.0f} frames a second; returns {earned}")
    with tempfile.TemporaryDirectory() as folder:
        agent.save(Path(folder) / "agent")
        loaded = RecurrentPPO.load(Path(folder) / "agent")
    seen, _ = Recall().reset(seed=1)
    same = bool(
        agent.predict(seen, deterministic=True)[0] == loaded.predict(seen, deterministic=True)[0]
    )
    layer = type(loaded.policy.lstm_actor).__module__.split(".")[0]
    print(f"loaded again: the LSTM is {layer}'s, the action is {'the same' if same else 'another'}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3072)

"""How far back does a recurrent PPO agent learn? sb3-contrib's RecurrentPPO, watched without a change.

python examples/recurrent_ppo.py [TIMESTEPS]        needs the optional part callbacks

The task is a memory: a cue of -1 or 1 is shown at the first step only, and the action of the last step
must repeat it. A policy whose gradient does not reach back over the delay cannot learn it. A rollout
holds many episodes, one behind the other; the state is reset between them, so no gradient reaches into
the one before, however long the rollout is.
"""

from __future__ import annotations

import sys
import textwrap

import gymnasium
import numpy as np
import torch
from sb3_contrib import RecurrentPPO

import bptt

DELAY = 6  # steps from the cue to the action that counts


class Recall(gymnasium.Env):
    """Observe (cue or 0, time); reward 1 if the last action is the cue's sign."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """A new cue."""
        super().reset(seed=seed)
        self._cue, self._time = int(self.np_random.integers(2)), 0
        return self._observe(), {}

    def step(self, action):
        """The cue is gone; the last step is scored."""
        self._time += 1
        done = self._time == DELAY
        reward = float(done and int(action) == self._cue)
        return self._observe(), reward, done, False, {}

    def _observe(self) -> np.ndarray:
        cue = 2 * self._cue - 1 if self._time == 0 else 0
        return np.array([cue, self._time / DELAY], np.float32)


def main(timesteps: int) -> None:
    """Train, and print what the watched updates saw."""
    torch.set_num_threads(1)
    agent = RecurrentPPO(
        "MlpLstmPolicy", Recall(), n_steps=128, batch_size=64, n_epochs=4, seed=0,
        policy_kwargs={"lstm_hidden_size": 32}, device="cpu",
    )  # fmt: skip
    with bptt.watch(agent.policy, every=4) as flow:
        agent.learn(timesteps)
    for measured in flow.history:
        parts = [f"{m.name}: horizon {m.horizon}, decay {m.decay:.3f}" for m in measured.modules]
        print(f"update {measured.step}: {'; '.join(parts)}")
    longest = max(m.horizon for measured in flow.history for m in measured.modules)
    print(f"longest horizon {longest}: an episode is {DELAY} steps, with a reset before each")
    print(textwrap.fill(flow.explain(), 96))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4096)

"""TorchRL's PPO with a GRU policy, and the same with its sequences run in our kernels: one call.

python examples/recurrent_torchrl.py [UPDATES]        needs the optional part rl

The task is a memory: a cue of -1 or 1 is shown at the first step only, and the action of the last step
must repeat it. A batch holds many episodes behind each other; the collector's first steps of them are
marked with ``is_init``.
"""

from __future__ import annotations

import sys
import time

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import Bounded, Categorical, Composite
from torchrl.envs import Compose, EnvBase, InitTracker, TransformedEnv
from torchrl.modules import GRUModule, ProbabilisticActor, ValueOperator, set_recurrent_mode
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from bptt.integrations import torchrl

LANES, STEPS, DELAY, EPOCHS = 32, 48, 6, 4


class Recall(EnvBase):
    """Observe (cue or 0, time); reward 1 if the last action is the cue's sign."""

    def __init__(self) -> None:
        super().__init__(batch_size=[LANES])
        self.observation_spec = Composite(
            observation=Bounded(-1, 1, (LANES, 2), dtype=torch.float32), shape=(LANES,)
        )
        self.action_spec = Categorical(2, (LANES,))
        self.reward_spec = Bounded(0, 1, (LANES, 1), dtype=torch.float32)
        self.cue = torch.zeros(LANES)
        self.time = torch.zeros(LANES, dtype=torch.long)

    def _reset(self, tensordict: TensorDict | None, **_) -> TensorDict:
        begin = torch.ones(LANES, dtype=torch.bool)
        if tensordict is not None and tensordict.get("_reset", None) is not None:
            begin = tensordict["_reset"].squeeze(-1)
        self.cue = torch.where(begin, 2.0 * torch.randint(2, (LANES,)) - 1, self.cue)
        self.time = torch.where(begin, 0, self.time)
        return TensorDict({"observation": self._observe()}, [LANES])

    def _step(self, tensordict: TensorDict) -> TensorDict:
        self.time = self.time + 1
        done = (self.time == DELAY)[:, None]
        right = (2 * tensordict["action"] - 1 == self.cue)[:, None]
        parts = {"observation": self._observe(), "reward": (done & right).float(), "done": done}
        return TensorDict({**parts, "terminated": done.clone()}, [LANES])

    def _observe(self) -> torch.Tensor:
        return torch.stack([self.cue * (self.time == 0), self.time / DELAY], 1)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            torch.manual_seed(seed)


def train(updates: int, converted: bool) -> tuple[list[float], float]:
    """The mean return of each batch, and how many frames a second of the processor trains on."""
    torch.manual_seed(0)
    memory = GRUModule(2, 64, in_key="observation", out_key="features")
    head = TensorDictModule(nn.Linear(64, 2), ["features"], ["logits"])
    actor = ProbabilisticActor(
        TensorDictSequential(memory, head), in_keys=["logits"], return_log_prob=True,
        distribution_class=torch.distributions.Categorical,
    )  # fmt: skip
    critic = TensorDictSequential(memory, ValueOperator(nn.Linear(64, 1), in_keys=["features"]))
    if converted:
        torchrl.convert(memory)
    env = TransformedEnv(Recall(), Compose(InitTracker(), memory.make_tensordict_primer()))
    collector = Collector(
        env, actor, frames_per_batch=LANES * STEPS, total_frames=LANES * STEPS * updates
    )
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01)
    advantage = GAE(gamma=0.95, lmbda=0.95, value_network=critic, shifted=True)
    optimizer = torch.optim.Adam(loss.parameters(), 3e-3)
    returns, seconds = [], 0.0
    for batch in collector:
        clock = time.process_time()
        for _ in range(EPOCHS):
            with set_recurrent_mode(True):
                advantage(batch)
                losses = loss(batch)
            total = sum(value for name, value in losses.items() if name.startswith("loss_"))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        seconds += time.process_time() - clock
        ends = batch["next", "done"]
        returns.append(float(batch["next", "reward"][ends].mean()))
    collector.shutdown()
    return returns, updates * EPOCHS * LANES * STEPS / seconds


def main(updates: int) -> None:
    """Train both, and print what each got."""
    torch.set_num_threads(1)
    for name, converted in (("as it is", False), ("converted", True)):
        returns, speed = train(updates, converted)
        got = " ".join(f"{value:.2f}" for value in returns[:: max(1, updates // 10)])
        print(f"{name}: {speed:,.0f} frames trained on in a second; returns {got}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 28)

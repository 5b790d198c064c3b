"""RecurrentPPO's sequences in one call, with the library itself: equal, saved, loaded, trained."""

from __future__ import annotations

import copy
import pickle
import sys

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import torch
from stable_baselines3.common import callbacks
from torch import nn

import bptt
from bptt.errors import ArgumentError, ConvertWarning, DependencyError
from bptt.integrations import sb3
from bptt.ops import native


class Echo(gymnasium.Env):
    """Reward 1 for the action that the observation of the step before named; five steps an episode."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._time, self._seen = 0, self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self._seen, {}

    def step(self, action):
        self._time += 1
        reward = float(int(action) == (self._seen[0] > 0))
        self._seen = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self._seen, reward, self._time == 5, False, {}


def agent(policy="MlpLstmPolicy", **options):
    return sb3_contrib.RecurrentPPO(
        policy, Echo(), n_steps=32, batch_size=16, n_epochs=2, seed=0, device="cpu",
        policy_kwargs={"lstm_hidden_size": 8, **options},
    )  # fmt: skip


class Told(callbacks.BaseCallback):
    def __init__(self):
        super().__init__()
        self.actions, self.rewards, self.values = [], [], []

    def _on_step(self):
        for kept, name in ((self.actions, "actions"), (self.rewards, "rewards")):
            kept.append(self.locals[name].copy())
        self.values.append(self.locals["values"].numpy().copy())
        return True


LAYOUTS = {
    "two": {},
    "deep": {"n_lstm_layers": 2},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "actor alone": {"enable_critic_lstm": False},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("lanes", "steps"), [(1, 1), (4, 1), (1, 9), (3, 7)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_sequence_is_theirs_with_its_gradients(layout, lanes, steps, share) -> None:
    theirs = agent(**LAYOUTS[layout]).policy
    ours = sb3.convert(copy.deepcopy(theirs))
    layers = ours.lstm_actor.num_layers
    x = torch.randn(lanes * steps, 3)
    starts = (torch.rand(lanes * steps) < share).float()
    states = torch.randn(2, layers, lanes, 8).unbind(0)
    found = []
    for policy in (theirs, ours):
        features = x.clone().requires_grad_()
        y, ended = policy._process_sequence(features, states, starts, policy.lstm_actor)
        (y.square().sum() + ended[0].sum() + ended[1].square().sum()).backward()
        weights = [p.grad for p in policy.lstm_actor.parameters()]
        found.append([y, *ended, features.grad, *weights])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


def test_a_real_run_earns_the_same() -> None:
    """Same seed, same actions and rewards over three rollouts and the twelve updates between them.

    An action differs only where a draw falls within the 1e-6 by which two probabilities differ: once in
    ten thousand such runs.
    """
    runs = []
    for converted in (False, True):
        made, told = agent(), Told()
        if converted:
            sb3.convert(made)
            assert isinstance(made.policy.lstm_actor, bptt.nn.LSTM)
            assert isinstance(made.policy.lstm_critic, bptt.nn.LSTM)
        made.learn(96, told)
        runs.append((made, told))
    (theirs, told), (ours, also_told) = runs
    assert np.array_equal(told.actions, also_told.actions)
    assert np.array_equal(told.rewards, also_told.rewards)
    assert np.allclose(told.values, also_told.values, atol=1e-5)
    for a, b in zip(theirs.policy.parameters(), ours.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_an_agent_is_one_call(monkeypatch) -> None:
    """A batch of many episodes reaches the layer once, and so does each step of a rollout."""
    calls = []
    forward = bptt.nn.LSTM.forward

    def counted(self, x, *rest, **options):
        calls.append(tuple(x.shape))
        return forward(self, x, *rest, **options)

    monkeypatch.setattr(bptt.nn.LSTM, "forward", counted)
    stepped, step = [], native.step
    monkeypatch.setattr(
        native, "step", lambda *given: stepped.append(found := step(*given)) or found
    )
    made = sb3.convert(agent())
    made.learn(32)
    steps = [shape for shape in calls if shape[0] == 1]
    batches = [shape for shape in calls if shape[0] > 1]
    assert len(steps) == 32 * 2 + 1  # actor and critic, and the value after the last step
    # Each of them in one native call, where an episode begins too.
    assert len(stepped) == len(steps)
    assert all(found is not None for found in stepped)
    # Two epochs of two batches, each once through the actor and once through the critic.
    assert len(batches) == 2 * 2 * 2


def test_saved_and_loaded(tmp_path) -> None:
    made = sb3.convert(agent())
    made.learn(32)
    made.save(tmp_path / "agent")
    loaded = sb3_contrib.RecurrentPPO.load(tmp_path / "agent", env=Echo(), device="cpu")
    assert isinstance(loaded.policy, sb3.WholeSequences)
    assert isinstance(loaded.policy.lstm_actor, bptt.nn.LSTM)
    seen, state = np.zeros(3, np.float32), None
    for _ in range(3):
        one, after = made.predict(seen, state, deterministic=True)
        other, state = loaded.predict(seen, state, deterministic=True)
        assert one == other
        assert all(np.array_equal(a, b) for a, b in zip(after, state, strict=True))
    loaded.learn(32)  # it goes on
    again = sb3.convert(loaded)
    assert type(again.policy).__mro__.count(sb3.WholeSequences) == 1


def test_an_older_agent_is_loaded_and_then_converted(tmp_path) -> None:
    made = agent()
    made.save(tmp_path / "agent")
    loaded = sb3.convert(sb3_contrib.RecurrentPPO.load(tmp_path / "agent", env=Echo()))
    assert isinstance(loaded.policy.lstm_critic, bptt.nn.LSTM)
    loaded.learn(32)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_policy_alone_and_its_copies(again) -> None:
    policy = sb3.convert(agent().policy)
    twin = again(policy)
    assert isinstance(twin, sb3.WholeSequences)
    assert isinstance(twin, sb3_contrib.common.recurrent.policies.RecurrentActorCriticPolicy)
    x, starts = torch.randn(6, 3), torch.tensor([1.0, 0, 0, 1, 0, 0])
    states = (torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))
    one, _ = policy._process_sequence(x, states, starts, policy.lstm_actor)
    other, _ = twin._process_sequence(x, states, starts, twin.lstm_actor)
    assert torch.equal(one, other)


def test_the_optimiser_still_holds_the_parameters() -> None:
    made = agent()
    before = [id(p) for group in made.policy.optimizer.param_groups for p in group["params"]]
    sb3.convert(made)
    assert before == [id(p) for p in made.policy.parameters()]


def test_an_lstm_of_somebodys_own_is_left_and_named() -> None:
    class Own(nn.LSTM):
        def forward(self, x, hx=None):
            y, state = super().forward(x, hx)
            return 2 * y, state

    theirs = agent()
    theirs.policy.lstm_actor = Own(3, 8)
    ours = copy.deepcopy(theirs.policy)
    with pytest.warns(ConvertWarning, match="lstm_actor"):
        sb3.convert(ours)
    x, starts = torch.randn(6, 3), torch.tensor([1.0, 0, 0, 1, 0, 0])
    states = (torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))
    one, _ = theirs.policy._process_sequence(x, states, starts, theirs.policy.lstm_actor)
    other, _ = ours._process_sequence(x, states, starts, ours.lstm_actor)
    torch.testing.assert_close(one, other)


def test_what_is_no_recurrent_agent() -> None:
    from stable_baselines3 import PPO

    for wrong, said in (
        (PPO("MlpPolicy", Echo(), device="cpu"), "whose policy is ActorCriticPolicy"),
        (nn.LSTM(3, 4), "received LSTM"),
        ("MlpLstmPolicy", "received str"),
    ):
        with pytest.raises(ArgumentError, match=said):
            sb3.convert(wrong)


def test_a_policy_with_a_way_of_its_own_is_refused() -> None:
    from sb3_contrib.ppo_recurrent import MlpLstmPolicy

    class Own(MlpLstmPolicy):
        def _process_sequence(self, *arguments):
            return super()._process_sequence(*arguments)

    made = agent(Own)
    with pytest.raises(ArgumentError, match="Own with a _process_sequence of its own"):
        sb3.convert(made)
    assert type(made.policy) is Own


def test_without_the_library(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib.common.recurrent.policies", None)
    with pytest.raises(DependencyError, match=r"pip install 'bptt\[rl\]'"):
        sb3.convert(object())

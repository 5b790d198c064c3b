"""Stable-Baselines3: the sequences of a recurrent policy, resets included, in one call of the kernels.

sb3-contrib's RecurrentPPO walks through a batch step by step in Python, because torch's LSTM cannot
begin anew in the middle: each episode starts from a zero state. Ours can.

Limits: policies whose ``_process_sequence`` is sb3-contrib's own. With dropout between the layers of an
LSTM, the draws are others than step by step.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from torch import Tensor

from bptt.errors import ArgumentError, DependencyError
from bptt.nn import LSTM
from bptt.nn import convert as convert_layers

T = TypeVar("T")


def convert(agent: T) -> T:
    """Let a RecurrentPPO agent run its sequences in our kernels, in place.

    The LSTMs become ours, as :func:`bptt.convert` has it, with parameters and optimiser as they were;
    an update then runs each batch of episodes in one call, and a rollout each step in one. The agent is
    saved and loaded as before: ``RecurrentPPO.load`` gives back an agent that is converted.

    Args:
        agent: of ``sb3_contrib.RecurrentPPO``, or its policy alone.

    Returns:
        The same agent.

    Raises:
        DependencyError: sb3-contrib is not installed.
        ArgumentError: no recurrent policy, or one with a ``_process_sequence`` of its own.

    Warns:
        ConvertWarning: an LSTM of the policy was left as it is; it runs step by step as before.

    Cost: a walk over the policy's modules; no tensor is copied.

    Example:
        >>> import gymnasium, sb3_contrib
        >>> from bptt.integrations import sb3
        >>> agent = sb3_contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=16, device="cpu")
        >>> type(sb3.convert(agent).policy.lstm_actor)
        <class 'bptt.nn.recurrent.LSTM'>
    """
    try:
        from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    except ImportError:
        raise DependencyError("sb3-contrib", "none installed", "pip install 'bptt[rl]'") from None
    whole: Any = agent
    policy = getattr(whole, "policy", whole)
    kind = type(policy)
    if not isinstance(policy, RecurrentActorCriticPolicy):
        raise ArgumentError(
            "an agent of sb3_contrib.RecurrentPPO, or its policy",
            f"{kind.__name__}" if policy is whole else f"an agent whose policy is {kind.__name__}",
            "make it with policy='MlpLstmPolicy', 'CnnLstmPolicy' or 'MultiInputLstmPolicy'",
        )
    if not isinstance(policy, WholeSequences):
        if kind._process_sequence is not RecurrentActorCriticPolicy._process_sequence:
            raise ArgumentError(
                "a policy that walks through its sequences as sb3-contrib does",
                f"{kind.__name__} with a _process_sequence of its own",
                "call bptt.convert(agent.policy), and pass episode starts as reset= in that method",
            )
        policy.__class__ = _made(kind)
        convert_layers(policy)
    if policy is not whole:
        whole.policy_class = type(policy)  # what RecurrentPPO.load builds the policy from
    return agent


class WholeSequences:
    """What :func:`convert` puts before the class of a policy."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        convert_layers(cast(Any, self))  # where an agent is loaded

    def _process_sequence(
        self,
        features: Tensor,
        lstm_states: tuple[Tensor, Tensor],
        episode_starts: Tensor,
        lstm: Any,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run an LSTM over sequences side by side; the state is zero where an episode starts.

        Args:
            features: ``(B·T, I)``, the steps of a sequence behind each other.
            lstm_states: h and c, ``(L, B, H)`` each, before the first step.
            episode_starts: ``(B·T,)`` floats, 1 where an episode starts.
            lstm: actor's or critic's.

        Returns:
            ``(B·T, H)``, and the states after the last step.
        """
        if not isinstance(lstm, LSTM):
            return cast(Any, super())._process_sequence(features, lstm_states, episode_starts, lstm)
        lanes = lstm_states[0].shape[1]
        x = features.reshape(lanes, -1, lstm.input_size).transpose(0, 1)
        reset = episode_starts.reshape(lanes, -1).transpose(0, 1) != 0
        y, states = lstm(x, lstm_states, reset=reset)
        return y.transpose(0, 1).flatten(0, 1), states

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class was made while the program ran; a pickle finds it again from the policy's own.
        _, _, *state = cast(tuple[Any, ...], object.__reduce_ex__(self, 2))
        return _new, (type(self).__bases__[1],), *state


_classes: dict[type, type] = {}  # by the class of the policy


def _made(kind: type) -> type:
    """The class that a policy of this one becomes.

    It has nothing of its own, so that an agent's file holds no more of it than the names of its two
    parts: such a file, saved by one version of this package, is loaded by another.
    """
    if kind not in _classes:
        body = {"__module__": __name__, "__doc__": kind.__doc__}
        _classes[kind] = type(kind)(kind.__name__, (WholeSequences, kind), body)
    return _classes[kind]


def _new(kind: type) -> Any:
    made: Any = _made(kind)
    return made.__new__(made)

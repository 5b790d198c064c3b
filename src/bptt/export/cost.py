"""What quantisation costs: the integer network beside the float one on the same data, never reset."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.errors import ArgumentError
from bptt.export.integer import Simulator, q_input
from bptt.export.quantise import UNIT_BITS, QLinear, QNetwork, QRecurrent

_CHUNK = 1000


@dataclass(frozen=True)
class Cost:
    """The integer network against the float one, one stream, the states of both never reset.

    Attributes:
        steps: time steps compared.
        float_bits, int8_bits: mean bits per token of predicting the next token; None for
            other networks.
        agreement: share of steps at which both have the same largest output (1 for one output).
        largest_output_error: over all steps and outputs, in real units.
        largest_state_error: over all steps and units of h, in real units.
        early_error, late_error: root mean square of the state's error over the first and the last
            tenth of the steps. A state that drifts has a late error far above the early one.
    """

    steps: int
    float_bits: float | None
    int8_bits: float | None
    agreement: float
    largest_output_error: float
    largest_state_error: float
    early_error: float
    late_error: float

    @property
    def more_bits(self) -> float | None:
        """Bits per token more than float, as a share: 0.01 is one per cent."""
        if self.float_bits is None or self.int8_bits is None:
            return None
        return self.int8_bits / self.float_bits - 1.0

    @property
    def drifts(self) -> bool:
        """Whether the state's error at the end is over twice that at the beginning."""
        return self.late_error > 2.0 * self.early_error + 2.0**-UNIT_BITS

    def as_dict(self) -> dict[str, float | bool | None]:
        """What ``bptt export --json`` prints."""
        return {**asdict(self), "more_bits": self.more_bits, "drifts": self.drifts}


def measure_cost(q: QNetwork, inputs: NDArray[Any]) -> Cost:
    """Run both networks over one stream.

    Args:
        q: the integer network; it knows the float one.
        inputs: (T, I) reals or (T,) tokens, at least 20 steps. The state is zero before the first.

    Raises:
        ArgumentError: fewer than 20 steps.

    Cost: T steps of both in NumPy, about 0.2 ms each at H = 128.
    """
    steps = len(inputs) - (1 if q.network.tokens else 0)
    if steps < 20:
        raise ArgumentError("at least 20 steps to compare", str(steps), "give a longer stretch")
    predicts = q.network.tokens == q.network.output_size
    final = q.layers[-1]
    relative = isinstance(final, QLinear) and final.relative
    simulator, states = Simulator(q), q.network.zeros(1)
    units = [2.0**-r.state_shift for r in q.layers if isinstance(r, QRecurrent)]
    nats = np.zeros(2)
    same, worst_output, worst_state = 0, 0.0, 0.0
    squares = np.zeros(steps)
    for start in range(0, steps, _CHUNK):
        x = inputs[start : min(start + _CHUNK, steps)]
        taken = x[:, None] if q.network.tokens else q_input(q, x)[:, None]
        trace = q.network.run(x[:, None], states)
        states = trace.states
        exact = [
            values[:, 0]
            for layer, values in zip(q.network.layers, trace.layers, strict=True)
            if layer in q.network.recurrent
        ]
        outputs = np.empty_like(trace.output[:, 0])
        for t, value in enumerate(taken):
            outputs[t] = simulator.step(value)[0] * 2.0**-q.output_shift
            errors = [
                s[0][0] * unit - h[t]
                for s, unit, h in zip(simulator.states, units, exact, strict=True)
            ]
            squares[start + t] = np.mean([np.mean(e**2) for e in errors])
            worst_state = max(worst_state, *(float(np.abs(e).max()) for e in errors))
        wanted = trace.output[:, 0]
        if relative:
            # Both less their largest, and what int8 cannot show left out of the error, not the bits.
            outputs -= 127 * 2.0**-q.output_shift
            shown = np.maximum(wanted - wanted.max(1, keepdims=True), -255 * 2.0**-q.output_shift)
        else:
            shown = wanted
        worst_output = max(worst_output, float(np.abs(outputs - shown).max()))
        same += int((outputs.argmax(1) == wanted.argmax(1)).sum())
        if predicts:
            targets = inputs[start + 1 : start + 1 + len(x)]
            nats += [_nats(wanted, targets), _nats(outputs, targets)]
    tenth = steps // 10
    bits = nats / steps / math.log(2)
    return Cost(
        steps,
        float(bits[0]) if predicts else None,
        float(bits[1]) if predicts else None,
        same / steps,
        worst_output,
        worst_state,
        float(np.sqrt(squares[:tenth].mean())),
        float(np.sqrt(squares[-tenth:].mean())),
    )


def _nats(logits: NDArray[np.float64], targets: NDArray[np.generic]) -> float:
    """Summed negative log-likelihood."""
    top = logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    return float((log_sum - logits[np.arange(len(targets)), targets]).sum())

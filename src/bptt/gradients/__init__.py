"""How the gradient is taken through time: one frozen dataclass a file, all with the same face."""

from bptt.gradients.adaptive import Adaptive, Decision
from bptt.gradients.build import build
from bptt.gradients.checkpointed import Checkpointed
from bptt.gradients.forward.estimator import ForwardMode, LiveCarry
from bptt.gradients.randomized import Randomized
from bptt.gradients.step import Estimator, Step
from bptt.gradients.truncated import Full, Truncated, Windowed

__all__ = [
    "Adaptive",
    "Checkpointed",
    "Decision",
    "Estimator",
    "ForwardMode",
    "Full",
    "LiveCarry",
    "Randomized",
    "Step",
    "Truncated",
    "Windowed",
    "build",
]

"""How the gradient is taken through time: one frozen dataclass a file, all with the same face."""

from bptt.gradients.adaptive import Adaptive, Decision
from bptt.gradients.checkpointed import Checkpointed
from bptt.gradients.forward_mode import ForwardMode, LiveCarry
from bptt.gradients.full import Full
from bptt.gradients.randomized import Randomized
from bptt.gradients.step import Estimator, Step
from bptt.gradients.truncated import Truncated
from bptt.gradients.windowed import Windowed

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
]

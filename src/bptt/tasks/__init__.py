"""Tasks on which the reach of a gradient, or the lack of it, shows."""

from bptt.tasks.adding import Adding
from bptt.tasks.agreement import Agreement
from bptt.tasks.co2 import CO2
from bptt.tasks.copy import Copy
from bptt.tasks.digits import Digits
from bptt.tasks.influence import InfluenceBalancing, half_square, influence_batch
from bptt.tasks.recall import Recall
from bptt.tasks.remember_first import RememberFirst
from bptt.tasks.task import Batch, ClassTask, SquaredError, Task, ValueTask, class_loss
from bptt.tasks.temporal_order import TemporalOrder
from bptt.tasks.vowels import JapaneseVowels

__all__ = [
    "CO2",
    "Adding",
    "Agreement",
    "Batch",
    "ClassTask",
    "Copy",
    "Digits",
    "InfluenceBalancing",
    "JapaneseVowels",
    "Recall",
    "RememberFirst",
    "SquaredError",
    "Task",
    "TemporalOrder",
    "ValueTask",
    "class_loss",
    "half_square",
    "influence_batch",
]

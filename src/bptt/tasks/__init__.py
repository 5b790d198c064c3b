"""Tasks on which the reach of a gradient, or the lack of it, shows."""

from bptt.tasks.influence import InfluenceBalancing, half_square, influence_batch
from bptt.tasks.real import CO2, Digits, JapaneseVowels
from bptt.tasks.synthetic import Adding, Agreement, Copy, Recall, RememberFirst, TemporalOrder
from bptt.tasks.task import Batch, ClassTask, SquaredError, Task, ValueTask, class_loss

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

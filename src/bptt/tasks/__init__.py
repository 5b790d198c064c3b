"""Tasks on which the reach of a gradient, or the lack of it, shows."""

from bptt.tasks.real import CO2, Digits, JapaneseVowels
from bptt.tasks.synthetic import Adding, Agreement, Copy, Recall, RememberFirst, TemporalOrder
from bptt.tasks.task import (
    Batch,
    ClassTask,
    InfluenceBalancing,
    SquaredError,
    Task,
    ValueTask,
    class_loss,
    half_square,
    influence_batch,
)

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

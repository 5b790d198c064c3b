"""Remedies side by side on a task: the grid, its jobs over all cores, and what they came to."""

from bptt.experiments.compare.grid import (
    CELLS,
    TASKS,
    Budget,
    Grid,
    Job,
)
from bptt.experiments.compare.results import Row, read_results, summarise

__all__ = ["CELLS", "TASKS", "Budget", "Grid", "Job", "Row", "read_results", "summarise"]

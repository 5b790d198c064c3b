"""Synthetic tasks on which the reach of a gradient, or the lack of it, shows."""

from bptt.tasks.influence import InfluenceBalancing, half_square, influence_batch

__all__ = ["InfluenceBalancing", "half_square", "influence_batch"]

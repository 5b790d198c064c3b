"""Name the mistakes of a training loop while it runs: :func:`bptt.guard`."""

from bptt.probes.guard.block import RULES, Guard, guard
from bptt.probes.guard.loop import Finding, Rule

__all__ = ["RULES", "Finding", "Guard", "Rule", "guard"]

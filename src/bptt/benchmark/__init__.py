"""How fast our layers are beside other libraries', equal results checked first."""

from bptt.benchmark.case import Case
from bptt.benchmark.machine import machine_name
from bptt.benchmark.measure import measure
from bptt.benchmark.modes import require, supports

__all__ = ["Case", "machine_name", "measure", "require", "supports"]

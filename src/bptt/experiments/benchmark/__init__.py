"""How fast our layers are beside other libraries', equal results checked first."""

from bptt.experiments.benchmark.contest import Case, machine_name
from bptt.experiments.benchmark.row import measure, require, supports

__all__ = ["Case", "machine_name", "measure", "require", "supports"]

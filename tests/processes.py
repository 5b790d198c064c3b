"""A second interpreter that sees the same code as this one."""

import os
import sys
from pathlib import Path


def interpreter():
    """How this Python was started, as the beginning of a command."""
    return [sys.executable, *(["-S"] if sys.flags.no_site else [])]


def same_path():
    """The environment with this process's own search path, the tests in it."""
    tests = str(Path(__file__).parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *filter(None, sys.path)])}

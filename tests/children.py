"""Processes that tests start: the same Python, with the same idea of where packages lie."""

from __future__ import annotations

import sys

# A Python begun without its site folder would otherwise have children that import another copy.
PYTHON = [sys.executable, *(["-S"] if sys.flags.no_site else [])]

"""Products of Jacobians and powers of a factor: what a gradient is multiplied by on its way back."""

from __future__ import annotations

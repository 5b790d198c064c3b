"""What is measured of a recurrence: pure functions, one file each, that return frozen results."""

from bptt.probes.jacobians import (
    JacobianProducts,
    Lyapunov,
    StateGradients,
    jacobian_products,
    lyapunov_spectrum,
    state_gradients,
)
from bptt.probes.lag_spectrum import default_truncations, lag_spectrum
from bptt.probes.on_text import Reading, Unit, connectivity, read_text, telling_units
from bptt.probes.spectrum import LagSpectrum, fit_decay
from bptt.probes.states import Capacity, Gate, Saturation, capacity, saturation
from bptt.probes.verdict import VERDICTS, Verdict, judge, verdict

__all__ = [
    "VERDICTS",
    "Capacity",
    "Gate",
    "JacobianProducts",
    "LagSpectrum",
    "Lyapunov",
    "Reading",
    "Saturation",
    "StateGradients",
    "Unit",
    "Verdict",
    "capacity",
    "connectivity",
    "default_truncations",
    "fit_decay",
    "jacobian_products",
    "judge",
    "lag_spectrum",
    "lyapunov_spectrum",
    "read_text",
    "saturation",
    "state_gradients",
    "telling_units",
    "verdict",
]

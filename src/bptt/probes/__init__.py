"""What is measured of a recurrence: pure functions, one file each, that return frozen results."""

from bptt.probes.capacity import Capacity, capacity
from bptt.probes.jacobians import (
    JacobianProducts,
    Lyapunov,
    StateGradients,
    jacobian_products,
    lyapunov_spectrum,
    state_gradients,
)
from bptt.probes.lag_spectrum import default_truncations, lag_spectrum
from bptt.probes.saturation import Gate, Saturation, saturation
from bptt.probes.spectrum import LagSpectrum, fit_decay, verdict

__all__ = [
    "Capacity",
    "Gate",
    "JacobianProducts",
    "LagSpectrum",
    "Lyapunov",
    "Saturation",
    "StateGradients",
    "capacity",
    "default_truncations",
    "fit_decay",
    "jacobian_products",
    "lag_spectrum",
    "lyapunov_spectrum",
    "saturation",
    "state_gradients",
    "verdict",
]

"""What is measured of a recurrence: pure functions, one file each, that return frozen results."""

from bptt.probes.decay import fit_decay
from bptt.probes.lag_spectrum import LagSpectrum, default_truncations, lag_spectrum
from bptt.probes.saturation import Gate, Saturation, saturation
from bptt.probes.verdict import verdict

__all__ = [
    "Gate",
    "LagSpectrum",
    "Saturation",
    "default_truncations",
    "fit_decay",
    "lag_spectrum",
    "saturation",
    "verdict",
]

"""What is measured of a recurrence: pure functions, one file each, that return frozen results."""

from bptt.probes.lag_spectrum import LagSpectrum, default_truncations, lag_spectrum

__all__ = ["LagSpectrum", "default_truncations", "lag_spectrum"]

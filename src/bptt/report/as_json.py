"""A diagnosis as one JSON document."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from bptt.diagnosis import Diagnosis, ModuleDiagnosis
from bptt.report.advice import advise
from bptt.trials import Trial


def document(found: Diagnosis) -> dict[str, Any]:
    """What ``bptt diagnose --json`` prints. Numbers that are not finite are null.

    Example:
        >>> import torch, bptt
        >>> batch = torch.randn(9, 2, 3), torch.randn(9, 2, 5)
        >>> found = bptt.diagnose(torch.nn.GRU(3, 5), batch, torch.nn.functional.mse_loss)
        >>> module = document(found)["modules"][0]
        >>> module["bias"][-1], len(module["norms"])
        ([9, 0.0], 9)
    """
    return {
        "loss": _finite(found.loss),
        "k": found.k,
        "modules": [_module(m, found.k) for m in found.modules],
        "trials": [_trial(t) for t in found.trials],
    }


def _module(found: ModuleDiagnosis, k: int | None) -> dict[str, Any]:
    watched, spectrum = found.watched, found.watched.spectrum
    at = spectrum.truncations.tolist()
    exponents, memory = found.lyapunov, found.capacity
    return {
        "name": watched.name,
        "kind": watched.kind,
        "steps": spectrum.steps,
        "lanes": list(spectrum.lanes),
        "horizon": watched.horizon,
        "horizon_1_percent": spectrum.horizon(0.01),
        "decay": _finite(watched.decay),
        # Where no gradient arrives none of the three words is true.
        "verdict": watched.verdict if spectrum.gradient_norm != 0 else None,
        "explain": watched.explain(),
        "advice": [{"rule": a.rule, "text": a.text} for a in advise(found, k)],
        "gradient_norm": _finite(spectrum.gradient_norm),
        "norms": _list(spectrum.norms),
        "bias": _pairs(at, spectrum.measured_bias),
        "cosine": _pairs(at, spectrum.measured_cosine),
        "bias_at_k": None if k is None else _finite(spectrum.bias_of(k)),
        "saturated": None if watched.saturation is None else _finite(watched.saturation.share),
        "lyapunov": None if exponents is None else _list(exponents.exponents),
        "memory": None if memory is None else _list(memory.explained),
        "notes": list(found.notes),
    }


def _trial(tried: Trial) -> dict[str, Any]:
    return {
        "name": tried.name,
        "switch": tried.switch,
        "updates": tried.updates,
        "seconds": tried.seconds,
        "loss": _finite(tried.loss),
        "horizon": tried.horizon,
        "horizon_1_percent": tried.near,
        "decay": _finite(tried.decay),
        "verdict": tried.verdict or None,
        "note": tried.note,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _list(values: Tensor) -> list[float | None]:
    return [_finite(v) for v in values.tolist()]


def _pairs(at: list[int], values: Tensor) -> list[list[float | None]]:
    return [[k, v] for k, v in zip(at, _list(values), strict=True)]

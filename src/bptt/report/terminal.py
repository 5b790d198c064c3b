"""A diagnosis as tables and sentences in a terminal, and as one JSON document."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from bptt.probes import LagSpectrum, Reading
from bptt.probes.diagnose import Diagnosis, ModuleDiagnosis, Trial
from bptt.probes.verdict import judge
from bptt.report.advice import Advice, advise, next_step
from bptt.report.on_text import in_terminal, told_places
from bptt.report.words import (
    has_gradient,
    on_tried,
    percent,
    tried_rows,
    tried_title,
)
from bptt.shown.console import Console, plain

# A diagnosis in a terminal: one table of modules, one of lags, the verdict in sentences, advice.

BAR = 24  # characters that the largest share of a table takes; in a narrow terminal half of that
ROOMY = 76  # columns of a terminal that is not narrow
ACROSS = 3  # modules side by side
COLORS = {
    "healthy": "green", "vanishing": "yellow", "cut short": "yellow", "exploding": "red",
    "diverged": "red", "no gradient": "red",
}  # fmt: skip


def show(found: Diagnosis, console: Any = None, *, step: Advice | None = None) -> None:
    """Print a diagnosis.

    Args:
        found: what :func:`bptt.diagnose` returned.
        console: a ``rich.console.Console``; default one on stdout.
        step: what to do next; default: in Python, of the verdict.

    Example:
        >>> import io, torch, bptt
        >>> from rich.console import Console
        >>> batch = torch.randn(9, 2, 3), torch.randn(9, 2, 5)
        >>> found = bptt.diagnose(torch.nn.GRU(3, 5), batch, torch.nn.functional.mse_loss)
        >>> text = io.StringIO()
        >>> show(found, Console(file=text, width=80))
        >>> "horizon" in text.getvalue()
        True
    """
    console = Console() if console is None else console
    verdict = found.verdict
    step = next_step(verdict) if step is None else step
    console.print(plain(f"verdict: {verdict.word}", f"bold {COLORS[verdict.word]}"))
    console.print(plain(f"{verdict.reason} {verdict.sure}"))
    console.print(plain(step.text))
    console.print(plain(f"next: {step.command}", "bold"), soft_wrap=True)
    console.print()
    console.print(_summary(found))
    for module in found.modules:
        _module(found, module, console)
    if found.reading is not None:
        console.print()
        console.print(plain("On the text", "bold"))
        in_terminal(found.reading, console)
    if found.trials:
        console.print()
        console.print(plain(tried_title(found.trials), "bold"))
        console.print(_tried(found.trials))
        console.print(plain(on_tried(found.trials)))


def _summary(found: Diagnosis) -> Any:
    """A column a module, so that the names of the numbers have room in a narrow terminal."""
    from rich.console import Group

    blocks = [found.modules[i : i + ACROSS] for i in range(0, len(found.modules), ACROSS)]
    return Group(*(_block(block, found.k) for block in blocks))


def _block(modules: tuple[ModuleDiagnosis, ...], k: int | None) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("", no_wrap=True)
    for module in modules:
        watched = module.watched
        head = plain(f"{watched.name or 'the model'}\n{watched.kind}", "bold")
        table.add_column(head, justify="right")
    for row in zip(*(_numbers(module, k) for module in modules), strict=True):
        values = (value for _, value in row)
        table.add_row(plain(row[0][0]), *(plain(v, COLORS.get(v, "")) for v in values))
    return table


def _numbers(module: ModuleDiagnosis, k: int | None) -> list[tuple[str, str]]:
    watched, spectrum = module.watched, module.watched.spectrum
    found = [
        ("horizon, 5 % bias (steps)", _steps(spectrum, 0.05)),
        ("horizon, 1 % bias (steps)", _steps(spectrum, 0.01)),
        ("decay (factor per step)", _number(watched.decay)),
    ]
    if k is not None:
        found.append((f"bias at your k = {k}", percent(spectrum.bias_of(k))))
        found.append((f"cosine at your k = {k}", _number(spectrum.cosine_of(k))))
    gates, exponents, memory = watched.saturation, module.lyapunov, module.capacity
    found += [
        ("saturated values", "-" if gates is None else percent(gates.share)),
        (
            "largest Lyapunov exponent",
            "-" if exponents is None else f"{float(exponents.exponents[0]):+.3f}",
        ),
        ("memory (inputs' worth)", "-" if memory is None else f"{memory.total:.1f}"),
    ]
    return found


def _module(found: Diagnosis, module: ModuleDiagnosis, console: Any) -> None:
    watched, k = module.watched, found.k
    console.print()
    if len(found.modules) > 1:
        console.print(plain(watched.name, "bold"))
    console.print(plain(found.explain() if module is found.main else watched.explain()))
    if bool(watched.spectrum.norms.isfinite().all()):
        console.print()
        wide = BAR if console.width >= ROOMY else BAR // 2
        console.print(_lags(watched.spectrum, k, console.options.ascii_only, wide))
    for note in module.notes:
        console.print(plain(note, "dim"))
    given = advise(module, k, found.verdict) if module is found.main else ()
    if not given:
        return
    console.print()
    console.print(plain("What would help", "bold"))
    for advice in given:
        console.print(plain(f"- {advice.text}"))


def _lags(spectrum: LagSpectrum, k: int | None, ascii_only: bool, wide: int) -> Any:
    """A few lags, an octave apart, with the gradient's size as bars."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("K", justify="right")
    table.add_column("gradient K back", min_width=wide + 8, no_wrap=True)
    table.add_column("bias of K", justify="right", no_wrap=True)  # a number keeps its unit
    table.add_column("cosine", justify="right")
    table.add_column("")
    marks = {spectrum.horizon(): "horizon 5 %"}
    near = spectrum.horizon(0.01)
    marks[near] = "horizon 5 % and 1 %" if near in marks else "horizon 1 %"
    if k is not None and k <= spectrum.steps:
        marks[k] = f"{marks[k]}, your k" if k in marks else "your k"
    at = spectrum.truncations.tolist()
    rows = sorted({k for k in at if k & (k - 1) == 0} | (set(marks) & set(at)) | {at[-1]})
    top = float(spectrum.norms.max()) or 1.0
    for row in rows:
        share = float(spectrum.norms[row]) / top if row < len(spectrum.norms) else 0.0
        bias, cosine = spectrum.bias_of(row), spectrum.cosine_of(row)
        mark = marks.get(row, "")
        table.add_row(
            str(row), f"{percent(share):>7} {bar(share, wide, ascii_only=ascii_only)}", percent(bias),
            _number(cosine), plain(mark, "bold"),
        )  # fmt: skip
    return table


def _tried(trials: tuple[Trial, ...]) -> Any:
    from rich.table import Table

    head, *rows = tried_rows(trials)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place < 2 else "right")
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def bar(share: float, width: int = BAR, *, ascii_only: bool = False) -> str:
    """A horizontal bar in eighths of a character; in whole ones where there is no such character.

    Example:
        >>> bar(0.5, 4), bar(0.0, 4), bar(0.5, 4, ascii_only=True)
        ('██', '', '##')
    """
    if ascii_only:
        return "#" * round(width * min(1.0, max(0.0, share)))
    eighths = round(8 * width * min(1.0, max(0.0, share)))
    return "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]


def _steps(spectrum: LagSpectrum, tolerance: float) -> str:
    if not has_gradient(spectrum):
        return "-"
    horizon = spectrum.horizon(tolerance)
    return f"≥ {horizon}" if horizon >= spectrum.steps else str(horizon)


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


# A diagnosis as one JSON document.


def document(found: Diagnosis, step: Advice | None = None) -> dict[str, Any]:
    """What ``bptt diagnose --json`` prints. Numbers that are not finite are null.

    Args:
        found: what :func:`bptt.diagnose` returned.
        step: what to do next; default: in Python, of the verdict.

    Example:
        >>> import torch, bptt
        >>> batch = torch.randn(9, 2, 3), torch.randn(9, 2, 5)
        >>> found = bptt.diagnose(torch.nn.GRU(3, 5), batch, torch.nn.functional.mse_loss)
        >>> module = document(found)["modules"][0]
        >>> module["bias"][-1], len(module["norms"])
        ([9, 0.0], 9)
    """
    verdict = found.verdict
    step = next_step(verdict) if step is None else step
    return {
        "verdict": verdict.as_dict(),
        "next": {"rule": step.rule, "text": step.text, "command": step.command},
        "loss": _finite(found.loss),
        "k": found.k,
        "modules": [_module_document(found, m) for m in found.modules],
        "trials": [_trial(t) for t in found.trials],
        "text": None if found.reading is None else _text(found.reading),
    }


def _text(reading: Reading) -> dict[str, Any]:
    return {
        "symbols": list(reading.symbols),
        "losses": _list(reading.losses),
        "predictions": [
            {"at": at, "connectivity": _list(reading.row(at))} for at in told_places(reading)
        ],
        "units": [
            {
                "unit": unit.number,
                "follows": unit.follows,
                "correlation": _finite(unit.correlation),
                "values": _list(unit.values),
            }
            for unit in reading.units
        ],
    }


def _module_document(whole: Diagnosis, found: ModuleDiagnosis) -> dict[str, Any]:
    watched, spectrum, k = found.watched, found.watched.spectrum, whole.k
    main = found is whole.main
    verdict = whole.verdict if main else judge([spectrum], k=k)
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
        # Where no gradient arrives there is none to be judged.
        "verdict": verdict.word if spectrum.gradient_norm != 0 else None,
        "explain": whole.explain() if main else watched.explain(),
        "advice": [{"rule": a.rule, "text": a.text} for a in advise(found, k, verdict)],
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
        "starts": tried.starts,
        "spread": _finite(tried.spread),
        "horizons": None if tried.low is None else [tried.low, tried.high],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _list(values: Tensor) -> list[float | None]:
    return [_finite(v) for v in values.tolist()]


def _pairs(at: list[int], values: Tensor) -> list[list[float | None]]:
    return [[k, v] for k, v in zip(at, _list(values), strict=True)]

"""``export_c``: a trained module as C99."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from bptt.errors import ArgumentError, DtypeError, optional
from bptt.export.c_float import float_files
from bptt.export.c_int8 import int8_files
from bptt.export.ctext import STEPS, check_name, example_files, symbol_table
from bptt.export.extract import read_network, time_first
from bptt.export.network import Network
from bptt.export.quantise import QNetwork, Simulator, q_input, quantise
from bptt.files.write import check_free, write_folder


@dataclass(frozen=True)
class Export:
    """An exported network.

    Attributes:
        name: the prefix of all its identifiers.
        files: texts (or bytes) by file name.
        network: what was exported.
        folder: where it was written, None if nowhere.
        quantised: the integer network, None for float32; :func:`bptt.export.measure_cost` takes it.
    """

    name: str
    files: Mapping[str, str | bytes]
    network: Network
    folder: Path | None = None
    quantised: QNetwork | None = None

    def write(self, folder: str | os.PathLike[str]) -> Export:
        """Write the files into a new or empty folder, all or none."""
        return replace(self, folder=write_folder(folder, self.files))


def export_c(
    module: nn.Module,
    example_input: Tensor,
    out: str | os.PathLike[str] | None = None,
    *,
    name: str = "model",
    precision: Literal["float32", "int8"] = "float32",
    calibration: Tensor | None = None,
    output_bits: Literal[8, 16] = 8,
    activations: Literal["own", "libm"] = "own",
    window: int | None = None,
    symbols: Sequence[str] | None = None,
) -> Export:
    """Write a recurrent module as one C99 header and source, stateful, without heap.

    The generated step equals one time step of the module: ``NAME_step(&state, input, output)``, with
    the state in a struct of the caller's. For a token model the outputs are its logits. A module with
    bidirectional layers has no step: ``NAME_window(&state, steps, inputs, outputs)`` runs a window.

    Args:
        module: RNN, GRU, LSTM, MinGRU, LRU of any number of layers, in an ``nn.Sequential`` or a forward
            with Linear, Embedding, Tanh, ReLU, Sigmoid, LeakyReLU, Softmax, LayerNorm, BatchNorm1d and
            Dropout around them; or a :class:`bptt.models.LanguageModel`. It needs no training of ours.
        example_input: what the module takes; used to check that what is exported computes what the
            module computes, and in the generated ``example.c``. Integers mean tokens, which in front
            of a recurrent or linear layer become one-hot vectors.
        out: a new or empty folder; None writes nothing and only returns the texts.
        name: a C identifier, the prefix of all others.
        precision: ``"float32"``, or ``"int8"``: int8 weights, input and output, int16 state.
        calibration: for int8, at least 1000 steps of the data the network will see, shaped like the
            example input; default: the example input itself.
        output_bits: for int8, 8 or 16 bits an output.
        activations: for float32, ``"own"`` rational tanh and sigmoid, fast and the same on every machine;
            ``"libm"`` uses ``tanhf``, ``expf`` and ``erff``.
        window: the most steps of a window, for a module with bidirectional layers.
        symbols: the text of every token; the header then holds them as ``NAME_SYMBOLS``.

    Returns:
        The files by name, and where they were written.

    Raises:
        ArgumentError: an unsupported module or a parameter that would be left behind, by its path in
            the model; weights that are not finite; a bad name; a folder that holds files.
        RunError: the folder cannot be written. Nothing is left half-written.

    Cost: one pass over the example input; 14 bytes of text a weight.

    Example:
        >>> import torch, bptt
        >>> export = bptt.export_c(torch.nn.GRU(3, 8), torch.randn(20, 1, 3), name="gesture")
        >>> sorted(export.files)
        ['Makefile', 'example.c', 'gesture.c', 'gesture.h']
    """
    from bptt import __version__

    check_name(name)
    for what, value, known in (
        ("precision", precision, ("float32", "int8")),
        ("activations", activations, ("own", "libm")),
    ):
        if value not in known:
            raise ArgumentError(f"{what} among {', '.join(known)}", repr(value), "pick one of them")
    if precision == "int8" and activations != "own":
        raise ArgumentError(
            "activations for float32 only", repr(activations), "leave them out: int8 has tables"
        )
    if precision == "float32" and output_bits != 8:
        raise ArgumentError("output_bits for int8 only", str(output_bits), "pass precision='int8'")
    window = optional("window", window, remedy="give the steps that the layers run over")
    if window is not None and precision == "int8":
        raise ArgumentError(
            "a window for float32 only", "precision='int8'", "export this network in float32"
        )
    if out is not None:
        check_free(out)
    network = read_network(module, example_input, both_ways=window is not None)
    if window is not None and not network.both_ways:
        raise ArgumentError(
            "a window for bidirectional layers only", f"window={window} and none", "leave it out"
        )
    table = "" if symbols is None else _symbols(name, network, symbols)
    inputs: Any = time_first(network, example_input)
    if precision == "float32":
        if calibration is not None:
            raise ArgumentError(
                "calibration data for int8 only", "some for float32", "pass precision='int8'"
            )
        libm = activations == "libm"
        files = float_files(name, network, __version__, libm=libm, window=window, symbols=table)
        files |= example_files(name, network, inputs, window=window)
        export = Export(name, files, network)
    else:
        data = inputs if calibration is None else time_first(network, calibration)
        q = quantise(network, data, output_bits)
        files = int8_files(name, q, __version__, symbols=table) | _example(name, q, inputs)
        export = Export(name, files, network, quantised=q)
    return export if out is None else export.write(out)


def _symbols(name: str, network: Network, symbols: Sequence[str]) -> str:
    if network.tokens is None:
        raise ArgumentError(
            "symbols for a model that takes tokens", "a model that takes vectors", "leave them out"
        )
    if isinstance(symbols, str) or not all(isinstance(s, str) for s in symbols):
        raise DtypeError(
            "symbols as a sequence of strings", type(symbols).__name__, "pass vocabulary.symbols"
        )
    if len(symbols) != network.tokens:
        raise ArgumentError(
            f"one symbol for each of V={network.tokens} tokens", str(len(symbols)),
            "pass the vocabulary that the model was trained with",
        )  # fmt: skip
    return symbol_table(name.upper(), symbols)


def _example(name: str, q: QNetwork, inputs: Any) -> dict[str, str]:
    x = inputs[:STEPS, :1]
    taken = x if q.network.tokens else q_input(q, x)
    outputs = Simulator(q).run(taken)[:, 0].astype(f"int{q.output_bits}")
    return example_files(name, q.network, x, quantised=(taken[:, 0], outputs))


_FORECAST = """\
/* A forecast of %(horizon)d steps, from the last %(history)d values and the calendar of each step.
 *
 * history: the newest value last, which is that of the step; at the beginning of a series the first
 * value in every place before it. calendar: %(told)s.
 * ahead: for each step ahead the lower end of the interval, the forecast, the upper end.
 * Generated by bptt %(version)s beside %(name)s.h. */
#ifndef %(NAME)s_FORECAST_H
#define %(NAME)s_FORECAST_H

#include "%(name)s.h"

#define %(NAME)s_HORIZON %(horizon)d
#define %(NAME)s_HISTORY %(history)d
#define %(NAME)s_CALENDAR %(calendar)d
%(matrix)s
static inline void %(name)s_forecast(%(name)s_state *state, const float *history,
    const float *calendar, float ahead[%(NAME)s_HORIZON][3])
{
    const float *newest = history + %(NAME)s_HISTORY - 1;
    float input[%(NAME)s_INPUT_SIZE];
    double level = 0.0;

    for (int j = 0; j < %(width)d; j++) {
        level += (double)newest[-j];
    }
    level /= %(width)d.0;
    input[0] = (float)((double)*newest - level);
    for (int j = 1; j < %(NAME)s_INPUT_SIZE; j++) {
        input[j] = calendar[j - 1];
    }
    %(name)s_step(state, input, &ahead[0][0]);
    for (int h = 0; h < %(NAME)s_HORIZON; h++) {
        double base = level;
%(linear)s        for (int q = 0; q < 3; q++) {
            ahead[h][q] = (float)(base + (double)ahead[h][q]);
        }
        ahead[h][0] = ahead[h][0] < ahead[h][1] ? ahead[h][0] : ahead[h][1];
        ahead[h][2] = ahead[h][2] > ahead[h][1] ? ahead[h][2] : ahead[h][1];
    }
}

#endif
"""
_LINEAR = """\
        for (int j = 0; j < %(lags)d; j++) {
            base += (double)%(name)s_linear[j][h] * ((double)newest[-j] - level);
        }
        for (int j = 0; j < %(NAME)s_CALENDAR; j++) {
            base += (double)%(name)s_linear[%(lags)d + j][h] * (double)calendar[j];
        }
        base += (double)%(name)s_linear[%(lags)d + %(NAME)s_CALENDAR][h];
"""


def forecast_header(
    name: str, horizon: int, width: int, lags: int, told: Sequence[str], linear: Any
) -> str:
    """The header that makes a forecast of what an exported network of a forecaster says.

    Args:
        name: of the exported network.
        horizon: H. width: values that the level is the mean of. lags: of the linear model.
        told: what each number of the calendar is.
        linear: ``(lags + len(told) + 1, H)``; None where the network stands alone.
    """
    from bptt import __version__

    words: dict[str, Any] = {
        "name": name, "NAME": name.upper(), "horizon": horizon, "width": width, "lags": lags,
        "history": max(width, lags if linear is not None else 1), "calendar": len(told),
        "told": ", ".join(told) or "nothing", "version": __version__, "matrix": "", "linear": "",
    }  # fmt: skip
    if linear is not None:
        rows = ",\n".join(
            "    {"
            + ", ".join(
                f"{float(v):.9g}" + ("f" if "." in f"{v:.9g}" or "e" in f"{v:.9g}" else ".0f")
                for v in row
            )
            + "}"
            for row in linear
        )
        shape = f"[{len(linear)}][{horizon}]"
        words["matrix"] = f"\nstatic const float {name}_linear{shape} = {{\n{rows}\n}};\n"
        words["linear"] = _LINEAR % words
    return _FORECAST % words

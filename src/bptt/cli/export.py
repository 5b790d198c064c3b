"""``bptt export``: a trained model as C99 or ONNX, with its state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bptt.cli.forecast import export_forecaster, is_forecast
from bptt.cli.parse import Files, check_run, check_texts, parse
from bptt.errors import ArgumentError
from bptt.shown.text import as_json, inline


@dataclass(frozen=True)
class Export:
    """Write a trained model for a device: one C99 header and source, or an ONNX file.

    The generated code runs one time step at a time and keeps its state in a struct of yours. With
    --precision int8 the scales come from the run's own training text, and what quantisation costs is
    measured on its held-out part, the state never reset. The header holds the characters by token. Of a
    run of bptt forecast, NAME_forecast.h makes the forecast of what the network says.

    Example: bptt export runs/play --to c --precision int8 --name play
    """

    run: tyro.conf.Positional[str]
    """A run folder."""
    to: Literal["c", "onnx"]
    """What to write."""
    out: Annotated[str | None, tyro.conf.arg(metavar="PLACE")] = None
    """New folder for C, new file for ONNX; default: beside the run, RUN-c, RUN-int8, RUN.onnx."""
    name: str = "model"
    """Prefix of every identifier in the C code."""
    precision: Literal["float32", "int8"] = "float32"
    """int8: a quarter of the flash, no floating point at all."""
    output_bits: Literal[8, 16] = 8
    """Bits of an output of the int8 network."""
    activations: Literal["own", "libm"] = "own"
    """tanh and sigmoid of the float32 network: generated with it, or those of the C library."""
    calibration: int = 20_000
    """Tokens of the training text that the scales are taken from (int8)."""
    measure: int = 100_000
    """Steps of the held-out text over which to measure what int8 costs; 0 for none."""
    text: Files = ()
    """The run's own text, under the names it has now (int8)."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""

    def __post_init__(self) -> None:
        if self.measure < 0:
            raise ArgumentError("--measure >= 0", str(self.measure), "give a number of steps")
        if self.calibration < 1:
            raise ArgumentError(
                "--calibration >= 1", str(self.calibration), "give a number of tokens"
            )
        if self.to == "onnx" and (self.precision, self.activations) != ("float32", "own"):
            raise ArgumentError(
                "--to onnx without --precision int8 and --activations",
                "one of them",
                "they are of the C code; leave them out",
            )
        if self.output_bits != 8 and self.precision != "int8":
            raise ArgumentError(
                "--output-bits with --precision int8", self.precision, "leave it out"
            )
        if self.text and self.precision != "int8":
            raise ArgumentError(
                "--text with --precision int8", self.precision, "leave it out: no text is read"
            )
        if self.activations != "own" and self.precision == "int8":
            raise ArgumentError(
                "--activations with --precision float32", "int8, which has tables", "leave it out"
            )


def run(arguments: list[str]) -> int:
    """Export a run."""
    asked = parse(Export, "export", arguments)
    if is_forecast(asked.run):
        _show(asked, _forecast(asked))
        return 0
    check_run(asked.run)
    check_texts(asked.text)

    from bptt.models import LanguageModel
    from bptt.training.restore import load_model

    model, vocabulary, settings = load_model(asked.run)
    if not isinstance(model, LanguageModel):
        raise ArgumentError(
            "a run with a recurrent model",
            f"--model {settings.model}",
            "export a run trained with --model recurrent",
        )
    document = _onnx(asked, model) if asked.to == "onnx" else _c(asked, model, vocabulary, settings)
    _show(asked, document)
    return 0


def _show(asked: Export, document: dict[str, Any]) -> None:
    document = {"run": asked.run, "to": asked.to, **document}
    if asked.json:
        print(as_json(document))
    else:
        _print(document)


def _forecast(asked: Export) -> dict[str, Any]:
    """The network of a forecast, and the header that makes a forecast of what it says."""
    if asked.precision != "float32":
        raise ArgumentError(
            "--precision float32 for a run of bptt forecast",
            asked.precision,
            "leave --precision out",
        )
    return export_forecaster(asked.run, asked.to, asked.out, asked.name, asked.activations)


def _onnx(asked: Export, model: Any) -> dict[str, Any]:
    from bptt.export import export_onnx

    out = Path(asked.out or f"{Path(asked.run)}.onnx")
    export_onnx(model, _some_tokens(model), out, name=asked.name)
    return {"out": str(out), "files": [str(out)], "bytes": out.stat().st_size}


def _c(asked: Export, model: Any, vocabulary: Any, settings: Any) -> dict[str, Any]:
    from bptt.export import export_c, measure_cost

    ending = "int8" if asked.precision == "int8" else "c"
    out = asked.out or f"{Path(asked.run)}-{ending}"
    options: dict[str, Any] = {"name": asked.name, "precision": asked.precision}
    # Of a byte model the token is the byte, and a table would say nothing more.
    # Pieces are bytes that may break a character off, and a table of strings cannot say so.
    options["symbols"] = None if vocabulary.kind == "bpe" else getattr(vocabulary, "symbols", None)
    if asked.precision == "float32":
        options["activations"] = asked.activations
        export = export_c(model, _some_tokens(model), out, **options)
        return {"out": out, "files": sorted(export.files), "cost": None}

    from bptt.cli.text import own_text, shown_reading
    from bptt.files.write import check_free

    check_free(out)  # known now, or only after a minute of measuring
    with shown_reading():
        command = "export --to c --precision int8"
        corpus = own_text(command, asked.run, settings, vocabulary, asked.text)
    held_out = corpus.valid if asked.measure else None
    if asked.measure and (held_out is None or len(held_out.tokens) < 21):
        raise ArgumentError("held-out text to measure on", "none in this run", "give --measure 0")
    options |= {"output_bits": asked.output_bits}
    tokens = _tensor(corpus.train.tokens[: asked.calibration]).unsqueeze(1)
    export = export_c(model, tokens, **options)
    cost = None
    if held_out is not None:
        quantised: Any = export.quantised  # there, with int8
        cost = measure_cost(quantised, _tensor(held_out.tokens[: asked.measure + 1]).numpy())
    export.write(out)
    return {
        "out": out,
        "files": sorted(export.files),
        "cost": None if cost is None else cost.as_dict(),
    }


def _tensor(tokens: Any) -> Any:
    import torch

    return torch.as_tensor(tokens).long()


def _some_tokens(model: Any) -> Any:
    """An example input: every symbol in turn, a lane of 64."""
    import torch

    return (torch.arange(64) % model.vocabulary_size).unsqueeze(1)


def _print(document: dict[str, Any]) -> None:
    files = ", ".join(Path(file).name for file in document["files"])
    out = inline(document["out"])
    print(f"{out}: {files}")
    if document["to"] == "c":
        print(f"check it on this machine: make -C {out} run")
    cost = document.get("cost")
    if cost is None:
        return
    print(
        f"int8 beside float over {cost['steps']:,} held-out steps, state never reset: "
        f"{cost['int8_bits']:.4f} bits a token instead of {cost['float_bits']:.4f} "
        f"({cost['more_bits']:+.2%}), same choice at {cost['agreement']:.2%}"
    )
    drift = "drifts" if cost["drifts"] else "does not drift"
    print(
        f"state: largest error {cost['largest_state_error']:.3f}, root mean square "
        f"{cost['early_error']:.4f} in the first tenth and {cost['late_error']:.4f} in the last: "
        f"{drift}"
    )

"""``export_c``: a trained module as C99."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from bptt.errors import ArgumentError
from bptt.export.c_float import float_files
from bptt.export.ctext import check_name
from bptt.export.example import example_files
from bptt.export.extract import read_network, time_first
from bptt.export.folder import check_free, write_folder
from bptt.export.network import Network


@dataclass(frozen=True)
class Export:
    """An exported network.

    Attributes:
        name: the prefix of all its identifiers.
        files: texts (or bytes) by file name.
        network: what was exported.
        folder: where it was written, None if nowhere.
    """

    name: str
    files: Mapping[str, str | bytes]
    network: Network
    folder: Path | None = None

    def write(self, folder: str | os.PathLike[str]) -> Export:
        """Write the files into a new or empty folder, all or none."""
        return Export(self.name, self.files, self.network, write_folder(folder, self.files))


def export_c(
    module: nn.Module,
    example_input: Tensor,
    out: str | os.PathLike[str] | None = None,
    *,
    name: str = "model",
    activations: Literal["own", "libm"] = "own",
) -> Export:
    """Write a recurrent module as one C99 header and source, stateful, without heap.

    The generated step equals one time step of the module: ``NAME_step(&state, input, output)``, with
    the state in a struct of the caller's. For a token model the outputs are its logits.

    Args:
        module: RNN, GRU, LSTM (any number of layers, one direction), with Linear, Embedding and
            Dropout around them, or a :class:`bptt.models.LanguageModel`. It needs no training of ours.
        example_input: what the module takes; used to check that what is exported computes what the
            module computes, and in the generated ``example.c``. Integers mean tokens, which in front
            of a recurrent or linear layer become one-hot vectors.
        out: a new or empty folder; None writes nothing and only returns the texts.
        name: a C identifier, the prefix of all others.
        activations: ``"own"`` rational tanh and sigmoid, fast and the same on every machine;
            ``"libm"`` uses ``tanhf`` and ``expf``.

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
    if activations not in ("own", "libm"):
        raise ArgumentError("activations 'own' or 'libm'", repr(activations), "pick one of them")
    if out is not None:
        check_free(out)
    network = read_network(module, example_input)
    inputs: Any = time_first(network, example_input)
    files = float_files(name, network, __version__, libm=activations == "libm")
    files |= example_files(name, network, inputs)
    export = Export(name, files, network)
    return export if out is None else export.write(out)

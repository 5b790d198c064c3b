"""Which contest a case asks for, and which of them there are."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from bptt.benchmark import character, jax_peer, layers, onnx_peer, stream
from bptt.benchmark.case import Case
from bptt.benchmark.contest import Contest
from bptt.errors import DependencyError

TORCH_MODES: dict[str, Callable[[Case], Contest]] = {
    "train": layers.train,
    "infer": layers.infer,
    "packed": layers.packed,
    "reset": layers.reset,
    "stream": stream.stream,
    "model": character.model,
}
# What a peer runs: modes, cells, and the packages it takes.
OTHERS = {
    "jax": (("train", "infer"), ("rnn", "gru"), ("jax",)),
    "onnxruntime": (("infer", "stream"), ("rnn", "gru", "lstm"), ("onnx", "onnxruntime")),
}


def supports(case: Case) -> bool:
    """Whether the case's peer has its mode and cell."""
    if case.peer == "torch":
        return case.mode in TORCH_MODES
    modes, cells, _ = OTHERS[case.peer]
    return case.mode in modes and case.cell in cells


def require(peer: str) -> None:
    """Make sure that a peer is installed.

    Raises:
        DependencyError: it is not.
    """
    packages = () if peer == "torch" else OTHERS[peer][2]
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"{' and '.join(packages)} for --peer {peer}",
            f"no {' and no '.join(missing)}",
            f"pip install {' '.join(missing)}, or leave that peer out",
        )


def contest(case: Case) -> Contest:
    """The two sides of a case."""
    require(case.peer)
    if case.peer == "jax":
        return jax_peer.contest(case)
    if case.peer == "onnxruntime":
        return onnx_peer.contest(case)
    return TORCH_MODES[case.mode](case)

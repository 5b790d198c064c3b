"""TorchRL: the trajectories of a batch, however many lie in a row, in one call of the kernels.

TorchRL's GRUModule and LSTMModule cut a row of a batch where ``is_init`` says that a trajectory begins,
pad what they get, run it, and put it together again, tensordict by tensordict. Here the cut is a few
index operations on the tensors themselves; each trajectory is a lane of its own, without padding.

Limits: under ``torch.compile``, and with ``recurrent_backend="scan"`` or ``"triton"``, TorchRL's own way
is taken. With dropout between layers, the draws are others than TorchRL's.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bptt.errors import ArgumentError, ConvertWarning, DependencyError
from bptt.nn import GRU, LSTM
from bptt.nn import convert as convert_layers

M = TypeVar("M", bound=nn.Module)
_LAYERS: dict[str, type[nn.Module]] = {"gru": GRU, "lstm": LSTM}


def convert(model: M) -> M:
    """Let every GRUModule and LSTMModule inside a model run its sequences in our kernels, in place.

    Values and final states are TorchRL's, to rounding, and so are parameters, keys and modes: outside of
    ``set_recurrent_mode(True)``, as in a collector, a module takes one step. ``python_based=True`` makes
    no difference. Convert a policy before a loss or a collector copies it.

    Args:
        model: a policy, or any module that holds such modules.

    Returns:
        The same model.

    Raises:
        DependencyError: torchrl is not installed.
        ArgumentError: no such module is in it.

    Warns:
        ConvertWarning: subclasses of the two with a ``forward`` of their own were left as they are.

    Cost: one walk over the modules; no tensor is copied. A sequence then costs what the layer does.

    Example:
        >>> from torchrl.modules import GRUModule
        >>> from bptt.integrations import torchrl
        >>> module = GRUModule(3, 5, in_key="observation", out_key="features")
        >>> type(torchrl.convert(module).gru)
        <class 'bptt.nn.recurrent.GRU'>
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError("a torch.nn.Module", type(model).__name__, "pass the policy itself")
    made = _classes()
    found, left = 0, []
    for name, module in model.named_modules():
        base = next((b for b in made if isinstance(module, b)), None)
        if base is None:
            continue
        found += 1
        if isinstance(module, made[base]):
            continue
        if type(module) is not base:
            left.append(f"{name or 'the model itself'} ({type(module).__name__})")
            continue
        word = "gru" if base.__name__ == "GRUModule" else "lstm"
        layer = getattr(module, word)
        if _is_python_based(layer):
            layer.__class__ = _LAYERS[word]  # parameters of torch's names and shapes, as it is
        convert_layers(layer)
        module.__class__ = made[base]
    if not found:
        raise ArgumentError(
            "a model with a GRUModule or LSTMModule of torchrl",
            f"{type(model).__name__} without one",
            "use bptt.convert for layers of torch.nn",
        )
    if left:
        warnings.warn(
            f"bptt.integrations.torchrl left subclasses as they are: {', '.join(left)}; they run as "
            "before",
            ConvertWarning,
            stacklevel=2,
        )
    return model


def run_trajectories(
    layer: nn.Module, x: Tensor, begins: Tensor, states: tuple[Tensor, ...] | None
) -> tuple[Tensor, ...]:
    """Run a layer over rows in which trajectories follow each other.

    Args:
        layer: a GRU or LSTM of this package, ``batch_first``.
        x: ``(B, T, I)``.
        begins: ``(B, T)`` bool: a trajectory begins here; one does at the first step in any case.
        states: one or two of ``(B, T, L, H)``; a trajectory starts from those of its first step. None
            for zeros.

    Returns:
        the output ``(B, T, H)``, and each state ``(B, T, L, H)`` after the last step of every
        trajectory, zero elsewhere.
    """
    rows, steps = begins.shape
    begins = begins.clone()
    begins[:, 0] = True
    first = begins.flatten().nonzero().squeeze(1)
    lengths = torch.diff(first, append=first.new_tensor([rows * steps]))
    start = None
    if states is not None:
        parts = tuple(s.flatten(0, 1)[first].transpose(0, 1).contiguous() for s in states)
        start = parts if len(parts) > 1 else parts[0]
    if len(first) == rows:  # nothing to cut
        y, final = layer(x, start)
    else:
        packed, place = _packed(x.flatten(0, 1), first, lengths)
        rows_of, final = layer(packed, start)
        y = torch.empty_like(rows_of.data).index_copy(0, place, rows_of.data)
        y = y.unflatten(0, (rows, steps))
    last = first + lengths - 1
    ended = [s.transpose(0, 1) for s in (final if isinstance(final, tuple) else (final,))]
    return y, *(
        s.new_zeros(rows * steps, *s.shape[1:]).index_copy(0, last, s).unflatten(0, (rows, steps))
        for s in ended
    )


def _packed(x: Tensor, first: Tensor, lengths: Tensor) -> tuple[PackedSequence, Tensor]:
    """Trajectories behind each other in ``(N, I)`` as a packed sequence, and where each row came from."""
    sorted_lengths, order = lengths.sort(descending=True, stable=True)
    step = torch.arange(int(sorted_lengths[0]), device=x.device)
    runs = sorted_lengths > step[:, None]  # (T', lanes)
    place = (first[order] + step[:, None])[runs]
    back = torch.empty_like(order).index_copy(0, order, torch.arange(len(order), device=x.device))
    return PackedSequence(x[place], runs.sum(1).cpu(), order, back), place


def _is_python_based(layer: nn.Module) -> bool:
    from torchrl.modules.tensordict_module import rnn

    return type(layer) in (rnn.GRU, rnn.LSTM)


@cache
def _classes() -> dict[type, type]:
    """TorchRL's two modules, and what becomes of each."""
    try:
        from tensordict.nn import dispatch
        from torchrl.modules import GRUModule, LSTMModule
    except ImportError:
        raise DependencyError("torchrl", "none installed", "pip install 'bptt[rl]'") from None

    def made(base: Any, word: str) -> type:
        @dispatch
        def forward(self: Any, tensordict: Any) -> Any:
            layer, shape = getattr(self, word), tensordict.shape
            theirs = (
                not self.recurrent_mode
                or not shape
                or self.recurrent_backend not in ("pad", "auto")
                or torch.compiler.is_compiling()
                or not isinstance(layer, _LAYERS[word])
            )
            if theirs:
                return base.forward(self, tensordict)
            key, *state_keys = [k for k in self.in_keys if k != "is_init"]
            x = tensordict[key]
            held = [tensordict.get(k, None) for k in state_keys]
            given = [h for h in held if h is not None]
            if given and len(given) != len(held):
                raise ArgumentError(
                    f"{' and '.join(map(str, state_keys))}, or none of them",
                    "some of them",
                    "let the environment's primer write both",
                )
            outputs = run_trajectories(
                layer,
                x.reshape(-1, shape[-1], x.shape[-1]),
                tensordict["is_init"].reshape(-1, shape[-1]),
                tuple(h.reshape(-1, shape[-1], *h.shape[-2:]) for h in given) or None,
            )
            for name, value in zip(self.out_keys, outputs, strict=True):
                tensordict.set(name, value.reshape(*shape, *value.shape[2:]))
            return tensordict

        name = f"Whole{base.__name__}"
        return type(
            name, (base,), {"__module__": __name__, "__doc__": base.__doc__, "forward": forward}
        )

    return {GRUModule: made(GRUModule, "gru"), LSTMModule: made(LSTMModule, "lstm")}


def __getattr__(name: str) -> Any:
    """The made classes under their names, where a pickle looks for them."""
    if name.startswith("Whole"):
        for made in _classes().values():
            if made.__name__ == name:
                return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

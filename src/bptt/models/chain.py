"""A model as a chain of parts, in the order in which its forward uses them.

``torch.fx`` runs the forward once on symbols, with every part as a leaf; the chain is the way back from
what is returned to what came in. Functions that are parts without weights (``torch.relu``,
``F.softmax``) stand in the chain as the module that does the same. What only moves axes is passed over.
A forward that cannot run on symbols (it asks for sizes) is read in the order in which its parts were
registered.

Neither way is a proof: whoever uses a chain compares it with the model itself, by :func:`outputs_of`.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bptt.errors import ArgumentError
from bptt.models.language import LanguageModel
from bptt.nn.linear import LinearRecurrent

RECURRENT = (nn.RNNBase, LinearRecurrent)
NOTHING = (nn.Dropout, nn.Identity)
ACTIVATIONS = (nn.Tanh, nn.Sigmoid, nn.ReLU, nn.LeakyReLU, nn.Softmax)
NORMS = (nn.LayerNorm, nn.BatchNorm1d)
PARTS = (*RECURRENT, nn.Linear, nn.Embedding, *NOTHING, *ACTIVATIONS, *NORMS)
NAMES = (
    "RNN, GRU, LSTM, MinGRU, LRU, Linear, Embedding, Tanh, ReLU, Sigmoid, LeakyReLU, Softmax, "
    "LayerNorm, BatchNorm1d, Dropout, Identity"
)
# Both sides round to 1e-7 a step, and a wrong order, a missing part or a scaling shows at 1e-2 and above.
SAME = 1e-3


@dataclass(frozen=True, eq=False)
class Part:
    """One part: where it is in the model, and the module; of a function the module that does the same."""

    path: str
    module: nn.Module


@dataclass(frozen=True)
class Chain:
    """The parts in order, and what else the forward computes on the way (names of operations)."""

    parts: tuple[Part, ...]
    others: tuple[str, ...] = ()

    @property
    def batch_first(self) -> bool:
        """Whether lanes come before time.

        Raises:
            ArgumentError: some recurrent layers say so and some do not.
        """
        kinds = {bool(p.module.batch_first) for p in self.parts if isinstance(p.module, RECURRENT)}
        if len(kinds) > 1:
            raise ArgumentError(
                "recurrent layers that agree on batch_first", "both kinds", "make them alike"
            )
        return True in kinds


def read_chain(model: nn.Module) -> Chain:
    """The parts of a model in the order of its forward.

    Cost: one pass over symbols, which computes nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.GRU(4, 5))
        >>> [part.path for part in read_chain(model).parts]
        ['0', '1', '2']
    """
    if _is_part(model):
        return Chain((Part("", model),))
    if isinstance(model, LanguageModel):
        return Chain(tuple(registered(model)))
    try:
        with evaluating(model):
            found = _from_graph(model)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError):
        # Symbols have no size and no truth: the forward asked for one.
        return Chain(tuple(registered(model)))
    return (
        found if found.parts and not found.others else Chain(tuple(registered(model)), found.others)
    )


def registered(module: nn.Module, path: str = "") -> Iterator[Part]:
    """The parts in the order in which they were registered."""
    # Not named_children: it leaves out a module that is there twice, and a Sequential may run it twice.
    children = [(name, child) for name, child in module._modules.items() if child is not None]
    if _is_part(module) or not children:
        yield Part(path, module)
        return
    for name, child in children:
        yield from registered(child, f"{path}.{name}" if path else name)


def outputs_of(model: nn.Module, chain: Chain, example: Tensor) -> Tensor:
    """What the model itself computes for an example, in its own order of axes.

    A Sequential over a recurrent layer cannot be called, since the layer returns a pair; its parts are
    called one after another, which is what it means.

    Raises:
        ArgumentError: the model does not take the example, or returns no tensor.
    """
    try:
        with evaluating(model):
            if type(model) is nn.Sequential:
                return run_parts([part.module for part in chain.parts], example)
            result = model(example)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(
            "a model that takes the example input",
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            "pass one input as you would call the model with it",
        ) from None
    output = result
    while isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ArgumentError(
            "a model that returns a tensor, or a pair (tensor, state)",
            type(output).__name__,
            "export the part of the model that does",
        )
    return output


def run_parts(parts: list[nn.Module], x: Tensor) -> Tensor:
    """The parts one after another over a sequence; a BatchNorm1d over the last axis, wherever time is."""
    for part in parts:
        if isinstance(part, RECURRENT):
            x = part(x)[0]
        elif isinstance(part, nn.BatchNorm1d):
            x = part(x.flatten(0, -2)).reshape(x.shape)
        else:
            x = part(x)
    return x


def same_up_to_axes(actual: Tensor, expected: Tensor, whole: bool = False) -> bool:
    """Whether the model gave what is expected (T, B, O), lanes first or only the last step allowed."""
    candidates = [expected, expected.transpose(0, 1), expected[-1]]
    for candidate in candidates[:1] if whole else candidates:
        if candidate.shape == actual.shape:
            unit = max(float(candidate.abs().max()), 1e-6)
            if float((candidate - actual).abs().max()) <= SAME * unit:
                return True
    return False


def not_a_chain(model: nn.Module, chain: Chain) -> ArgumentError:
    """The error of a model that computes something else than its parts in a row."""
    others = f"; it also computes {', '.join(chain.others)}" if chain.others else ""
    return ArgumentError(
        "a forward that calls its layers one after another and nothing else",
        f"{type(model).__name__}, whose output on the example input is not that of "
        + ", ".join(part.path or type(part.module).__name__ for part in chain.parts)
        + others,
        "put the layers into an nn.Sequential in the right order, and compute the rest beside it",
    )


def refuse_others(model: nn.Module, chain: Chain) -> None:
    """Raise for a forward that agrees on an example, and computes more than its parts all the same."""
    if chain.others:
        raise ArgumentError(
            "a forward that calls its layers one after another and nothing else",
            f"{type(model).__name__}, which also computes {', '.join(chain.others)}",
            "leave it out of the forward, or put the layers into an nn.Sequential and compute it beside",
        )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for a while; then every part is in the mode that it was in."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in before:
            part.training = training


def _is_part(module: nn.Module) -> bool:
    return isinstance(module, PARTS)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_part(m) or not m._modules


def _softmax(dim: Any = None, *_: Any, **__: Any) -> nn.Module:
    return nn.Softmax(dim)


def _leaky(negative_slope: float = 0.01, *_: Any, **__: Any) -> nn.Module:
    return nn.LeakyReLU(negative_slope)


def _dropped(p: float = 0.5, training: bool = True, *_: Any, **__: Any) -> nn.Module | None:
    return None if training and p else nn.Identity()


# A function of torch, or a method of a tensor, as the module that does the same.
_AS_MODULE: dict[Any, Callable[..., nn.Module | None]] = {
    **dict.fromkeys((torch.relu, F.relu, "relu"), lambda *_, **__: nn.ReLU()),
    **dict.fromkeys((torch.tanh, F.tanh, "tanh"), lambda *_, **__: nn.Tanh()),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid"), lambda *_, **__: nn.Sigmoid()),
    **dict.fromkeys((torch.softmax, F.softmax, "softmax"), _softmax),
    F.leaky_relu: _leaky,
    F.dropout: _dropped,
}
# What changes where numbers stand and none of them: the comparison with the model sees a wrong place.
_PLACES: tuple[Any, ...] = (
    operator.getitem, torch.transpose, torch.permute, torch.squeeze, torch.unsqueeze, torch.flatten,
    torch.reshape, "transpose", "permute", "squeeze", "unsqueeze", "flatten", "reshape", "view",
    "contiguous", "clone", "detach", "float",
)  # fmt: skip


def _from_graph(model: nn.Module) -> Chain:
    parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    fixed = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    graph = _Tracer().trace(model, fixed)
    found: list[Part] = []
    others: list[str] = []
    node = next(n for n in graph.nodes if n.op == "output").args[0]
    while True:
        while isinstance(node, tuple | list) and node:
            node = node[0]
        if not isinstance(node, fx.Node) or node.op == "get_attr":
            others.append(str(getattr(node, "target", "a constant")))
            break
        if node.op == "placeholder":
            break
        if node.op == "call_module":
            found.append(Part(str(node.target), model.get_submodule(str(node.target))))
        elif node.target not in _PLACES:
            make = _AS_MODULE.get(node.target)
            words = {name: value for name, value in node.kwargs.items() if name != "input"}
            plain = not any(isinstance(a, fx.Node) for a in (*node.args[1:], *words.values()))
            module = make(*node.args[1:], **words) if make and plain else None
            if module is None:
                others.append(_called(node))
            else:
                found.append(Part(_called(node), module))
        # ``2 * x`` has the number first.
        given = (*node.args, node.kwargs.get("input"))
        node = next((a for a in given if isinstance(a, fx.Node | tuple | list)), None)
    return Chain(tuple(reversed(found)), tuple(reversed(others)))


def _called(node: fx.Node) -> str:
    target: Any = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))

"""Where a number went wrong: the chunk that did it is run once more, and watched.

What is looked for, in this order: a parameter that is no longer finite; a state or a module's output
that leaves the float range on the way forward, and the first step at which it does; ∂L/∂h_t that
leaves it on the way back, and how many steps back that is; at last the parameters' own gradients.

Limits: the chunk is differentiated in one piece, whatever the estimator; a gradient that only the
estimator's own amplification made too large (``Randomized``) is named by its parameter alone. Linear
recurrences and models without any have no recorded states: their modules and parameters are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bptt.data import Chunk
from bptt.errors import BpttError
from bptt.nn import carry as carries
from bptt.nn.carry import Carry
from bptt.recurrence import Call, Found, Recorder, assemble, total_gradient
from bptt.recurrence.record import Tokens

Loss = Callable[[Tensor, Tensor], Tensor]
# Of causes: what has the lower number explains the rest.
ORDER = {"parameter": 0, "state": 1, "output": 1, "loss": 2, "gradient": 3}
JOINED = {"output": "of ", "gradient": "by ", "loss": "of "}


@dataclass(frozen=True)
class Origin:
    """Where a number left the float range.

    Attributes:
        what: ``"parameter"``, ``"state"``, ``"output"``, ``"loss"`` or ``"gradient"``.
        where: a parameter, a module or a state by its name in the model.
        step: of the chunk, from 0; None where it has none.
        back: how many steps before the chunk's last one; None where it has none.
        lane: counted over all processes; None where it has none.
        growth: for a gradient: ‖∂L/∂h_t‖ at the chunk's last step and at the last one on the way back
            that was still finite; None where it was not recorded.
    """

    what: str
    where: str
    step: int | None = None
    back: int | None = None
    lane: int | None = None
    growth: tuple[float, float] | None = None

    def __str__(self) -> str:
        """One clause.

        Example:
            >>> print(Origin("gradient", "h_l0 of recurrent", 3, 60, 2, (0.5, 1e38)))
            gradient by h_l0 of recurrent out of range at step 3 of the chunk, 60 steps back, in lane 2 (its norm went from 0.5 to 1e+38)
            >>> print(Origin("parameter", "output.bias"))
            parameter output.bias out of range
        """  # noqa: E501
        text = f"{self.what} {JOINED.get(self.what, '')}{self.where} out of range"
        if self.step is not None:
            text += f" at step {self.step} of the chunk"
            if self.what == "gradient":
                text += f", {self.back} steps back"
        if self.lane is not None:
            text += f", in lane {self.lane}"
        if self.growth is not None:
            text += f" (its norm went from {self.growth[0]:.3g} to {self.growth[1]:.3g})"
        return text

    def as_dict(self) -> dict[str, Any]:
        """For the metrics; what is None is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts causes before their consequences: forward by step, backward by how far back."""
        far = self.back if self.what == "gradient" else self.step
        return ORDER[self.what], -1 if far is None else far


def locate(model: nn.Module, chunk: Chunk, carry: Carry, loss: Loss) -> Origin | None:
    """Run a chunk once more and say where it leaves the float range.

    Args:
        model: takes ``(x, carry, reset=)``; its ``.grad`` is None afterwards.
        chunk: the one that did it.
        carry: what it began with, None for a fresh start.
        loss: ``loss(output, target) -> scalar``.

    Returns:
        the :class:`Origin`; None when everything is finite.

    Cost: one more forward and backward pass with the states kept, memory of the whole chunk.

    Example:
        >>> import torch
        >>> from bptt.data import Lanes
        >>> from bptt.models import LanguageModel, token_loss
        >>> chunk = Lanes(torch.arange(9).numpy(), [0], batch=2, chunk=4).take()
        >>> model = LanguageModel(9, cell="rnn", hidden=3)
        >>> locate(model, chunk, None, token_loss) is None
        True
        >>> with torch.no_grad():
        ...     _ = model.output.bias.fill_(torch.inf)
        >>> print(locate(model, chunk, None, token_loss))
        parameter output.bias out of range
    """
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            return Origin("parameter", name)
    for state in carries.tensors(carry):
        if lanes := _bad(state.movedim(1, 0)):
            return Origin("state", "the carry that the chunk began with", lane=lanes[0])
    found: list[Found] = []
    calls: list[Call] = []
    seen: list[Origin] = []
    recorder = Recorder(model, lambda: True, calls.extend)
    try:
        with _outputs_watched(model, tuple(chunk.inputs.shape), seen), torch.enable_grad():
            reset = {} if chunk.fresh or chunk.reset is None else {"reset": chunk.reset}
            value = loss(model(chunk.inputs, carry, **reset)[0], chunk.targets)
            forward = list(seen)
            value.backward()
    finally:
        recorder.remove()
    with suppress(BpttError):  # what cannot be replayed has no recorded states
        found = assemble(calls)
    states = [_state_forward(one) for one in found]
    candidates = [origin for origin in (*states, *forward) if origin is not None]
    if candidates:
        model.zero_grad()
        return min(candidates, key=lambda o: o.rank)
    if not bool(value.isfinite()):
        model.zero_grad()
        return Origin("loss", "finite predictions")
    gradients = [_gradient_backward(one) for one in found]
    candidates = [o for o in (*gradients, *seen) if o is not None]
    origin = min(candidates, key=lambda o: o.rank) if candidates else _own_gradient(model)
    model.zero_grad()
    return origin


def _bad(rows: Tensor) -> list[int]:
    """The rows, along the first axis, with a number that is not finite."""
    wrong = ~rows.reshape(rows.shape[0], -1).isfinite().all(1)
    return [int(i) for i in wrong.nonzero().flatten()]


def _first(values: Tensor) -> tuple[int, int] | None:
    """``(T, B, …)``: the first step with a number that is not finite, and its first lane there."""
    steps = _bad(values)
    return (steps[0], _bad(values[steps[0]])[0]) if steps else None


def _state_forward(one: Found) -> Origin | None:
    recurrence = one.recurrence
    for label, state in zip(recurrence.labels, recurrence.after, strict=True):
        if place := _first(state):
            back = recurrence.steps - 1 - place[0]
            return Origin("state", _named(label, one.name), place[0], back, place[1])
    return None


def _gradient_backward(one: Found) -> Origin | None:
    recurrence = one.recurrence
    total = total_gradient(recurrence, recurrence.linearize(), one.direct)
    for label, gradient in zip(recurrence.labels, total, strict=True):
        steps = _bad(gradient)
        if not steps:
            continue
        lane = _bad(gradient[steps[-1]])[0]
        norms = torch.linalg.vector_norm(gradient[:, lane].double(), dim=-1)
        last_sound = min(steps[-1] + 1, recurrence.steps - 1)
        growth = (float(norms[-1]), float(norms[last_sound]))
        return Origin(
            "gradient", _named(label, one.name), steps[-1], recurrence.steps - 1 - steps[-1], lane,
            growth if all(map(_finite, growth)) else None,
        )  # fmt: skip
    return None


def _own_gradient(model: nn.Module) -> Origin | None:
    """By the parameters alone: one that is not finite, else one whose norm is not."""
    gradients = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
    for name, gradient in gradients:
        if not bool(gradient.isfinite().all()):
            return Origin("gradient", name)
    norms = {name: float(torch.linalg.vector_norm(g)) for name, g in gradients}
    if not norms:
        return None
    largest = max(norms, key=norms.__getitem__)
    whole = sum(n * n for n in norms.values()) ** 0.5
    limit = max(torch.finfo(g.dtype).max for _, g in gradients)
    return Origin("gradient", largest) if not whole <= limit else None


def _named(label: str, module: str) -> str:
    return f"{label} of {module or 'the model'}"


def _finite(value: float) -> bool:
    return abs(value) < float("inf")


@contextmanager
def _outputs_watched(
    model: nn.Module, shape: tuple[int, ...], seen: list[Origin]
) -> Iterator[None]:
    """Note in ``seen`` every module's output that is not finite, then every gradient that arrives at
    one and is not; each list in the order of the computation."""
    handles: list[Any] = []
    patched: list[Tokens] = []

    def look(name: str, output: Any) -> None:
        for tensor in carries.tensors(output):
            if tuple(tensor.shape[:2]) != shape or not tensor.is_floating_point():
                continue
            if place := _first(tensor.detach()):
                seen.append(_origin("output", name, place, shape))
            if tensor.requires_grad:
                tensor.register_hook(lambda g, name=name: arrived(name, g))

    def arrived(name: str, gradient: Tensor) -> None:
        steps = _bad(gradient)
        if steps:
            place = (steps[-1], _bad(gradient[steps[-1]])[0])
            seen.append(_origin("gradient", f"the output of {name}", place, shape))

    def patch(name: str, module: Any) -> None:
        def around(inner: Any, *args: Any, **kwargs: Any) -> Any:
            output = inner(*args, **kwargs)
            look(name, output)
            return output

        patched.append(Tokens(module, around))

    for name, module in model.named_modules():
        name = name or "the model"
        handles.append(module.register_forward_hook(lambda m, a, o, name=name: look(name, o)))
        # Our layers' entrance for tokens is no forward, so that hooks do not see it.
        if hasattr(module, "forward_tokens"):
            patch(name, module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for tokens in patched:
            tokens.remove()


def _origin(what: str, name: str, place: tuple[int, int], shape: tuple[int, ...]) -> Origin:
    return Origin(what, name, place[0], shape[0] - 1 - place[0], place[1])

"""What every estimator has in common: its face, what it returns, and the checks on what it is given."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bptt.errors import ArgumentError, DtypeError, ShapeError
from bptt.files.read import shown
from bptt.nn import carry as carries
from bptt.nn.carry import Carry
from bptt.nn.inputs import as_lengths

# Where an estimator's own random numbers come from.


def check_generator(generator: torch.Generator | None) -> None:
    """Refuse a generator that cannot be drawn from on the CPU."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        got = getattr(generator, "device", type(generator).__name__)
        raise ArgumentError(
            "a torch.Generator on the CPU",
            f"{got}",
            "pass torch.Generator().manual_seed(0), or leave it out",
        )


def source_of(generator: torch.Generator | None) -> torch.Generator:
    """The generator to draw from in one call.

    A given one is used as it is: its state is the caller's, to seed and to save, and torch's global
    generator, which dropout draws from, is not touched. Without one, a fresh generator is seeded by
    one number out of the global one: repeatable by ``torch.manual_seed``, restored with its state.
    """
    if generator is not None:
        return generator
    return torch.Generator("cpu").manual_seed(int(torch.randint(2**63 - 1, (), device="cpu")))


Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """What one call of an estimator did.

    Attributes:
        loss: scalar, detached: the loss the user named, over the whole input.
        carry: the state after the last step, detached, to be handed to the next call.
        terms: number of loss terms that were scored.
        depth: ``(T,)`` int64: how many steps back from its own the loss at each step reached, where
            no reset stands in between.
    """

    loss: Tensor
    carry: Carry
    terms: int
    depth: Tensor


class Estimator(ABC):
    """A way to take the gradient through time.

    Subclasses are frozen dataclasses; an instance is a value that any trainer can pass around.
    """

    @abstractmethod
    def backward(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        carry: Carry = None,
        loss: Loss | None = None,
        *,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Step:
        """Add the gradient of ``loss`` to the ``.grad`` of the model's parameters.

        Args:
            model: takes ``(x, carry)`` and returns ``(output, carry)``; takes ``reset=`` and
                ``lengths=`` too where these are given, as the layers of ``bptt.nn`` do.
            inputs: ``(T, B, …)``, or ``(B, T, …)`` with ``batch_first``.
            targets: same leading axes as the inputs.
            carry: the state the sequence begins with, detached; None starts fresh.
            loss: ``loss(output, target) -> scalar``, a mean or a sum over its terms. What a mean over
                pieces must know, ``reduction``, ``ignore_index`` and class weights, is read from
                ``torch.nn.CrossEntropyLoss`` and ``NLLLoss``, and from a ``functools.partial`` of
                ``F.cross_entropy`` or ``F.nll_loss``. What a function of your own ignores or weighs
                cannot be seen, and its mean is then taken per target: pass such a partial, or make
                it a sum and say ``reduction="sum"``.
            reset: bool, the inputs' leading two axes; the state is zero before a marked step.
            lengths: ``(B,)`` int, valid steps of each lane, 0…T. The carry that comes back is that
                after each lane's last one. The loss stays the one given: name the padding in the
                targets (``ignore_index``), or weigh it out, if it is not to be scored.

        Returns:
            The :class:`Step`; its carry is detached.

        Raises:
            ArgumentError, ShapeError: what does not fit, and what to do.
        """

    def state_dict(self) -> dict[str, Any]:
        """What the estimator remembers from call to call, as JSON takes it; most remember nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what :meth:`state_dict` said."""
        if state:
            raise ArgumentError(
                f"no state for {type(self).__name__}",
                shown(state),
                "resume with the estimator the state was saved from",
            )


def check_call(carry: Carry, loss: Loss | None, inputs: Tensor, targets: Tensor, axis: int) -> Loss:
    """Refuse a call that could only go wrong later, or worse, silently."""
    if loss is None or not callable(loss):
        raise ArgumentError(
            "a loss function", repr(loss), "pass loss=, e.g. loss=torch.nn.functional.mse_loss"
        )
    if carries.holds_graph(carry):
        raise ArgumentError(
            "a carry without a graph",
            "one that still reaches into an earlier chunk",
            "pass step.carry, or bptt.carry.detach(carry) (docs/mistakes.md#missing-detach)",
        )
    for name, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise DtypeError(f"{name} as a tensor", type(value).__name__, "convert them first")
    if inputs.dim() <= axis or targets.dim() <= axis or inputs.shape[axis] != targets.shape[axis]:
        raise ShapeError(
            "inputs and targets with the same number of time steps",
            f"shapes {tuple(inputs.shape)} and {tuple(targets.shape)}, time on axis {axis}",
            "give one target for every step; set batch_first to where your time axis is",
        )
    if inputs.shape[axis] == 0:
        raise ShapeError("at least one time step", "none", "skip the empty batch")
    check_lanes(carry, inputs, axis)
    return loss


def check_lengths(lengths: Tensor | None, inputs: Tensor, axis: int) -> Tensor | None:
    """Lengths of a whole sequence; its pieces get what is left of them."""
    if lengths is None:
        return None
    lanes, steps = inputs.shape[1 - axis], inputs.shape[axis]
    lengths = as_lengths(lengths)
    if tuple(lengths.shape) != (lanes,):
        raise ShapeError(
            f"lengths of shape (B={lanes},)", f"{tuple(lengths.shape)}", "give one length a lane"
        )
    low, high = int(lengths.min()), int(lengths.max())
    if low < 0 or high > steps:
        raise ArgumentError(
            f"lengths from 0 to T={steps}", f"{low} to {high}", "pad the input to the longest lane"
        )
    return lengths


def check_lanes(carry: Carry, inputs: Tensor, axis: int) -> None:
    """Refuse a carry of another batch, which a model might broadcast without a word.

    The lane stands on one of the two leading axes of a state; with unbatched inputs there is none.
    """
    if inputs.dim() < 2 or (inputs.dim() == 2 and inputs.is_floating_point()):
        return
    lanes = inputs.shape[1 - axis]
    for state in carries.tensors(carry):
        if state.dim() >= 2 and lanes not in state.shape[:2]:
            raise ShapeError(
                f"a carry of the inputs' batch, B={lanes}",
                f"a state of shape {tuple(state.shape)}",
                "pass the carry of these same lanes, or None for a fresh start",
            )


def run_model(
    model: nn.Module,
    inputs: Tensor,
    carry: Carry,
    reset: Tensor | None,
    lengths: Tensor | None = None,
    of: nn.Module | None = None,
):
    """Call the model and check that it answers ``(output, carry)``; ``of``: whose call ``model`` is."""
    marks = {}
    if reset is not None:
        marks["reset"] = reset
    if lengths is not None:
        marks["lengths"] = lengths
    try:
        result = model(inputs, carry, **marks)
    except TypeError as error:
        refused = [name for name in marks if f"unexpected keyword argument '{name}'" in str(error)]
        if refused:
            raise ArgumentError(
                f"a model that takes {refused[0]}=",
                str(error),
                f"turn torch's layers into ours with bptt.convert(model) and hand {refused[0]}= on to "
                "them",
            ) from error
        if _takes_state(of or model):
            raise
        raise ArgumentError(
            "a model (x, carry) -> (output, carry)",
            f"{type(of or model).__name__}, whose forward takes no second argument",
            "give its forward a second argument, the carry (None at the start), hand it to the recurrent "
            "layer, and return (output, new carry)",
        ) from error
    if not isinstance(result, tuple) or len(result) != 2:
        raise ArgumentError(
            "a model (x, carry) -> (output, carry), one that returns (output, carry)",
            f"one that returns {type(result).__name__}",
            "return the state beside the output, as torch's recurrent layers do",
        )
    return result


def _takes_state(model: nn.Module) -> bool:
    """Whether a model can be called with a second argument; one whose signature is hidden may be."""
    try:
        inspect.signature(model.forward).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def call_loss(loss: Loss, output: Any, target: Tensor) -> Tensor:
    """Call the loss and check that it is a scalar."""
    value = loss(output, target)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            "a scalar loss", f"{shape}", "use reduction='mean' or 'sum', or call .mean() on it"
        )
    return value.reshape(())


def depth_of_chunks(steps: int, chunk: int) -> Tensor:
    """How far back each loss reaches when the gradient stops at every ``chunk``-th step."""
    return torch.arange(steps, device="cpu") % chunk

"""A classifier and a forecaster over any recurrent layer.

The layer is called as ``layer(x, carry)`` and returns ``(y, carry)``, as torch's layers and ours do; it
is given ``lengths`` and ``reset`` where these are given, which ours take. Time is axis 0, or axis 1
where the layer says ``batch_first``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.errors import ArgumentError, ShapeError, whole
from bptt.gradients.step import run_model
from bptt.models.window import check_dropout, check_sizes
from bptt.nn.carry import Carry
from bptt.nn.inputs import as_lengths


def features_of(layer: nn.Module) -> int:
    """Numbers the layer hands out at each step.

    Example:
        >>> features_of(nn.GRU(3, 5, bidirectional=True))
        10
    """
    size = getattr(layer, "proj_size", 0) or getattr(layer, "hidden_size", None)
    if size is None:
        raise ArgumentError(
            "a layer with hidden_size", type(layer).__name__, "give its output size as features="
        )
    return whole("hidden_size", size) * (2 if getattr(layer, "bidirectional", False) else 1)


def _features(layer: nn.Module, given: int | None) -> int:
    return features_of(layer) if given is None else whole("features", given)


class Classifier(nn.Module):
    """One label a sequence, or one a step: logits = W ȳ + b, with ȳ the layer's output, pooled over time.

    Args:
        layer: any recurrent layer.
        classes: C.
        pool: ``"last"`` (the last valid step), ``"mean"`` (over the valid steps), or ``"none"`` (logits
            at every step, as the estimators and the tasks of this package take them).
        dropout: share of ȳ dropped, while training.
        features: size of the layer's output, where the layer has no ``hidden_size``.

    Raises:
        ArgumentError: a size or share is out of range, or the pooling is unknown.

    Cost: the layer's, and 2·C·H a lane, or a step with ``"none"``.

    Example:
        >>> import bptt
        >>> model = Classifier(bptt.nn.GRU(3, 16), classes=4)
        >>> logits, carry = model(torch.randn(7, 2, 3), lengths=torch.tensor([7, 4]))
        >>> logits.shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        layer: nn.Module,
        classes: int,
        pool: str = "last",
        dropout: float = 0.0,
        features: int | None = None,
    ) -> None:
        super().__init__()
        (classes,) = check_sizes(classes=classes)
        dropout = check_dropout(dropout)
        if pool not in ("last", "mean", "none"):
            raise ArgumentError("pool: last, mean or none", repr(pool), "pick one of them")
        self.layer, self.pool, self.dropout = layer, pool, dropout
        self.output = nn.Linear(_features(layer, features), classes)
        # Uniform predictions at the start, as in the language model.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        x: Tensor,
        carry: Carry = None,
        *,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        """Classify.

        Args:
            x: ``(T, B, I)``, or what the layer takes.
            carry: the state to begin with, None for a fresh start.
            reset: bool, x's leading two axes.
            lengths: ``(B,)`` valid steps of each lane, at least 1 to be pooled. What lies beyond them has
                no effect, neither on the logits nor on the carry.

        Returns:
            logits ``(B, C)``, or ``(T, B, C)`` without pooling; and the carry.

        Raises:
            ArgumentError: the layer takes no lengths or no reset, or a lane to be pooled is empty.
        """
        lengths = None if lengths is None else as_lengths(lengths).to(x.device)
        y, carry = run_model(self.layer, x, carry, reset, lengths)
        if self.pool != "none":
            y = self._pooled(y, lengths)
        return self.output(F.dropout(y, self.dropout, self.training)), carry

    def _pooled(self, y: Tensor, lengths: Tensor | None) -> Tensor:
        if y.dim() != 3:
            raise ShapeError(
                "a layer's output of 3 axes", f"{tuple(y.shape)}", "add the batch axis"
            )
        y = y.transpose(0, 1) if getattr(self.layer, "batch_first", False) else y
        if lengths is None:
            return y[-1] if self.pool == "last" else y.mean(0)
        if lengths.numel() and int(lengths.min()) < 1:
            raise ArgumentError("at least one step a lane", "an empty lane", "leave it out")
        if self.pool == "last":
            return y[lengths - 1, torch.arange(y.shape[1], device=y.device)]
        live = torch.arange(y.shape[0], device=y.device)[:, None] < lengths
        return torch.where(live.unsqueeze(-1), y, 0).sum(0) / lengths.unsqueeze(-1)


class Forecaster(nn.Module):
    """The next value at every step: ŷ_t = x_t + W h_t + b, or without x_t.

    With ``residual`` an untrained model says "as it is now", which is what a forecast has to beat, and a
    trend beyond the values trained on is followed.

    Args:
        layer: any recurrent layer.
        outputs: O, how many of the inputs, the first ones, are forecast.
        residual: whether x_t is added.
        dropout: share of h dropped, while training.
        features: size of the layer's output, where the layer has no ``hidden_size``.

    Raises:
        ArgumentError: a size or share is out of range.

    Cost: the layer's, and 2·O·H a step.

    Example:
        >>> import bptt
        >>> model = Forecaster(bptt.nn.GRU(1, 16))
        >>> x = torch.randn(7, 2, 1)
        >>> bool((model(x)[0] == x).all()), model.forecast(x, 3).shape
        (True, torch.Size([3, 2, 1]))
    """

    def __init__(
        self,
        layer: nn.Module,
        outputs: int = 1,
        residual: bool = True,
        dropout: float = 0.0,
        features: int | None = None,
    ) -> None:
        super().__init__()
        (outputs,) = check_sizes(outputs=outputs)
        dropout = check_dropout(dropout)
        self.layer, self.residual, self.dropout = layer, residual, dropout
        self.outputs = outputs
        self.output = nn.Linear(_features(layer, features), outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        x: Tensor,
        carry: Carry = None,
        *,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        """Forecast at every step; arguments as in :meth:`Classifier.forward`.

        Returns:
            ŷ ``(T, B, O)`` and the carry.
        """
        if self.residual and x.shape[-1] < self.outputs:
            raise ShapeError(
                f"at least {self.outputs} inputs to add the change to", f"{x.shape[-1]}",
                "build the forecaster with residual=False",
            )  # fmt: skip
        h, carry = run_model(self.layer, x, carry, reset, lengths)
        y = self.output(F.dropout(h, self.dropout, self.training))
        return (y + x[..., : self.outputs] if self.residual else y), carry

    @torch.no_grad()
    def forecast(self, x: Tensor, steps: int, carry: Carry = None) -> Tensor:
        """Run on alone: each forecast is the next step's input. For models of the next step.

        Args:
            x: what is known, ``(T, B, O)``; time on axis 0.
            steps: how far to go on, at least 1.
            carry: the state before ``x``.

        Returns:
            ``(steps, B, O)``.

        Raises:
            ShapeError: the model forecasts other numbers than it reads.
        """
        (steps,) = check_sizes(steps=steps)
        if x.shape[-1] != self.outputs or getattr(self.layer, "batch_first", False):
            raise ShapeError(
                f"inputs (T, B, O={self.outputs})", f"{tuple(x.shape)}",
                "forecast all that is read, time first",
            )  # fmt: skip
        found: list[Tensor] = []
        while len(found) < steps:
            y, carry = self(x, carry)
            x = y[-1:]
            found.append(x)
        return torch.cat(found)


def pinball(said: Tensor, wanted: Tensor, coverage: float) -> Tensor:
    """The mean pinball loss of three quantiles over all targets that are known.

    max(q e, (q - 1) e) for the error e = y - ŷ and q = (1 - c) / 2, 1/2, (1 + c) / 2 of a coverage c.

    Args:
        said: ``(T, B, 3 H)``. wanted: ``(T, B, H)``, NaN where unknown.

    Source: R. Koenker and G. Bassett, 1978, Regression quantiles.
    """
    quantiles = [(1 - coverage) / 2, 0.5, (1 + coverage) / 2]
    shares = torch.tensor(quantiles, dtype=said.dtype, device=said.device)
    errors = wanted.unsqueeze(-1) - said.unflatten(-1, (-1, 3))
    known = errors.isfinite()
    errors = errors.where(known, 0)
    return torch.maximum(shares * errors, (shares - 1) * errors).sum() / known.sum().clamp(min=1)

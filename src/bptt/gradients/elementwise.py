"""Real-time recurrent learning where every unit of the state depends on itself alone.

In a linear recurrence h_t = a_t ⊙ h_{t-1} + b_t the Jacobian is diagonal and each of the layer's
parameters acts on one unit u(p), so one number a parameter (two in a complex layer) is its whole
influence: S_t(p) = a_{t,u(p)} S_{t-1}(p) + ∂h_{t,u(p)}/∂p. Both come out of a single backward pass with
ones. Parameters that act through the layer's input, such as an embedding, act on all units: they need
n numbers each, carried on by the diagonal, still without the n² of the general rule.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bptt.gradients.rtrl import Influence, Recorded, Rule, pulled, rows
from bptt.nn.linear_recurrent import LinearRecurrent


def find_layer(model: nn.Module) -> tuple[str, LinearRecurrent] | None:
    """The one element-wise recurrence of a model and its name; None if there is none, or more."""
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, LinearRecurrent)]
    return found[0] if len(found) == 1 and found[0][1].num_layers == 1 else None


class ElementWise(Rule):
    """The influence ``{name: (c, B, size)}``, c = 1 for a real layer, 2 for a complex one; ``(n, B,
    size)`` of parameters that act through the layer's input.

    Cost a step: 1 + 2·c backward passes, the check included, and B·c²·P multiply-adds; n more passes
    if there are parameters before the layer.
    """

    def __init__(self, name: str, layer: LinearRecurrent) -> None:
        prefix = f"{name}." if name else ""
        self.parts = layer.parts
        self.size = layer.state_size * layer.parts
        self.units = {prefix + key: u.reshape(-1) for key, u in layer.units().items()}

    def holds(self, step: Recorded) -> bool:
        """Whether this step really is element-wise: the layer's state is the model's whole carry,
        nothing feeds it back into the layer's input, and its parameters serve nowhere else.

        One product with an arbitrary vector tells: it must be what the diagonal alone gives.
        """
        if step.after.shape[1] != self.size:
            return False
        names = [n for n in self.units if n in step.each]
        wave = torch.arange(1, self.size + 1, dtype=step.after.dtype, device=step.after.device)
        probe = wave.cos().expand_as(step.after)
        whole_j, whole_d = pulled(step, names, probe.unsqueeze(0))
        diagonal, direct = self._own(step, names)
        split = probe[0].reshape(-1, self.parts)
        pairs = [
            (whole_d[n][0], torch.einsum("pk,kbp->bp", split[self.units[n]], direct[n]))
            for n in direct
        ]
        if whole_j is not None and diagonal is not None:
            by_parts = torch.einsum("uk,kbul->bul", split, diagonal)
            pairs.append((whole_j[0], by_parts.flatten(1)))
        tolerance = torch.finfo(step.after.dtype).eps ** 0.75
        return all(
            bool((a - b).abs().max() <= tolerance * (a.abs().max() + b.abs().max()))
            for a, b in pairs
            if a.numel()
        )

    def expand(self, influence: Influence) -> Influence:
        """The same influence in the form of the general rule, ``(n, B, size)``."""
        result = {}
        for name, s in influence.items():
            if name in self.units:
                unit = torch.arange(self.size // self.parts, device=s.device)[:, None]
                own = (unit == self.units[name].to(s.device)).to(s.dtype)
                s = torch.einsum("up,kbp->ukbp", own, s).flatten(0, 1)
            result[name] = s
        return result

    def _own(self, step: Recorded, names: list[str]) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The diagonal blocks ``(c, B, u, c)`` and the layer's parameters' own ``(c, B, size)``."""
        lanes = step.after.shape[0]
        ones = torch.eye(self.parts, dtype=step.after.dtype, device=step.after.device)
        ones = ones.repeat(1, self.size // self.parts)  # (c, n): part k of every unit
        jacobian, direct = pulled(step, names, ones.unsqueeze(1).expand(-1, lanes, -1))
        if jacobian is not None:
            jacobian = jacobian.reshape(self.parts, lanes, -1, self.parts)
        return jacobian, direct

    def advance(self, influence: Influence, step: Recorded) -> Influence:
        """See the module's head."""
        # One pass over all parameters also tells which of them act on the state at all.
        diagonal, direct = self._own(step, list(step.each))
        others = [n for n in direct if n not in self.units]
        before = [n for n in influence if n not in direct]
        through = rows(step, others)[1] if others else {}
        result = {}
        for name in [*direct, *before]:
            new = through[name] if name in through else direct.get(name)
            old = influence.get(name)
            if old is not None and diagonal is not None:
                passed = self._pass(name, diagonal, old)
                new = passed if new is None else new + passed
            if new is not None:
                result[name] = new
        return result

    def _pass(self, name: str, diagonal: Tensor, old: Tensor) -> Tensor:
        if name in self.units:
            return torch.einsum("kbpl,lbp->kbp", diagonal[:, :, self.units[name]], old)
        split = old.unflatten(0, (-1, self.parts))
        return torch.einsum("kbul,ulbp->ukbp", diagonal, split).flatten(0, 1)

    def gradient(self, influence: Influence, dstate: Tensor) -> dict[str, Tensor]:
        """See :meth:`Rule.gradient`."""
        split = dstate.unflatten(1, (-1, self.parts))
        result = {}
        for name, s in influence.items():
            if name in self.units:
                result[name] = torch.einsum("bpk,kbp->p", split[:, self.units[name]], s)
            else:
                result[name] = torch.einsum("bj,jbp->p", dstate, s)
        return result

"""The linear recurrent unit: a complex diagonal recurrence with eigenvalues inside the unit circle."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.errors import ArgumentError, optional, real
from bptt.nn.linear import LinearRecurrent


class LRU(LinearRecurrent):
    """Linear recurrent unit.

    h_t = λ ⊙ h_{t-1} + γ ⊙ (B x_t),  y_t = Re(C h_t) + D x_t (+ b),
    λ = exp(-exp(ν) + i·exp(θ)), inside the unit circle whatever the parameters are, and γ = exp(γ_log).

    At the start abs(λ)² is uniform in [r_min², r_max²], the phase uniform in [0, max_phase], and
    γ = √(1 - abs(λ)²), which gives every unit of the state the variance of its input. B, C and D are
    Gaussian with variances 1/(2I), 1/N and 1/I; the paper takes D diagonal, which needs I = H.

    Stacked layers without anything between them would be one linear system, so a GELU stands between
    (the paper's blocks hold more: normalisation, a gated unit, a skip connection. Build those around
    one-layer LRUs.)

    The state is complex; it comes and goes as a real tensor ``(L, B, N, 2)``, real and imaginary parts
    last, so that it is saved, split by lane and detached like any other. ``torch.view_as_complex``
    reads it.

    Args:
        input_size: I.
        hidden_size: H, features of the output.
        num_layers: L.
        bias: whether b is there; the paper has none.
        batch_first: whether input and output are ``(B, T, …)``.
        dropout: share of a layer's output dropped before the next, while training.
        state_size: N, complex units of the state; default H.
        r_min: inner radius of the ring of initial eigenvalues, 0 ≤ r_min ≤ r_max < 1. A unit at radius r
            forgets with a time constant of about 1/(1 - r) steps.
        r_max: its outer radius.
        max_phase: largest initial phase, radians.

    Parameters, layer l: ``nu_log_l{l}``, ``theta_log_l{l}``, ``gamma_log_l{l}`` ``(N,)``;
    ``weight_in_l{l} (2, N, I)`` and ``weight_out_l{l} (2, H, N)``, real and imaginary parts first;
    ``weight_skip_l{l} (H, I)``; ``bias_l{l} (H,)``.

    Raises:
        ArgumentError: a size or the ring is out of range, or the dtype has no complex numbers.

    Cost: T·B·(2·N·I + 2·N·H + H·I) multiply-adds a layer forward, twice that backward; memory
    O(T·B·N). The steps are computed together, by :func:`bptt.ops.scan.scan`.

    Example:
        >>> import torch, bptt
        >>> layer = bptt.nn.LRU(3, 5, r_min=0.9, r_max=0.99)
        >>> y, h = layer(torch.randn(7, 2, 3))
        >>> y.shape, h.shape
        (torch.Size([7, 2, 5]), torch.Size([1, 2, 5, 2]))

    Source: A. Orvieto et al., 2023, Resurrecting recurrent neural networks for long sequences.
    """

    parts = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = False,
        batch_first: bool = False,
        dropout: float = 0.0,
        *,
        state_size: int | None = None,
        r_min: float = 0.0,
        r_max: float = 0.99,
        max_phase: float = 2 * math.pi,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, batch_first, dropout)
        r_min, r_max = real("r_min", r_min), real("r_max", r_max)
        max_phase = real("max_phase", max_phase, "give it in radians, e.g. 6.28")
        if not 0 <= r_min <= r_max < 1:
            raise ArgumentError(
                "0 <= r_min <= r_max < 1",
                f"r_min={r_min!r}, r_max={r_max!r}",
                "give the ring's radii, e.g. r_min=0.9, r_max=0.999",
            )
        if not max_phase > 0:
            raise ArgumentError("max_phase > 0", f"{max_phase!r}", "give it in radians, e.g. 6.28")
        state_size = optional("state_size", state_size, remedy="leave it out for hidden_size")
        if (dtype or torch.get_default_dtype()) not in (torch.float32, torch.float64):
            raise ArgumentError(
                "dtype float32 or float64", str(dtype), "torch has no complex numbers of that size"
            )
        self.bias = bias
        input_size, hidden_size = self.input_size, self.hidden_size
        self._units = hidden_size if state_size is None else state_size
        self.r_min, self.r_max, self.max_phase = r_min, r_max, max_phase
        N, H = self._units, hidden_size
        for layer in range(self.num_layers):
            I = input_size if layer == 0 else hidden_size
            shapes: dict[str, tuple[int, ...]] = {
                "nu_log": (N,),
                "theta_log": (N,),
                "gamma_log": (N,),
                "weight_in": (2, N, I),
                "weight_out": (2, H, N),
                "weight_skip": (H, I),
            }
            for name, shape in shapes.items():
                value = torch.empty(shape, device=device, dtype=dtype)
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(value))
            offset = nn.Parameter(torch.empty(H, device=device, dtype=dtype)) if bias else None
            self.register_parameter(f"bias_l{layer}", offset)
        self.reset_parameters()

    @property
    def state_size(self) -> int:
        """N."""
        return self._units

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Eigenvalues on the ring, weights Gaussian; see the class."""
        for layer in range(self.num_layers):
            nu, theta, gamma = (
                self._get(name, layer) for name in ("nu_log", "theta_log", "gamma_log")
            )
            square = torch.rand_like(nu) * (self.r_max**2 - self.r_min**2) + self.r_min**2
            # A radius of exactly 0 has no logarithm, and a phase of 0 neither.
            tiny = torch.finfo(nu.dtype).tiny
            nu.copy_((-0.5 * square.clamp(min=tiny).log()).log())
            theta.copy_((torch.rand_like(theta) * self.max_phase).clamp(min=tiny).log())
            gamma.copy_(0.5 * torch.log1p(-square))
            into, out, skip = (
                self._get(name, layer) for name in ("weight_in", "weight_out", "weight_skip")
            )
            nn.init.normal_(into, std=1 / math.sqrt(2 * into.shape[-1]))
            nn.init.normal_(out, std=1 / math.sqrt(out.shape[-1]))
            nn.init.normal_(skip, std=1 / math.sqrt(skip.shape[-1]))
            if self.bias:
                nn.init.zeros_(self._get("bias", layer))

    def _get(self, name: str, layer: int) -> Tensor:
        return getattr(self, f"{name}_l{layer}")

    def eigenvalues(self, layer: int = 0) -> Tensor:
        """λ, complex ``(N,)``."""
        radius = torch.exp(-torch.exp(self._get("nu_log", layer)))
        return torch.polar(radius, torch.exp(self._get("theta_log", layer)))

    def coefficients(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """a = λ at every step and b = γ ⊙ (B x)."""
        gain = torch.exp(self._get("gamma_log", layer)).unsqueeze(-1)
        into = self._get("weight_in", layer) * gain
        # Autocast's short dtypes have no complex numbers.
        real, imaginary = F.linear(x, into.flatten(0, 1)).to(into.dtype).chunk(2, -1)
        b = torch.complex(real, imaginary)
        return self.eigenvalues(layer).expand(b.shape), b

    def readout(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        """Re(C h) + D x, and a GELU unless it is the last layer."""
        real, imaginary = self._get("weight_out", layer)
        y = F.linear(h.real, real) - F.linear(h.imag, imaginary)
        y = y + F.linear(x, self._get("weight_skip", layer), self._get("bias", layer))
        return y if layer == self.num_layers - 1 else F.gelu(y)

    def units(self) -> dict[str, Tensor]:
        """Eigenvalue and gain of a unit act on it alone, and so does its row of B."""
        own = torch.arange(self._units, device=self._get("nu_log", 0).device)
        weight = self._get("weight_in", 0)
        units = dict.fromkeys(("nu_log_l0", "theta_log_l0", "gamma_log_l0"), own)
        return units | {"weight_in_l0": own[:, None].expand(weight.shape)}

    def pack_state(self, h: Tensor) -> Tensor:
        """Complex ``(B, N)`` to real ``(B, N, 2)``."""
        # Not view_as_real, which refuses a batch without lanes.
        return torch.stack((h.real, h.imag), -1)

    def unpack_state(self, hx: Tensor) -> Tensor:
        """Real ``(B, N, 2)`` to complex ``(B, N)``."""
        return torch.complex(hx[..., 0], hx[..., 1])

"""Where an estimator's own random numbers come from."""

from __future__ import annotations

import torch

from bptt.errors import ArgumentError


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
    return torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ())))

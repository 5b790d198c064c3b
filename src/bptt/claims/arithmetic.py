"""Claims that are sums and powers: tables re-made digit by digit."""

from __future__ import annotations

import math

from bptt.claims.registry import Measurement, claim


def agrees(value: float, published: str) -> bool:
    """Within one unit of the last digit that was printed.

    Example:
        >>> agrees(0.3487, ".349"), agrees(0.3487, ".387")
        (True, False)
    """
    mantissa, _, exponent = published.partition("e")
    digits = len(mantissa.partition(".")[2])
    return abs(value - float(published)) <= 10.0 ** (int(exponent or 0) - digits)


@claim(
    id="E1",
    source="E",
    statement="Table of what is left after T steps, ρ^T, for ρ = 0.9, 0.8, 0.7 and T = 10, 30, 100.",
    published=".387/.107/.028; .042/.001/7e-5; 2.7e-5/≈0/≈0",
    rule="each entry is ρ^T within one unit of its last digit; ≈0 means under 1e-6",
)
def decay_table() -> Measurement:
    table = {10: (".387", ".107", ".028"), 30: (".042", ".001", "7e-5"), 100: ("2.7e-5", "", "")}
    parts: dict[str, bool | None] = {}
    wrong, words = [], []
    for T, row in table.items():
        for rho, printed in zip((0.9, 0.8, 0.7), row, strict=True):
            value = rho**T
            right = agrees(value, printed) if printed else value < 1e-6
            parts[f"{rho}^{T} ≈ {printed or 0}"] = right
            words.append(f"{rho}^{T} = {value:.3g}")
            if not right:
                exponent = math.log(float(printed)) / math.log(rho)
                wrong.append(f"{printed} is {rho}^{exponent:.1f}, not {rho}^{T} = {value:.3g}")
    return Measurement(
        "; ".join(words), parts, "The table mixes exponents: " + "; ".join(wrong) + "."
    )


@claim(
    id="C3",
    source="C",
    statement="0.9^99 ≈ 2.7e-5, 0.95^99 ≈ 0.006, 0.99^50 ≈ 0.60, 0.99^200 ≈ 0.13.",
    published="as said",
    rule="each within one unit of its last digit",
)
def four_powers() -> Measurement:
    rows = [(0.9, 99, "2.7e-5"), (0.95, 99, ".006"), (0.99, 50, ".60"), (0.99, 200, ".13")]
    parts: dict[str, bool | None] = {f"{r}^{n} ≈ {p}": agrees(r**n, p) for r, n, p in rows}
    return Measurement(
        "; ".join(f"{r}^{n} = {r**n:.4g}" for r, n, _ in rows),
        parts,
        f"0.9^99 is {0.9**99:.3g}; 2.7e-5 is 0.9^100: one Jacobian more than a sequence of 100 has.",
    )

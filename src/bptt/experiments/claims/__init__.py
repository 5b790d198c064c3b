"""The ledger: what lessons and papers state about BPTT, re-made and judged by rules."""

from bptt.experiments.claims.registry import (
    FAILS,
    HOLDS,
    IN_PART,
    NOT_JUDGED,
    NOT_RUN,
    Claim,
    Measurement,
    NotRun,
    claim,
    find,
    ledger,
)
from bptt.experiments.claims.run import Result, not_asked, run_claim, run_claims

__all__ = [
    "FAILS",
    "HOLDS",
    "IN_PART",
    "NOT_JUDGED",
    "NOT_RUN",
    "Claim",
    "Measurement",
    "NotRun",
    "Result",
    "claim",
    "find",
    "ledger",
    "not_asked",
    "run_claim",
    "run_claims",
]

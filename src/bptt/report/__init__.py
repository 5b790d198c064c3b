"""Figures, and reports in a terminal, as HTML and as JSON: drawing only, nothing is measured here."""

from bptt.report.advice import Advice, advise
from bptt.report.figures import plot
from bptt.report.pages import own_k, write_report, write_run_report
from bptt.report.terminal import document, show

__all__ = [
    "Advice",
    "advise",
    "document",
    "own_k",
    "plot",
    "show",
    "write_report",
    "write_run_report",
]

"""The pages of the lab, in the order a reader goes through them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("pages")


@dataclass(frozen=True)
class Page:
    """A page: ``slug`` names its file and its address, ``line`` says what it is for."""

    slug: str
    title: str
    line: str

    @property
    def file(self) -> Path:
        """The notebook."""
        return FOLDER / f"{self.slug}.py"


PAGES = (
    Page(
        "unrolled",
        "Unrolled",
        "A word of yours goes through a recurrent network step by step, then the gradient comes back.",
    ),
    Page(
        "contraction",
        "Contraction",
        "What a product of Jacobians does to a gradient: radius against norm, and where memory ends.",
    ),
    Page(
        "by_hand",
        "BPTT by hand",
        "Three steps with every number shown, beside what autograd finds.",
    ),
    Page(
        "remember_first",
        "Remember the first",
        "Train a network to recall the first symbol, and watch how far back it comes to see.",
    ),
    Page(
        "clipping",
        "Clipping",
        "A run that explodes, and the same run with its gradient clipped in each way.",
    ),
    Page(
        "truncation",
        "Truncation",
        "Choose K: what each way of cutting the gradient leaves out, and what it costs.",
    ),
    Page(
        "bottleneck",
        "Bottleneck",
        "What a state of H numbers can hold, beside attention, which keeps everything.",
    ),
    Page(
        "your_run",
        "Your run",
        "Open a run folder or a text: how far back your own model learns, while it trains.",
    ),
)


def available() -> tuple[Page, ...]:
    """The pages whose notebook is there.

    Example:
        >>> "contraction" in [page.slug for page in available()]
        True
    """
    return tuple(page for page in PAGES if page.file.is_file())

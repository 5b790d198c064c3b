"""The lab: pages in a browser where a slider moves and the gradient answers. ``bptt lab`` serves them.

A page is three things of one name, its slug; ``contraction`` is the pattern:

1. ``lab/contraction.py``: what the page shows, without a browser. One function of plain numbers that
   calls the package (:mod:`bptt.probes`, :mod:`bptt.gradients`, …; nothing is computed a second time
   here) and returns a frozen dataclass; functions that make charts of that result
   (:mod:`bptt.report.chart`) and tell it in words. It answers within 200 ms, has its own
   ``torch.Generator`` (pages of several readers run as threads of one process, so no global random
   numbers, no module state, no matplotlib rc).
2. ``lab/pages/contraction.py``: the marimo notebook, layout only: a cell that makes the sliders, one
   that calls the function, one that lays it out with :mod:`bptt.lab.live`.
3. ``tests/lab/test_contraction.py``: the function against the package, the page in a browser.

Two pages of one subject may share the first of the three: *Contraction* and *Gates and starts* do, and
*Bottleneck* and *Ways back*.

:mod:`bptt.lab.server` holds title, line and chapter of the course of every page; a page whose file is
there is listed. ``exercises.toml`` holds its exercises.
"""

from bptt.lab.server import PAGES, Page, available

__all__ = ["PAGES", "Page", "available"]

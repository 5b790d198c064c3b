"""The lessons, re-made: every program, figure, table and exercise of five lessons, by one name each.

A remake is a value in a registry, :class:`Remake`: its name, where in which lesson it stands, what it
shows, with which settings, and about how long it takes. Running one gives a :class:`Remade`: numbers,
each beside the published one where there is one; panels of curves; tables; the lines that the program
prints; sentences on what comes out. ``bptt remake`` does it from the command line, and
``bptt.report.remade`` draws the panels.

    from bptt.experiments.lessons import find, remakes, run_remake
    made = run_remake(find(["clipping"])[0])
    made["loss_none"].measured, made["loss_none"].published, made["loss_none"].agrees
    made.panels, made.tables, made.lines, made.sentences, made.seconds

To add one: write a function without arguments that returns a :class:`Made`, and put :func:`remake` above
it, in one of the files of ``SECTIONS``. It runs on one thread from seed 0 of every generator; whatever
the lesson seeds, it seeds itself. A number that does not agree with its published one says why in
``why``.

The lessons go by S0 to S4; the ledger of claims calls the same sources A to E.
"""

from bptt.experiments.lessons.registry import (
    LESSONS,
    Curve,
    Level,
    Made,
    Note,
    Number,
    Panel,
    Remade,
    Remake,
    Table,
    find,
    remake,
    remakes,
    run_remake,
    run_remakes,
)

__all__ = [
    "LESSONS",
    "Curve",
    "Level",
    "Made",
    "Note",
    "Number",
    "Panel",
    "Remade",
    "Remake",
    "Table",
    "find",
    "remake",
    "remakes",
    "run_remake",
    "run_remakes",
]

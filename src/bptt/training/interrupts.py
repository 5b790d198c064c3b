"""Signals that end a run: the first one asks, and until its checkpoint is written all others wait.

SIGINT (Ctrl-C), SIGTERM (a scheduler) and SIGHUP (the terminal was closed) are treated alike. A second
one changes nothing: people press Ctrl-C twice, and a closed terminal is told by the kernel and by the
shell. SIGQUIT and SIGKILL end a process at once, as ever.

A signal that is ignored when the run begins stays so: ``nohup`` means a run to outlive its terminal, and
a shell keeps the keyboard's Ctrl-C from what it runs in the background.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """For as long as the block runs, turn these signals into a flag; afterwards they act as before.

    Yields:
        Whether one has come.

    Only the main thread may do this; in another one the flag is never set.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # None: set by something that is not Python, which could not be put back.
    taken = [n for n, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in taken:
        signal.signal(number, lambda number, frame: asked.set())
    try:
        yield asked.is_set
    finally:
        for number in taken:
            signal.signal(number, before[number])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let a short block come to its end, and only then interrupt: an exception in the middle of reading a
    checkpoint would be told as damage to it.

    Raises:
        KeyboardInterrupt: after the block, where a signal has come.
    """
    with until_interrupted() as asked:
        yield
    if asked():
        raise KeyboardInterrupt

"""``python -m bptt`` is the command ``bptt``."""

from __future__ import annotations

import atexit
import os
import sys

from bptt.cli import main


def run() -> int:
    """The command as a process: its exit status, unless torchrun started it, which is told at once.

    torch's threads between processes may come back into an interpreter that is being taken down, and that
    aborts the process: torchrun then says of a run that has ended well that it has failed, and ends or
    begins anew what the other processes still do.
    """
    status = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    raise SystemExit(run())

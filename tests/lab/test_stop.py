"""Ctrl-C ends the lab at once, whatever its open pages are doing."""

import signal
import time
from contextlib import contextmanager

import pytest

from lab_driver import PYTHON, LabPage, start

pytestmark = pytest.mark.slow  # servers of their own

# The command with one page more than it has.
WITH_PAGE = """
import sys
from pathlib import Path
from bptt.lab import pages, server
server.FOLDER = Path(sys.argv.pop(1))
pages.__path__.append(str(server.FOLDER))  # its module is imported like that of any other page
server.PAGES = (server.Page("busy", "Busy", "A page of this test.", "loss"),)
from bptt.cli import main
sys.exit(main(sys.argv[1:]))
"""
NOTEBOOK = """
import marimo
app = marimo.App()
with app.setup:
    from pathlib import Path
    import torch
    from bptt.lab import live
@app.cell
def _():
    live.show(live.values({"shown": 1}))
@app.cell
def _():
    WORK
"""
# At rest, in one call of torch's that no signal ends, and with a thread of its own left over.
WORK = {
    "nothing": "pass",
    "one long call": "    x = torch.ones(3000, 3000)\n    torch.linalg.matrix_power(x, 2**60 - 1)",
    "a thread": (
        "    import threading, time\n    threading.Thread(target=time.sleep, args=(60,)).start()"
    ),
}


@contextmanager
def lab(chromium, folder, work):
    body = WORK[work].strip()
    (folder / "busy.py").write_text(NOTEBOOK.replace("WORK", body))
    command = [*PYTHON, "-c", WITH_PAGE, str(folder), "lab", "--no-open", "--port", "0"]
    child, address = start(command=command)
    pages = []
    try:
        for _ in range(2):
            pages.append(LabPage(chromium, address, "busy"))
            pages[-1].wait("shown")
        yield child
    finally:
        child.kill()
        for page in pages:
            page.close()


@pytest.mark.timing
@pytest.mark.browser
@pytest.mark.parametrize("work", WORK)
def test_ctrl_c_with_open_pages(chromium, tmp_path, work):
    with lab(chromium, tmp_path, work) as child:
        if work != "nothing":
            time.sleep(0.3)  # the cell that shows is first; now the other one is under way
        clock = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
        took = time.monotonic() - clock
    assert (child.returncode, out, err) == (0, "\nbptt lab: stopped\n", "")
    # A second for the connections, one for the cells, and what a loaded machine adds.
    assert took < 3, took

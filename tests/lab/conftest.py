"""The lab in the browser: one server for all tests, and pages that note what they should not do."""

import os
import signal
from itertools import product
from pathlib import Path

import pytest

from lab_driver import SIZES, LabPage, start

# Where screenshots go if the caller wants to look at them; pytest's own folder otherwise.
SHOTS = os.environ.get("BPTT_LAB_SHOTS")


@pytest.fixture(scope="session")
def server(process):
    """The address of ``bptt lab``."""
    return process[1]


@pytest.fixture(scope="session")
def process():
    """``bptt lab`` as a child process and its address, stopped by Ctrl-C at the end."""
    child, address = start("--port", "0")
    yield child, address
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    # Whatever a page's cell printed or raised on the server would stand here.
    assert (child.returncode, out.strip(), err) == (0, "bptt lab: stopped", "")


@pytest.fixture
def open_page(server, chromium):
    """``open_page(slug, scheme=, size=, query=)``; at the end every page opened must be without fault."""
    opened = []

    def open_(slug, **options):
        page = LabPage(chromium, server, slug, **options)
        opened.append(page)
        return page

    yield open_
    faults = [fault for page in opened for fault in page.faults]
    for page in opened:
        page.close()
    assert not faults, "\n".join(faults)


@pytest.fixture
def shoot(open_page, tmp_path):
    """``shoot(slug, value, before=)``: pictures in light, dark and phone width; no page may scroll
    sideways. ``before(page)`` does first what is to be seen."""
    folder = Path(SHOTS) if SHOTS else tmp_path
    folder.mkdir(parents=True, exist_ok=True)

    def shoot_(slug, value=None, *, before=None):
        files = []
        page = open_page(slug)
        if value is not None:
            page.wait(value)
        else:
            page.page.get_by_role("heading", level=1).wait_for()
            if slug:
                page.page.locator("[data-value]").first.wait_for(state="attached")
        if before is not None:
            before(page)
        for scheme, size in product(("light", "dark"), SIZES):
            page.look(scheme, size)
            page.whole()
            assert page.overflow() <= 0, f"{slug} scrolls sideways, {scheme}, {size}"
            file = folder / f"{slug or 'index'}-{scheme}-{size}.png"
            page.page.screenshot(path=file)
            files.append(file)
        return files

    return shoot_

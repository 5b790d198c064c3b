"""The lab in Debian's chromium: one server for all tests, and pages that note what they should not do."""

import os
import re
import shutil
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest

# The first page imports torch, and another test may hold the machine.
PATIENCE = 60_000  # ms
# Where screenshots go if the caller wants to look at them; pytest's own folder otherwise.
SHOTS = os.environ.get("BPTT_LAB_SHOTS")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="session")
def server():
    """The address of ``bptt lab`` in a child process, stopped by Ctrl-C at the end."""
    command = [sys.executable, "-m", "bptt", "lab", "--port", "0", "--no-open"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = child.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", line)
    if not found:
        child.kill()
        raise RuntimeError(f"no address in {line!r}: {child.communicate()[1]}")
    yield found[0]
    child.terminate()
    child.communicate(timeout=20)


@pytest.fixture(scope="session")
def chromium():
    """The browser."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path, "no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, headless=True, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


class LabPage:
    """A page of the lab as a reader uses it, by keyboard; what it did wrong is in ``faults``."""

    def __init__(self, browser, address, slug, *, scheme="light", size="desktop", query=""):
        width, height = SIZES[size]
        self.context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": height}
        )
        self.page = self.context.new_page()
        self.faults, self.requests = [], []
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.page.on("requestfailed", self._failed)
        # The context sees what its workers ask for too.
        self.context.on("request", lambda request: self._asked(request.url))
        self.page.on("websocket", lambda socket: self._asked(socket.url))
        self.own = re.compile(rf"(http|ws)://{re.escape(address.split('/')[2])}/|data:|blob:")
        self.page.goto(f"{address}{slug}{'/' if slug else ''}{query}")

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.faults.append(f"console {message.type}: {message.text}")

    def _failed(self, request):
        # Whoever leaves a page or gets a newer answer aborts what was under way.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.faults.append(f"failed: {request.url} {request.failure}")

    def _asked(self, url):
        self.requests.append(url)
        if not self.own.match(url):
            self.faults.append(f"a request to outside: {url}")

    def wait(self, name):
        """Wait until the page shows a value of this name for the first time."""
        self.page.locator(f'[data-value="{name}"]').wait_for(state="attached")
        return self

    def value(self, name):
        """What the page shows under this name, to the last digit."""
        return literal_eval(self.page.locator(f'[data-value="{name}"]').text_content())

    def press(self, control, key, times=1, *, changes):
        """Put the focus on a control and press a key; wait until the value named ``changes`` moved.

        Returns:
            the new value.
        """
        before = self.page.locator(f'[data-value="{changes}"]').text_content()
        box = self.page.locator(f'[data-control="{control}"]')
        handle = box.locator('[role="slider"], [role="radio"][tabindex="0"], input, select').first
        for _ in range(times):
            handle.press(key)
        return self._moved(changes, before)

    def choose(self, control, option, *, changes):
        """Choose one of a radio group by its words; returns the value named ``changes``."""
        before = self.page.locator(f'[data-value="{changes}"]').text_content()
        box = self.page.locator(f'[data-control="{control}"]')
        box.get_by_role("radio", name=option, exact=True).press("Space")
        return self._moved(changes, before)

    def _moved(self, name, before):
        self.page.wait_for_function(
            """([name, before]) => {
                const found = document.querySelector(`[data-value="${name}"]`);
                return found && found.textContent !== before;
            }""",
            arg=[name, before],
        )
        return self.value(name)

    def settle(self, name, wanted):
        """Wait until a value is the one wanted; fails with both if it does not come."""
        try:
            self.page.wait_for_function(
                """([name, wanted]) =>
                    document.querySelector(`[data-value="${name}"]`)?.textContent === wanted""",
                arg=[name, repr(wanted)],
                timeout=10_000,
            )
        except Exception:
            raise AssertionError(f"{name}: {self.value(name)!r}, expected {wanted!r}") from None

    def overflow(self):
        """By how many pixels the page is wider than the screen."""
        return self.page.evaluate(
            """() => {
                const wide = [...document.querySelectorAll('*')].map(
                    e => /auto|scroll/.test(getComputedStyle(e).overflowX)
                        ? e.scrollWidth - e.clientWidth : 0);
                const root = document.documentElement;
                return Math.max(root.scrollWidth - root.clientWidth, ...wide);
            }"""
        )

    def whole(self):
        """Make the window as high as the page, so that a picture shows all of it."""
        height = self.page.evaluate(
            """() => Math.max(...[...document.querySelectorAll('*')].map(e => e.scrollHeight))"""
        )
        width = self.page.viewport_size["width"]
        self.page.set_viewport_size({"width": width, "height": min(height + 20, 8000)})
        return self


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
        page.context.close()
    assert not faults, "\n".join(faults)


@pytest.fixture
def shoot(open_page, tmp_path):
    """``shoot(slug, value)``: pictures in light, dark and phone width; no page may scroll sideways."""
    folder = Path(SHOTS) if SHOTS else tmp_path
    folder.mkdir(parents=True, exist_ok=True)

    def shoot_(slug, value=None):
        files = []
        for scheme, size in (
            ("light", "desktop"),
            ("dark", "desktop"),
            ("light", "phone"),
            ("dark", "phone"),
        ):
            page = open_page(slug, scheme=scheme, size=size)
            if value is not None:
                page.wait(value)
            page.whole()
            assert page.overflow() <= 0, f"{slug} scrolls sideways, {scheme}, {size}"
            file = folder / f"{slug or 'index'}-{scheme}-{size}.png"
            page.page.screenshot(path=file)
            files.append(file)
        return files

    return shoot_

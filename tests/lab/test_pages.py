"""What every page owes its reader, for all there are: index, guide, script, keyboard, looks, silence."""

import subprocess
from importlib import import_module

import pytest

from bptt.lab import available
from bptt.lab.server import index
from lab_driver import PYTHON

PAGES = available()
each = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
ROLES = {
    "slider", "radio", "checkbox", "switch", "textbox", "combobox", "button", "spinbutton", "listbox",
}  # fmt: skip


@each
def test_it_is_listed_and_described(page, request):
    assert f"<b>{page.title}</b>" in index()
    assert page.line in index()
    guide = request.config.rootpath.joinpath("docs/lab.md").read_text()
    assert f"| *{page.title}* |" in guide
    assert page.line.endswith(".")


@pytest.mark.slow
@each
def test_it_runs_as_a_script_and_opens_no_browser(page, tmp_path):
    # webbrowser and sockets would both be asked for by name.
    watch = (
        "import sys, runpy\n"
        "def alarm(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.bind', 'webbrowser.open'):\n"
        "        raise SystemExit(f'{event} {arguments}')\n"
        "sys.addaudithook(alarm)\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    done = subprocess.run(
        [*PYTHON, "-c", watch, str(page.file)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def tabbed(page):
    """The names of the controls that Tab comes by, and of those it should."""
    wanted = page.evaluate(
        "() => [...document.querySelectorAll('[data-control]')].map(e => e.dataset.control)"
    )
    page.evaluate("() => document.activeElement?.blur()")
    seen = []
    for _ in range(12 * len(wanted) + 30):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "() => document.activeElement?.closest('[data-control]')?.dataset.control ?? null"
            )
        )
        if set(wanted) <= set(seen):
            break
    return wanted, set(seen) - {None}


def nameless(page):
    """Controls without a name for those who do not see the page, by the browser's own reckoning."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    by_id = {node["nodeId"]: node for node in nodes}

    def word(node, key):
        return (node.get(key) or {}).get("value") or ""

    def named(node):
        # Its own name, or that of the group it stands in: a slider's thumb is named by its label there.
        while node is not None:
            if word(node, "name").strip() and word(node, "role") in {*ROLES, "group", "radiogroup"}:
                return True
            node = by_id.get(node.get("parentId"))
        return False

    found = [n for n in nodes if word(n, "role") in ROLES and not n.get("ignored")]
    assert found or not page.locator("[data-control]").count()
    return [word(n, "role") for n in found if not named(n)]


@pytest.mark.browser
@each
def test_every_control_is_reached_by_tab_and_has_a_name(page, open_page):
    lab = open_page(page.slug)
    lab.page.get_by_role("heading", name=page.title, level=1).wait_for()
    lab.page.locator("[data-value]").first.wait_for(state="attached")
    wanted, reached = tabbed(lab.page)
    assert wanted
    assert len(wanted) == len(set(wanted))
    assert set(wanted) <= reached
    assert nameless(lab.page) == []


@pytest.mark.browser
@each
def test_it_fits_every_screen_and_asks_nobody_else(page, shoot):
    # The fixtures fail on a console error, a request to outside by the browser, a socket to outside by
    # the server, and on a page that scrolls sideways.
    assert len(shoot(page.slug)) == 4


@pytest.mark.parametrize("slug", ["unrolled", "contraction", "bottleneck"])
def test_a_page_shows_pictures_and_not_their_descriptions(slug):
    outputs, _ = import_module(f"bptt.lab.pages.{slug}").app.run()
    text = "".join(output.text for output in outputs if hasattr(output, "text"))
    assert text.count('<figure class="chart">') == 2
    assert "Chart(" not in text

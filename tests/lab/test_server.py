"""`bptt lab`: address, port, refusals, and that nothing points outside."""

import platform
import re
import signal
import subprocess
import sys

import pytest

from bptt.cli import main
from bptt.lab import PAGES, available
from bptt.lab.server import HEADERS, POLICY, css, guard, index
from lab_driver import LAB, LabPage, start


def refuse(capsys, *words):
    assert main(["lab", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_wrong_words_are_refused_in_one_line(capsys, tmp_path):
    assert "expected a page among" in refuse(capsys, "nowhere")
    assert "--port from 0 to 65535" in refuse(capsys, "--port", "70000")
    assert "expected a run folder" in refuse(capsys, "--run", str(tmp_path / "none"))


def test_it_says_its_address_refuses_a_taken_port_and_stops_on_ctrl_c():
    child, address = start("--port", "0", "contraction")
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/contraction/", address)
    assert found, address
    # 192.0.2.1 is set aside for documents: it is no machine's own.
    for words, named in (
        (["--port", found[1]], f"127.0.0.1:{found[1]}"),
        (["--port", "0", "--host", "192.0.2.1"], "192.0.2.1:0"),
    ):
        second = subprocess.run(
            [*LAB, *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 2
        assert second.stdout == ""
        assert second.stderr.count("\n") == 1, second.stderr
        assert f"received {named}, which is taken" in second.stderr
        assert "--port 0" in second.stderr
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (0, "\nbptt lab: stopped\n", "")


def test_without_marimo_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "marimo", None)
    assert 'pip install "bptt[lab]"' in refuse(capsys)


def test_every_notebook_is_in_the_registry_and_the_index_lists_it():
    files = {p.stem for p in PAGES[0].file.parent.glob("*.py")} - {"__init__"}
    assert files == {page.slug for page in available()}
    for page in available():
        assert f'href="/{page.slug}/"' in index()
    assert len({page.slug for page in PAGES}) == 12


def test_no_file_of_ours_points_outside():
    assert "://" not in index() + css()
    assert "://" not in POLICY


def ask(headers, kind="http", host="127.0.0.1", came_in_at="127.0.0.1"):
    """What the guard does with a request: the messages sent."""
    sent = []

    async def app(scope, receive, send):
        old = [(b"Referrer-Policy", b"unsafe-url"), (b"etag", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": old})

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "headers": headers, "server": (came_in_at, 1), "path": "/"}
    # Nothing in it waits, so it runs through at once; the browser's tests own this thread's loop.
    with pytest.raises(StopIteration):
        guard(app, host)(scope, None, send).send(None)
    return sent


def test_every_answer_carries_the_policy():
    (message,) = ask([(b"host", b"127.0.0.1:1")])
    assert dict(message["headers"]) == {**HEADERS, b"etag": b"1"}
    own = [(b"host", b"localhost:1"), (b"origin", b"http://localhost:1")]
    assert ask(own)[0]["status"] == 200
    for refused in (ask([(b"host", b"evil.example")]), ask([*own[:1], (b"origin", b"null")])):
        assert HEADERS.items() <= dict(refused[0]["headers"]).items()


@pytest.mark.parametrize(
    "origin", [b"http://b:1", b"http://[::1]:2", b"null", b"https://evil.example"]
)
def test_another_sites_page_is_refused(origin):
    headers = [(b"host", b"[::1]:1"), (b"origin", origin)]
    assert ask(headers)[0]["status"] == 403
    assert ask(headers, "websocket") == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    "name", ["evil.example", "127.0.0.1.evil.example", "localhost.", "10.0.0.1", "[::2]", "", "a@b"]
)
def test_a_name_that_is_not_ours_is_refused(name):
    # DNS rebinding: the reader's browser believes the page that asks to be of this server.
    for host in (name, f"{name}:2718"):
        headers = [(b"host", host.encode()), (b"origin", f"http://{host}".encode())]
        assert ask(headers)[0]["status"] == 400
        (closed, *_) = ask(headers, "websocket")
        assert closed["type"] in ("websocket.close", "websocket.http.response.start")
    assert ask([])[0]["status"] == 400


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LocalHost", "[::1]", platform.node()])
def test_our_names_are_answered_at_any_port(name):
    for host in (name, f"{name}:2718", f"{name}:8000"):
        assert ask([(b"host", host.encode())])[0]["status"] == 200


def test_another_host_listened_on_is_answered_under_its_name_and_its_address():
    asked = [(b"host", b"10.0.0.7:1")]
    assert ask(asked)[0]["status"] == 400
    assert ask(asked, host="10.0.0.7")[0]["status"] == 200
    assert ask(asked, host="0.0.0.0", came_in_at="10.0.0.7")[0]["status"] == 200
    assert ask([(b"host", b"[fe80::7]:1")], host="fe80::7")[0]["status"] == 200
    assert (
        ask([(b"host", b"evil.example")], host="0.0.0.0", came_in_at="10.0.0.7")[0]["status"] == 400
    )


@pytest.mark.browser
def test_the_index_leads_to_every_page(open_page, shoot):
    lab = open_page("")
    links = lab.page.locator("main li a")
    assert links.count() == len(available())
    for number, page in enumerate(available()):
        links.nth(number).press("Enter")
        lab.page.get_by_role("heading", name=page.title, level=1).wait_for()
        lab.page.get_by_role("link", name="All pages").press("Enter")
        lab.page.wait_for_url("**/")
    shoot("")


@pytest.mark.browser
def test_two_pages_opened_at_the_same_moment_are_both_answered(chromium):
    # A server of its own: only one that has shown no page yet has everything to import.
    child, address = start("--port", "0")
    pages = []
    try:
        pages += [LabPage(chromium, address, "contraction") for _ in range(2)]
        assert [page.wait("norm").faults for page in pages] == [[], []]
    finally:
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=20)
        for page in pages:
            page.close()
    assert (child.returncode, err) == (0, "")


@pytest.mark.browser
def test_a_browser_may_not_ask_outside(open_page):
    lab = open_page("contraction").wait("norm")
    refused = lab.page.evaluate(
        "() => fetch('http://192.0.2.1/').then(() => 'answered', e => e.constructor.name)"
    )
    assert refused == "TypeError"
    blocked = [fault for fault in lab.faults if "Content Security Policy" in fault]
    assert blocked
    lab.faults.clear()  # they were wanted

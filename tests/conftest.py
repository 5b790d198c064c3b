"""Settings every test runs under."""

import os
import shutil

# Before anybody imports Triton, which decides then: its kernels are tried on the CPU, line by line.
os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import pytest
import torch

import over_triton

# The test runner starts one process per core; more threads inside each would only fight for them.
torch.set_num_threads(1)

hypothesis.settings.register_profile("bptt", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("triton", deadline=None, max_examples=2, derandomize=True)
hypothesis.settings.load_profile("triton" if over_triton.ASKED else "bptt")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=over_triton.ASKED)
def _over_triton(request, monkeypatch):
    if request.node.get_closest_marker("own_backend") is None:
        over_triton.install(monkeypatch, request.node.nodeid)


@pytest.fixture(scope="session")
def browser():
    """Debian's chromium. A process drives one at most: a second driver refuses to start beside it."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path, "no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, headless=True, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def chromium(browser):
    """A window of the browser: one context for all pages, whose cache spares each of them marimo's two
    hundred files."""
    return browser.new_context()


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several processes: the first one reports
        session.config.workeroutput["over_triton"] = (
            over_triton.ran["calls"],
            [*over_triton.ran["tests"]],
        )


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    calls, tests = getattr(node, "workeroutput", {}).get("over_triton", (0, ()))
    over_triton.ran["calls"] += calls
    over_triton.ran["tests"].update(tests)


def pytest_terminal_summary(terminalreporter):
    if over_triton.ASKED:
        count, tests = over_triton.ran["calls"], len(over_triton.ran["tests"])
        terminalreporter.write_line(
            f"over Triton's kernels: {tests} tests, {count} calls of a layer"
        )

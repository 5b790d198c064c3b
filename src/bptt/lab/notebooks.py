"""marimo as the lab runs it: the same for every reader, and stopped when the lab stops.

Limits: marimo has no public way to either. This file, and no other, reaches into its private parts; the
tests of both fail if a newer marimo moves them.
"""

from __future__ import annotations

import logging
import threading
import time
from importlib import import_module
from typing import Any

from bptt.errors import DependencyError
from bptt.lab.registry import available


class Notebooks:
    """Every page's notebook behind one ASGI application.

    Args:
        css: of every page.
        left: so many seconds after its page was left a session ends.

    Attributes:
        app: the application; a page is at ``/SLUG/``.

    Raises:
        DependencyError: marimo is missing.
    """

    def __init__(self, css: str, left: int) -> None:
        try:
            import marimo
        except ImportError:
            raise DependencyError("marimo", "none installed", 'pip install "bptt[lab]"') from None
        _ignore_configuration()
        # marimo would report every closed tab.
        logging.getLogger("marimo").setLevel(logging.ERROR)
        self._managers: list[Any] = []
        head = f"<style>{css}</style>"
        builder = marimo.create_asgi_app(quiet=True, html_head=head, session_ttl=left)
        for page in available():
            builder = builder.with_app(
                path=f"/{page.slug}", root=str(page.file), middleware=[self._keep]
            )
        self.app = builder.build()
        # What the pages import is imported here, once: two pages opened at the same moment would import
        # torch from two threads at a time, which breaks it for good.
        for page in available():
            import_module(f"bptt.lab.pages.{page.slug}")

    def _keep(self, app: Any) -> Any:
        self._managers.append(app.state.session_manager)
        return app

    async def stop(self) -> None:
        """Close every open page and tell its kernel to end.

        A kernel is a thread that waits for its reader in a worker of ``concurrent.futures``, and the
        interpreter joins those workers when it exits: a kernel that nobody told would hold the process
        for ever.
        """
        for manager in self._managers:
            await manager.shutdown()


def ended(seconds: float) -> bool:
    """Wait for every thread but the main one to end; whether they did."""
    until = time.monotonic() + seconds
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))
    return threading.active_count() == 1


def _ignore_configuration() -> None:
    """Let no .marimo.toml, pyproject.toml or .env of the reader's change a page.

    marimo looks for them from the working directory upwards and at home; what it finds there (a theme,
    style sheets, AI services, paths to import from) is meant for the reader's own notebooks. What a
    page needs stands in its own header. Nor is a configuration file made where there was none.
    """
    from marimo._config import manager

    def nothing(*_: Any) -> dict[str, Any]:
        return {}

    for owner, name in (
        (manager.UserConfigStore, "read"),
        (manager.PyprojectConfigReader, "read"),
        (manager, "_contextual_defaults"),  # a .env beside the project
    ):
        getattr(owner, name)  # a newer marimo without it: better an error than a page gone astray
        setattr(owner, name, nothing)

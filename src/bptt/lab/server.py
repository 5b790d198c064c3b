"""The lab's server: an index and the notebooks, for this machine's own browser and nobody else."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from bptt.errors import ArgumentError, DependencyError, RunError

# The pages of the lab, in the order a reader goes through them.

FOLDER = Path(__file__).with_name("pages")


@dataclass(frozen=True)
class Page:
    """A page: ``slug`` names its file and its address, ``line`` says what it is for.

    ``chapter`` of the course, one of ``CHAPTERS``, has the mathematics of it.
    """

    slug: str
    title: str
    line: str
    chapter: str

    @property
    def file(self) -> Path:
        """The notebook."""
        return FOLDER / f"{self.slug}.py"


# The chapters of docs/course, in order; the built documentation stands beside a checkout of the source.
CHAPTERS = (
    "loss", "by_hand", "jacobians", "remember_first", "clipping", "truncation", "gates", "attention",
    "practice", "questions",
)  # fmt: skip
BUILT = Path(__file__).parents[3] / "docs" / "_build" / "html"

PAGES = (
    Page(
        "unrolled",
        "Unrolled",
        "A word of yours goes through a recurrent network step by step, then the gradient comes back.",
        "loss",
    ),
    Page(
        "contraction",
        "Contraction",
        "What a product of Jacobians does to a gradient: radius against norm, and where memory ends.",
        "jacobians",
    ),
    Page(
        "by_hand",
        "BPTT by hand",
        "Three steps with every number shown, beside what autograd finds.",
        "by_hand",
    ),
    Page(
        "remember_first",
        "Remember the first",
        "Train a network to recall the first symbol, and watch how far back it comes to see.",
        "remember_first",
    ),
    Page(
        "clipping",
        "Clipping",
        "A run that explodes, and the same run with its gradient clipped in each way.",
        "clipping",
    ),
    Page(
        "truncation",
        "Truncation",
        "Choose K: what each way of cutting the gradient leaves out, and what it costs.",
        "truncation",
    ),
    Page(
        "padding",
        "Padding, detach and memory",
        "Three habits whose absence raises no error: what padding does to a state, a graph to memory.",
        "truncation",
    ),
    Page(
        "gates",
        "Gates and starts",
        "How a cell, its start and the bias of its gates change what is left of a gradient.",
        "gates",
    ),
    Page(
        "bottleneck",
        "Bottleneck",
        "What a state of H numbers can hold, beside attention, which keeps everything.",
        "attention",
    ),
    Page(
        "attention",
        "Ways back",
        "A gradient goes back through a recurrence, past it, and through attention.",
        "attention",
    ),
    Page(
        "sampling",
        "Sampling and perplexity",
        "What a trained model believes comes next, what that costs, and how to draw from it.",
        "loss",
    ),
    Page(
        "your_run",
        "Your run",
        "Open a run folder or a text: how far back your own model learns, while it trains.",
        "practice",
    ),
)


def available() -> tuple[Page, ...]:
    """The pages whose notebook is there.

    Example:
        >>> "contraction" in [page.slug for page in available()]
        True
    """
    return tuple(page for page in PAGES if page.file.is_file())


# marimo as the lab runs it: the same for every reader, and stopped when the lab stops.
#
# Limits: marimo has no public way to either. This file, and no other, reaches into its private parts; the
# tests of both fail if a newer marimo moves them.


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


# What stands before every page: who may ask, and what the answer tells the browser.
#
# A browser is a door for other sites. Three locks: requests that another site's page sends here are
# refused (Origin); so is a site whose name was made to point at this machine, DNS rebinding (Host); and
# pages carry a Content-Security-Policy that lets a browser talk to this server only.

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# marimo's page has inline scripts and styles, and makes workers and pictures out of blobs.
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def guard(app: App, host: str = "127.0.0.1") -> App:
    """Add :data:`HEADERS` to every answer; refuse other sites' pages, and names that are not ours.

    Args:
        app: what answers.
        host: the address listened on. Asked under that name, a loopback name, the machine's own name
            or the address a connection came in at, it answers. The port in a Host header is not
            compared: a tunnel (ssh -L) changes it, and no rebinding needs it changed.
    """
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    names = {*LOOPBACK, bracketed(host), platform.node()} - {""}

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kept = [h for h in message.get("headers", ()) if h[0].lower() not in HEADERS]
                message = {**message, "headers": [*kept, *HEADERS.items()]}
            await send(message)

        # Whoever listens on every address (0.0.0.0) is asked under the one that was dialled.
        here = scope.get("server") or ("", None)
        trusted = {*names, bracketed(here[0])} - {""}
        known = TrustedHostMiddleware(own_pages, sorted(trusted), www_redirect=False)
        await known(scope, receive, with_headers)

    async def own_pages(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            await _refuse(scope, send)
            return
        await app(scope, receive, send)

    return guarded


def bracketed(host: str) -> str:
    """A host as an address has it: an IPv6 one in brackets.

    Example:
        >>> bracketed("::1"), bracketed("127.0.0.1")
        ('[::1]', '127.0.0.1')
    """
    return f"[{host}]" if ":" in host else host


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": 403, "headers": []})
    await send({"type": "http.response.body", "body": b"This server answers its own pages only.\n"})


HERE = Path(__file__).parent
# Where page "Your run" looks for the folder given on the command line.
RUN_VARIABLE = "BPTT_LAB_RUN"
# So long after its page was left a session ends, and with it what runs in it, seconds. A page that was
# away for less goes on where it was.
LEFT = 5
# How long open pages may take to end, seconds.
GRACE = 1.0


@cache
def css() -> str:
    """The stylesheet all pages share."""
    return HERE.joinpath("lab.css").read_text("utf-8")


def index() -> str:
    """The page that lists the pages."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(HERE.joinpath("index.html").read_text("utf-8"))
    from markupsafe import Markup

    return template.render(pages=available(), css=Markup(css()))


def build(notebooks: Notebooks, host: str = "127.0.0.1") -> App:
    """The whole lab as an ASGI application, for those who ask for ``host``."""
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse
    from starlette.routing import Mount, Route

    async def front(_: Any) -> HTMLResponse:
        return HTMLResponse(index())

    routes: list[Any] = [Route("/", front)]
    if BUILT.is_dir():
        from starlette.responses import Response
        from starlette.staticfiles import StaticFiles

        # A browser asks for a sign of every page that names none, as those of the documentation do.
        routes.append(Route("/favicon.ico", lambda _: Response(status_code=204)))
        routes.append(Mount("/docs", StaticFiles(directory=BUILT, html=True)))
    return guard(Starlette(routes=[*routes, Mount("/", notebooks.app)]), host)


def serve(
    host: str = "127.0.0.1",
    port: int = 2718,
    *,
    run: str | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve the lab until interrupted.

    Args:
        host: the address to listen on.
        port: 0 picks a free one.
        run: a run folder for page "Your run".
        ready: called with the lab's address once it is held.

    Raises:
        ArgumentError: the port is taken, or the host is not this machine's.
        RunError: the run folder is not there.
        DependencyError: marimo is missing.
    """
    if run is not None:
        if not Path(run).is_dir():
            raise RunError("a run folder", f"{run!r}, which is none", "give one of bptt train's")
        os.environ[RUN_VARIABLE] = str(Path(run).resolve())
    notebooks = Notebooks(css(), LEFT)
    import uvicorn

    config = uvicorn.Config(
        build(notebooks, host),
        host=host,
        port=port,
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        # A browser may keep a connection whose page is closed.
        timeout_graceful_shutdown=1,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            ready(f"http://{bracketed(host)}:{self.servers[0].sockets[0].getsockname()[1]}/")

        async def shutdown(self, sockets: Any = None) -> None:
            await notebooks.stop()
            await super().shutdown(sockets)

    server = Server(config)
    log = logging.getLogger("uvicorn.error")
    log.disabled = True  # it would say in its own words what the error below says
    try:
        server.run()
    except SystemExit:
        if server.started:
            raise
        raise ArgumentError(
            "an address this machine can listen on",
            f"{host}:{port}, which is taken or not its own",
            "stop the other program, or use --port 0 to pick a free port",
        ) from None
    finally:
        log.disabled = False

"""The lab's server: an index and the notebooks, for this machine's own browser and nobody else.

Nothing leaves the machine: pages carry a Content-Security-Policy that lets a browser talk to this
server only, and requests that a page of some other site sends here are refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

from bptt.errors import ArgumentError, DependencyError, RunError
from bptt.lab.registry import available

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HERE = Path(__file__).parent
# Where page "Your run" looks for the folder given on the command line.
RUN_VARIABLE = "BPTT_LAB_RUN"
# So long after its page was left a session ends, and with it what runs in it, seconds. A page that was
# away for less goes on where it was.
LEFT = 5
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


def build() -> App:
    """The whole lab as an ASGI application.

    Raises:
        DependencyError: marimo is missing.
    """
    try:
        import marimo
        from starlette.applications import Starlette
        from starlette.responses import HTMLResponse
        from starlette.routing import Mount, Route
    except ImportError:
        raise DependencyError("marimo", "none installed", 'pip install "bptt[lab]"') from None
    notebooks = marimo.create_asgi_app(
        quiet=True, html_head=f"<style>{css()}</style>", session_ttl=LEFT
    )
    for page in available():
        notebooks = notebooks.with_app(path=f"/{page.slug}", root=str(page.file))

    async def front(_: Any) -> HTMLResponse:
        return HTMLResponse(index())

    return guard(Starlette(routes=[Route("/", front), Mount("/", notebooks.build())]))


def guard(app: App) -> App:
    """Add :data:`HEADERS` to every answer; refuse what another site's page sends here."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            await _refuse(scope, send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kept = [h for h in message.get("headers", ()) if h[0].lower() not in HEADERS]
                message = {**message, "headers": [*kept, *HEADERS.items()]}
            await send(message)

        await app(scope, receive, with_headers)

    return guarded


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": 403, "headers": list(HEADERS.items())})
    await send({"type": "http.response.body", "body": b"This server answers its own pages only.\n"})


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
    app = build()
    import uvicorn

    # marimo and uvicorn would report every closed tab.
    logging.getLogger("marimo").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        # An open page holds its connection for as long as it is open.
        timeout_graceful_shutdown=1,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            name = f"[{host}]" if ":" in host else host
            ready(f"http://{name}:{self.servers[0].sockets[0].getsockname()[1]}/")

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

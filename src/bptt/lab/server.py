"""The lab's server: an index and the notebooks, for this machine's own browser and nobody else."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from bptt.errors import ArgumentError, RunError
from bptt.lab.guard import App, bracketed, guard
from bptt.lab.notebooks import Notebooks
from bptt.lab.registry import available

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

    return guard(Starlette(routes=[Route("/", front), Mount("/", notebooks.app)]), host)


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

"""What stands before every page: who may ask, and what the answer tells the browser.

A browser is a door for other sites. Three locks: requests that another site's page sends here are
refused (Origin); so is a site whose name was made to point at this machine, DNS rebinding (Host); and
pages carry a Content-Security-Policy that lets a browser talk to this server only.
"""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

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

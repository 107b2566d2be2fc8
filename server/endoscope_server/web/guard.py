"""What every answer to a browser carries, and which requests are not answered."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from endoscope_server.security.addresses import is_this_machine

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Keeps other sites' pages away from the services, and other hosts' files out of ours.

    A page of another origin is refused. On a loopback address so is every name that is not this
    machine's own, since a name that was rebound to it would make another site's page ours.

    Args:
        app: What answers.
        local: Whether the address is a loopback one.
    """

    def __init__(self, app: ASGIApp, *, local: bool) -> None:
        self._app = app
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if (origin is not None and urlsplit(origin).netloc != host) or (self._local and not is_local(host)):
            refusal = PlainTextResponse("This page may not ask this server.", status_code=403)
            await refusal(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


def is_local(host: str) -> bool:
    """Whether a host, with or without a port, is this machine by its own name or address."""
    try:
        return is_this_machine(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        # Brackets that do not close, for one.
        return False

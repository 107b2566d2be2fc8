"""The page and its services on a port of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import uvicorn
from google.protobuf import descriptor_pool
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from endoscope_server.errors import InvalidInput
from endoscope_server.web.guard import Guard, is_local
from endoscope_server.web.relay import Relay

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"


class Page:
    """Serves the built page and relays its calls to a gRPC server; it listens after :meth:`start`.

    Args:
        address: ``host:port``; port 0 takes a free one.
        services: Full names of the services that the page may call.
        max_request_bytes: The largest request message.
        grace: Seconds that running calls have when it stops.
        context: For TLS; None: in the clear.

    Raises:
        InvalidInput: if the address can't be listened on.
    """

    def __init__(
        self,
        address: str,
        services: Sequence[str],
        max_request_bytes: int,
        grace: float,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="endoscope-web-")
        # Between the two stands a socket file that only we may open: no port of the machine is taken,
        # and it is the same however the gRPC port is secured.
        self.relayed = f"unix:{self._folder.name}/grpc"
        self._services = services
        self._max_request_bytes = max_request_bytes
        self._socket, host = _bind(address)
        self.port: int = self._socket.getsockname()[1]
        self._context = context
        self.url = f"{'http' if context is None else 'https'}://{host}:{self.port}/"
        self._local = is_local(host)
        self._grace = grace
        self._stopped = asyncio.Event()

    async def start(self) -> None:
        """Listen; the gRPC server listens on :attr:`relayed`."""
        self._channel = grpc.aio.insecure_channel(
            self.relayed,
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        pool = descriptor_pool.Default()
        services = [pool.FindServiceByName(name) for name in self._services]
        relay = Relay(self._channel, services, self._max_request_bytes)
        files = ExceptionMiddleware(_Files(directory=STATIC, html=True))
        application = Guard(_Dispatch(relay, files), local=self._local)
        context = self._context
        configuration = uvicorn.Config(
            application,
            ssl_context_factory=None if context is None else lambda _config, _default: context,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(self._grace)),
        )
        self._server = _Embedded(configuration)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.01)
        logger.info("the page is at %s", self.url)

    async def stop(self) -> None:
        """Let running calls end, and close."""
        self._server.should_exit = True
        await self._serving
        await self._channel.close()
        self._folder.cleanup()


class _Dispatch:
    """Calls go to the relay, everything else to the files."""

    def __init__(self, relay: Relay, files: ASGIApp) -> None:
        self._relay = relay
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self._relay.paths:
            await self._relay(scope, receive, send)
        else:
            await self._files(scope, receive, send)


class _Files(StaticFiles):
    """Files whose names tell their content are kept by browsers, the others asked for again."""

    def file_response(
        self, full_path: Any, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """A file, with what browsers may do with it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        kept = scope["path"].startswith("/assets/")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if kept else "no-cache"
        return response


class _Embedded(uvicorn.Server):
    """Leaves signals to the server that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _bind(address: str) -> tuple[socket.socket, str]:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal()):
        raise InvalidInput(f"{address!r} is no address, expected host:port", field="web")
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, int(port)), family=family)
    except (OSError, OverflowError) as error:
        raise InvalidInput(f"can't listen on {address!r}: {error}", field="web") from error
    return listening, f"[{host}]" if family == socket.AF_INET6 else host

"""Refuses calls beyond what the server, or one client, may have under way, with the time to try again."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from endoscope_server.errors import LimitExceeded
from endoscope_server.services.interception import Continuation, wrapped
from endoscope_server.services.roles import OPEN
from endoscope_server.telemetry import call

RETRY_AFTER = 1.0
"""Seconds: most calls are over by then."""


class AdmissionInterceptor(grpc.aio.ServerInterceptor):
    """Counts the calls that are under way; within :class:`AccessInterceptor`, which knows who calls.

    A client is a token's name, or the machine that a call comes from.

    Args:
        calls: The most calls at once.
        client_calls: The most of them of one client.
    """

    def __init__(self, calls: int, client_calls: int) -> None:
        self._calls = calls
        self._client_calls = client_calls
        self._under_way: Counter[str] = Counter()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the method that is called, unless it tells of the server's health."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler_call_details.method in OPEN:
            return handler
        return wrapped(handler, self._counted)

    @contextlib.asynccontextmanager
    async def _counted(self, context: Any) -> AsyncIterator[None]:
        client = call.current().caller or _machine(context.peer())
        if self._under_way.total() >= self._calls:
            raise _too_many("the server", self._calls, "SERVER_BUSY")
        if self._under_way[client] >= self._client_calls:
            raise _too_many("this client", self._client_calls, "TOO_MANY_CALLS")
        self._under_way[client] += 1
        try:
            yield
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]


def _machine(peer: str) -> str:
    """A peer without its port: ``ipv4:127.0.0.1:5`` is of ``ipv4:127.0.0.1``."""
    return peer if peer.startswith("unix:") else peer.rpartition(":")[0]


def _too_many(whose: str, limit: int, reason: str) -> LimitExceeded:
    return LimitExceeded(
        f"{limit} calls of {whose} are under way, expected fewer; try again later",
        reason=reason,
        retry_after=RETRY_AFTER,
    )

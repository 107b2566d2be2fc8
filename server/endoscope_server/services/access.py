"""Lets callers in by their bearer token, and to each method by their role."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from endoscope_server.errors import EndoscopeError, Forbidden, Unauthenticated
from endoscope_server.security import Caller, TokenFile
from endoscope_server.services.interception import Continuation, wrapped
from endoscope_server.services.roles import OPEN, ROLES
from endoscope_server.telemetry import call


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without a token that may make them, before their messages are parsed.

    Args:
        tokens: The tokens that are accepted.
    """

    def __init__(self, tokens: TokenFile) -> None:
        self._tokens = tokens

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Pass the call on, or something that refuses it."""
        handler: Any = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method in OPEN:
            return handler
        try:
            caller = self._caller(handler_call_details.invocation_metadata)
            call.name_caller(caller.name)
            _check(caller, method)
        except EndoscopeError as error:
            return _refusing(handler, error)
        return handler

    def _caller(self, metadata: Any) -> Caller:
        given = [value for key, value in metadata or () if key == "authorization"]
        if not given:
            raise Unauthenticated(
                "this server asks for a token, expected the metadata 'authorization: Bearer …'",
                reason="NO_TOKEN",
            )
        scheme, _, token = str(given[0]).partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated(
                "the metadata 'authorization' is not 'Bearer' and one token", reason="MALFORMED_TOKEN"
            )
        return self._tokens.caller(token.strip())


def _check(caller: Caller, method: str) -> None:
    needed = ROLES.get(method)
    if needed is None or caller.role < needed:
        wanted = f"the role {needed.name.lower()}" if needed else "what no role allows"
        raise Forbidden(
            f"{method} takes {wanted}, the token {caller.name!r} has the role {caller.role.name.lower()}",
            reason="ROLE_TOO_LOW",
            metadata={
                "method": method,
                "role": caller.role.name.lower(),
                "expected": needed.name.lower() if needed else "",
            },
        )


def _refusing(handler: Any, error: EndoscopeError) -> Any:
    @contextlib.asynccontextmanager
    async def refuse(_: Any) -> AsyncIterator[None]:
        raise error
        yield

    refused = wrapped(handler, refuse)
    return refused._replace(request_deserializer=None)

"""All methods of a server, found by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc


class Methods(grpc.GenericRpcHandler):
    """Takes the place of a server where services are added; the server then gets this one handler for all.

    A server of grpc.aio awaits calls of each method that is registered with it in a task of the method's own,
    and goes through all these tasks whenever any call comes. With sixty methods a small call takes a twelfth
    longer.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Add the methods of a service; called by generated code."""
        for name, handler in method_handlers.items():
            self._handlers[f"/{service_name}/{name}"] = handler

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Nothing: generated code adds the same methods the other way, too."""

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a call, None for a method that is not there; called by the server."""
        return self._handlers.get(handler_call_details.method)

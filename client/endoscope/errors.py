"""What goes wrong, as exceptions that say which field is at fault and what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of a request that the server did not accept.

    Attributes:
        field: Its path, such as ``classes[1]`` or ``regularizers.l2_weight``.
        description: What is wrong with it, and what was expected.
    """

    field: str
    description: str


class EndoscopeError(Exception):
    """Any error of a call; the class tells its kind.

    Attributes:
        message: One sentence for people.
        code: The gRPC status, such as ``INVALID_ARGUMENT``.
        reason: An UPPER_SNAKE_CASE word for programs; may be empty.
        violations: The fields at fault.
        metadata: Further facts for programs, such as the operator that has no gradient.
        retry_after: Seconds after which the same call may succeed; None if the server did not say so.
    """

    code = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after

    @property
    def field(self) -> str:
        """The path of the first field at fault; empty if no field is."""
        return self.violations[0].field if self.violations else ""


class InvalidArgument(EndoscopeError, ValueError):
    """A value that can never be right. Raised by the client itself too, before anything is sent."""

    code = "INVALID_ARGUMENT"


class NotFound(EndoscopeError):
    """A model, layer, dataset or job that is not there."""

    code = "NOT_FOUND"


class AlreadyExists(EndoscopeError):
    """A name that is taken."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(EndoscopeError):
    """What is asked for is forbidden as things stand, such as gradients of a model that failed parity."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(EndoscopeError):
    """More than the server allows."""

    code = "RESOURCE_EXHAUSTED"


class Unimplemented(EndoscopeError):
    """Something that this server can't do."""

    code = "UNIMPLEMENTED"


class Cancelled(EndoscopeError):
    """Work that was stopped before its end."""

    code = "CANCELLED"


class DeadlineExceeded(EndoscopeError, TimeoutError):
    """The time that the call was given is over; the server has stopped its work."""

    code = "DEADLINE_EXCEEDED"


class Unreachable(EndoscopeError, ConnectionError):
    """No server answers at the target, or the connection to it was lost."""

    code = "UNAVAILABLE"


class Unauthenticated(EndoscopeError):
    """The server does not know who asks."""

    code = "UNAUTHENTICATED"


class PermissionDenied(EndoscopeError):
    """The server knows who asks, and refuses."""

    code = "PERMISSION_DENIED"


class InternalError(EndoscopeError):
    """The server failed inside; its log says more."""

    code = "INTERNAL"


_KINDS: Mapping[str, type[EndoscopeError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        ResourceExhausted,
        Unimplemented,
        Cancelled,
        DeadlineExceeded,
        Unreachable,
        Unauthenticated,
        PermissionDenied,
        InternalError,
    )
}


def invalid(message: str, field: str) -> InvalidArgument:
    """An :class:`InvalidArgument` that names its field, found before anything was sent."""
    return InvalidArgument(f"{field}: {message}", violations=[FieldViolation(field, message)])


def from_rpc(error: Any, target: str) -> EndoscopeError:
    """The error of a call, from what gRPC raised.

    Args:
        error: A ``grpc.RpcError`` or ``grpc.aio.AioRpcError`` of a call that ended.
        target: Where the call went, for the message of a server that can't be reached.
    """
    code = error.code().name
    message = error.details() or code.lower().replace("_", " ")
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        message = f"no server answers at {target}: {message}"
    elif error.code() is grpc.StatusCode.UNIMPLEMENTED:
        message = f"the server at {target} does not offer this: {message}"
    made = _KINDS.get(code, EndoscopeError)(message, **_details(error.trailing_metadata()))
    made.code = code
    return made


def _details(trailing: Any) -> dict[str, Any]:
    """What google.rpc's details tell, as arguments of an error."""
    found: dict[str, Any] = {}
    content = next((value for key, value in trailing or () if key == _DETAILS_KEY), None)
    for detail in status_pb2.Status.FromString(content).details if content else ():
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            found |= {"reason": info.reason, "metadata": dict(info.metadata)}
        elif detail.Unpack(request):
            found["violations"] = [
                FieldViolation(violation.field, violation.description)
                for violation in request.field_violations
            ]
        elif detail.Unpack(retry):
            found["retry_after"] = retry.retry_delay.ToMilliseconds() / 1000
    return found

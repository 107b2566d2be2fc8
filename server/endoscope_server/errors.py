"""The errors that every room of the server raises, and that the services turn into gRPC statuses.

Each class stands for one gRPC status code, but knows nothing of gRPC: the graph, the mirror and the
techniques raise them too. ``field`` is the path of the offending request field (``classes[1]``,
``preprocessing.mean``) where one is known; code below the services may leave it empty, and the caller
that knows the field adds it with :meth:`EndoscopeError.at`.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from typing import Self


class EndoscopeError(Exception):
    """An error whose message is meant for the user.

    Args:
        message: One sentence that says what is wrong and what was expected.
        field: Path of the request field at fault, or an empty string.
        reason: An UPPER_SNAKE_CASE word that programs can switch on.
        metadata: Further facts for programs, such as the node and the opset.
        retry_after: Seconds after which the same request may succeed; None if it will not.
    """

    default_reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after

    def at(self, field: str) -> Self:
        """The same error, with ``field`` named if none was named before."""
        self.field = self.field or field
        return self


class InvalidInput(EndoscopeError):
    """A value that can never be right for this request (INVALID_ARGUMENT)."""

    default_reason = "INVALID_INPUT"


class NotFound(EndoscopeError):
    """A model, layer, dataset or job that is not there (NOT_FOUND)."""

    default_reason = "NOT_FOUND"


class AlreadyExists(EndoscopeError):
    """A name that is taken (ALREADY_EXISTS)."""

    default_reason = "ALREADY_EXISTS"


class PreconditionFailed(EndoscopeError):
    """A request that the state of the model or job forbids (FAILED_PRECONDITION)."""

    default_reason = "PRECONDITION_FAILED"


class LimitExceeded(EndoscopeError):
    """A request larger than this server allows (RESOURCE_EXHAUSTED)."""

    default_reason = "LIMIT_EXCEEDED"


class Unavailable(EndoscopeError):
    """A server that can't answer now, and will again soon (UNAVAILABLE)."""

    default_reason = "UNAVAILABLE"


class Unauthenticated(EndoscopeError):
    """A caller who does not say who it is, or whom nobody knows (UNAUTHENTICATED)."""

    default_reason = "UNAUTHENTICATED"


class Forbidden(EndoscopeError):
    """Something that the caller's role does not allow (PERMISSION_DENIED)."""

    default_reason = "FORBIDDEN"


class Unsupported(EndoscopeError):
    """Something that this server can't do (UNIMPLEMENTED)."""

    default_reason = "UNSUPPORTED"


class Cancelled(EndoscopeError):
    """Work that was stopped before its end, because somebody asked for it (CANCELLED)."""

    default_reason = "CANCELLED"


@contextlib.contextmanager
def blaming(field: str) -> Iterator[None]:
    """Errors within are the fault of ``field``, unless they name another."""
    try:
        yield
    except EndoscopeError as error:
        raise error.at(field) from None


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_WRITING = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def of_the_disk(error: OSError) -> EndoscopeError | None:
    """What to tell of a file that could not be written; None for errors that are not foreseen."""
    if error.errno in _NO_ROOM:
        return LimitExceeded(
            "the server's disk is full; ask its operator to make room", reason="DISK_FULL", retry_after=60.0
        )
    if error.errno in _NO_WRITING:
        return Unavailable("the server can't write to its folder; ask its operator", reason="STATE_READ_ONLY")
    return None

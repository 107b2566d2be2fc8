"""The call that is being answered, wherever in the code one stands."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


@dataclass(frozen=True, slots=True)
class Call:
    """What logs tell of a call.

    Attributes:
        request_id: The client's own, or one that was made.
        caller: The name of the caller's token; empty without tokens.
        job_id: The job that is worked on; empty for none.
    """

    request_id: str = ""
    caller: str = ""
    job_id: str = ""


_current: ContextVar[Call] = ContextVar("call", default=Call())  # noqa: B039  # it is frozen


def current() -> Call:
    """The call that is being answered here."""
    return _current.get()


def begin(request_id: str) -> Call:
    """A call begins in this task. An identifier that no log should hold is replaced by one that is made."""
    call = Call(request_id if _IDENTIFIER.fullmatch(request_id) else secrets.token_hex(8))
    _current.set(call)
    return call


def name_caller(name: str) -> None:
    """Whose call it is."""
    _current.set(dataclasses.replace(_current.get(), caller=name))


def name_job(identifier: str) -> Call:
    """Which job the call is about."""
    call = dataclasses.replace(_current.get(), job_id=identifier)
    _current.set(call)
    return call


@contextlib.contextmanager
def within(call: Call) -> Iterator[None]:
    """What is done in the block is done for a call that began elsewhere."""
    before = _current.set(call)
    try:
        yield
    finally:
        _current.reset(before)

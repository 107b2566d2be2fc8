"""Bearer tokens with roles, in a file that holds their hashes only."""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from endoscope_server.errors import InvalidInput, Unauthenticated
from endoscope_server.security.reloading import Reloading

_PREFIX = "endoscope_"
"""Tokens begin with it, so that people and scanners of repositories know one when they see it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Role(enum.IntEnum):
    """What a caller may do. Each role may do what those before it may."""

    READ = 1
    RUN = 2
    ADMIN = 3

    @classmethod
    def of(cls, name: Any) -> Role:
        """A role by its name in lower case. Raises ValueError, with all names."""
        for role in cls:
            if role.name.lower() == name:
                return role
        raise ValueError(f"expected one of {', '.join(role.name.lower() for role in cls)}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        name: The token's name in the file.
        role: What it may do.
    """

    name: str
    role: Role


class _Entry(BaseModel):
    """One token in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    expires: datetime | None = None

    @field_validator("role", mode="before")
    @classmethod
    def _role(cls, name: Any) -> Role:
        return Role.of(name)

    @field_validator("expires")
    @classmethod
    def _zone(cls, moment: datetime | None) -> datetime | None:
        return moment.replace(tzinfo=moment.tzinfo or UTC) if moment else None


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    digest: bytes
    expires: datetime | None


class TokenFile:
    """The tokens that are accepted; the file is read again when it changes.

    It is a TOML file with one line a token, see :func:`entry`.

    Args:
        path: The file.

    Raises:
        InvalidInput: if there is none, or it is wrong. The message tells no content.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = Reloading([path], self._read)

    def caller(self, token: str) -> Caller:
        """Whose token it is.

        Raises:
            Unauthenticated: if nobody's, or if it has expired.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known, _ = self._known.get()
        found: _Known | None = None
        # All of them are compared, so that the time tells nothing of the one that matches.
        for one in known:
            found = one if hmac.compare_digest(one.digest, digest) else found
        if found is None:
            raise Unauthenticated("this token is not known to the server", reason="UNKNOWN_TOKEN")
        if found.expires is not None and found.expires <= datetime.now(UTC):
            raise Unauthenticated(
                f"the token {found.caller.name!r} expired at {found.expires.isoformat()}",
                reason="TOKEN_EXPIRED",
            )
        return found.caller

    def _read(self) -> Sequence[_Known]:
        try:
            entries = TypeAdapter(dict[str, _Entry]).validate_python(
                tomllib.loads(self._path.read_text("utf-8"))
            )
        except ValidationError as error:
            # The input is not told: somebody may have put a token where its hash belongs.
            wrong = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, wrong["loc"]))
            raise InvalidInput(f"{self._path}: {where}: {wrong['msg']}", field="tokens") from None
        except ValueError as error:
            raise InvalidInput(f"{self._path} is no TOML file: {error}", field="tokens") from None
        return tuple(
            _Known(Caller(name, one.role), bytes.fromhex(one.sha256), one.expires)
            for name, one in entries.items()
        )


def new_token() -> str:
    """A token of 256 random bits.

    Since it is that long, a plain hash keeps it: there is nothing to guess, as there is with passwords.
    """
    return _PREFIX + secrets.token_urlsafe(32)


def entry(name: str, role: Role, token: str, expires: datetime | None = None) -> str:
    """The line for the file.

    Args:
        name: Whose it is; logs tell it.
        role: What it may do.
        token: The token, of which only the hash is told.
        expires: When it stops being accepted; in UTC.

    Raises:
        InvalidInput: for a name that can't be one.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is no name, expected up to 64 letters, digits, '-' and '_'", field="name"
        )
    until = f", expires = {expires.strftime('%Y-%m-%dT%H:%M:%SZ')}" if expires else ""
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'{name} = {{ role = "{role.name.lower()}", sha256 = "{digest}"{until} }}'

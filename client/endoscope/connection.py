"""How a client reaches its server."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from endoscope.errors import InvalidArgument

MAX_UPLOAD_BYTES = 256 * 2**20
"""The largest single message that is sent."""

DEFAULT_TARGET = "127.0.0.1:50051"

SERVER_VARIABLE = "ENDOSCOPE_SERVER"
"""The environment variable that says where the server is."""

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", MAX_UPLOAD_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
)


@dataclass(frozen=True, slots=True)
class Connection:
    """How a client reaches its server.

    Attributes:
        target: ``host:port``, or ``unix:PATH``.
        tls: True: the server is asked to prove who it is.
        root_certificates: PEM of the authorities that are trusted; None: the system's.
        client_key: PEM of the client's own key, for servers that ask for it.
        client_certificate: PEM of the client's own certificate.
        token: Sent as ``authorization: Bearer``.
        timeout: Seconds that each call has; None: as long as it takes.
        reconnect_for: Seconds for which a lost stream of a detached job is taken up again.
    """

    target: str
    tls: bool = False
    root_certificates: bytes | None = None
    client_key: bytes | None = None
    client_certificate: bytes | None = None
    token: str | None = None
    timeout: float | None = None
    reconnect_for: float = 60.0

    def channel(self, module: Any) -> Any:
        """A channel of ``grpc`` or of ``grpc.aio``."""
        if not self.tls:
            return module.insecure_channel(self.target, options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            self.root_certificates, self.client_key, self.client_certificate
        )
        return module.secure_channel(self.target, credentials, options=_OPTIONS)

    def arguments(self) -> dict[str, Any]:
        """What every call is given beside its request."""
        metadata = (("authorization", f"Bearer {self.token}"),) if self.token else None
        return {"timeout": self.timeout, "metadata": metadata}

    def within(self, timeout: float | None) -> Connection:
        """The same with another timeout."""
        return dataclasses.replace(self, timeout=timeout)


def connection(
    target: str | None,
    *,
    tls: bool = False,
    root_certificates: str | Path | bytes | None = None,
    client_key: str | Path | bytes | None = None,
    client_certificate: str | Path | bytes | None = None,
    token: str | None = None,
    timeout: float | None = None,
    reconnect_for: float = 60.0,
) -> Connection:
    """A connection, checked. Without a target the environment says where the server is, or it is here.

    Raises:
        InvalidArgument: for a token that would travel in the clear to another machine, a certificate without
            its key, a file that can't be read, or a timeout that is not positive.
    """
    target = target or os.environ.get(SERVER_VARIABLE) or DEFAULT_TARGET
    if (client_certificate is None) != (client_key is None):
        raise InvalidArgument("client_certificate and client_key go together, expected both or neither")
    secure = tls or root_certificates is not None or client_certificate is not None
    if token and not secure and not _is_local(target):
        raise InvalidArgument(f"a token for {target} needs TLS: it would travel in the clear")
    if timeout is not None and not timeout > 0:
        raise InvalidArgument(f"timeout is {timeout}, expected a positive number of seconds")
    return Connection(
        target,
        secure,
        _pem(root_certificates),
        _pem(client_key),
        _pem(client_certificate),
        token,
        timeout,
        reconnect_for,
    )


def _pem(source: str | Path | bytes | None) -> bytes | None:
    if source is None or isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"can't read {str(source)!r}: {error.strerror}") from error


def _is_local(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].rpartition("/")[2].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

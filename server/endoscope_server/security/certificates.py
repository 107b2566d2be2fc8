"""The certificates of TLS, read again when they change."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from endoscope_server.errors import InvalidInput
from endoscope_server.security.reloading import Reloading


@dataclass(frozen=True, slots=True)
class Chain:
    """What a server shows and trusts, as PEM.

    Attributes:
        key: Its private key.
        certificate: Its certificate, followed by those of the authorities between it and a root.
        client_authorities: Who signs certificates of clients; None if clients need none.
    """

    key: bytes
    certificate: bytes
    client_authorities: bytes | None


class Certificates:
    """The files of a server's certificates.

    Args:
        certificate: PEM file of the certificate and the chain above it.
        key: PEM file of its private key.
        client_authorities: PEM file of the authorities of clients; with it, clients must show a certificate.

    Raises:
        InvalidInput: if a file can't be read, is no PEM, or the key is not the certificate's.
    """

    def __init__(self, certificate: Path, key: Path, client_authorities: Path | None) -> None:
        self.mutual = client_authorities is not None
        self._certificate, self._key, self._client_authorities = certificate, key, client_authorities
        paths = [certificate, key, *([client_authorities] if client_authorities else [])]
        self._chain = Reloading(paths, self._read)

    def chain(self) -> Chain:
        """The chain as it is now."""
        return self._chain.get()[0]

    def renewed(self) -> Chain | None:
        """The chain, if it is another than when it was asked for last."""
        chain, new = self._chain.get()
        return chain if new else None

    def _read(self) -> Chain:
        authorities = self._client_authorities
        # gRPC takes anything here and fails in each handshake; OpenSSL says at once what is wrong.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except ssl.SSLError as error:
            raise InvalidInput(
                f"{self._certificate} and {self._key} are no certificate and its key in PEM, without a "
                f"password: {error.reason or error}",
                field="tls_certificate",
            ) from error
        try:
            if authorities is not None:
                context.load_verify_locations(authorities)
        except ssl.SSLError as error:
            raise InvalidInput(
                f"{authorities} holds no certificates in PEM: {error.reason or error}", field="tls_client_ca"
            ) from error
        return Chain(
            self._key.read_bytes(),
            self._certificate.read_bytes(),
            authorities.read_bytes() if authorities is not None else None,
        )


def _no_password() -> str:
    """In place of OpenSSL's question at the terminal."""
    return ""

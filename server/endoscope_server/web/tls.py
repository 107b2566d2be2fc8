"""TLS for the page, by the same files as for gRPC."""

from __future__ import annotations

import ssl
from pathlib import Path

from endoscope_server.security.reloading import Reloading


def tls_context(certificate: Path, key: Path, client_authorities: Path | None) -> ssl.SSLContext:
    """A context for servers whose handshakes go by the files as they are then.

    Args:
        certificate: PEM file of the certificate and the chain above it.
        key: PEM file of its private key.
        client_authorities: PEM file of the authorities of clients; with it, browsers must show a certificate.

    Raises:
        InvalidInput: if a file can't be read.
        ssl.SSLError: if a file holds something else.
    """

    def read() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_authorities)
        context.load_cert_chain(certificate, key)
        if client_authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    paths = [certificate, key, *([client_authorities] if client_authorities else [])]
    contexts = Reloading(paths, read)
    context = read()

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = contexts.get()[0]

    # OpenSSL asks this in each handshake, whether the client names a host or not.
    context.sni_callback = renew
    return context

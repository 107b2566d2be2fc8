"""Where a server listens, in the clear or over TLS."""

from __future__ import annotations

import logging

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc

from endoscope_server.errors import InvalidInput
from endoscope_server.security import Certificates
from endoscope_server.security.addresses import is_address_of_this_machine
from endoscope_server.security.certificates import Chain
from endoscope_server.settings import Settings

logger = logging.getLogger(__name__)


def listen(server: grpc.aio.Server, settings: Settings) -> int:
    """Make a server listen where the settings say.

    Returns:
        The port.

    Raises:
        InvalidInput: if it can't listen there, or there is something wrong with the certificates.
    """
    try:
        if settings.tls_certificate is None or settings.tls_key is None:
            return server.add_insecure_port(settings.listen)
        certificates = Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        return server.add_secure_port(settings.listen, _credentials(certificates))
    except RuntimeError as error:
        raise InvalidInput(f"can't listen on {settings.listen!r}", field="listen") from error


class HealthPort:
    """Answers health checks and nothing else, in the clear.

    Args:
        servicer: What answers.
        address: ``host:port``; port 0 takes a free one.

    Raises:
        InvalidInput: if the address can't be listened on.
    """

    def __init__(self, servicer: health.aio.HealthServicer, address: str) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise InvalidInput(f"can't listen on {address!r}", field="health_listen") from error

    async def start(self) -> None:
        """Listen."""
        await self._server.start()
        logger.info("health is told at port %d", self.port)

    async def stop(self) -> None:
        """Answer no more."""
        await self._server.stop(None)


def warn(settings: Settings) -> None:
    """Say in the log what is open to more people than its operator may think."""
    if settings.tokens is not None and settings.tls_certificate is None:
        logger.warning("tokens travel in the clear, since there is no --tls-certificate")
    if (
        settings.tokens is None
        and settings.tls_client_ca is None
        and not is_address_of_this_machine(settings.listen)
    ):
        logger.warning("whoever reaches %s may do everything, since there are no --tokens", settings.listen)


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    def renewed() -> grpc.ServerCertificateConfiguration | None:
        # Asked for before each handshake; None keeps what there is.
        chain = certificates.renewed()
        return None if chain is None else _configuration(chain)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(certificates.chain()),
        renewed,  # type: ignore[arg-type]  # the stubs do not know that it may return None
        require_client_authentication=certificates.mutual,
    )


def _configuration(chain: Chain) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(chain.key, chain.certificate)], chain.client_authorities
    )

"""Messages that many tests of the services send."""

from __future__ import annotations

import io
import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from endoscope.v1 import image_pb2

MODEL = "models/efficientnet-lite0"


def as_message(picture: Image.Image) -> image_pb2.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return image_pb2.Image(encoded=buffer.getvalue())


@pytest.fixture(scope="session")
def photo(photos: dict[str, Image.Image]) -> Callable[[str], image_pb2.Image]:
    """A photo as a message, by name."""
    return lambda name: as_message(photos[name])


Failure = Callable[[Callable[[], Any]], tuple[grpc.StatusCode, str, str, str]]


@pytest.fixture(scope="session")
def failure() -> Failure:
    """What a call that must fail fails with: the code, the field at fault, the reason, the sentence."""

    def of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        error: Any = caught.value
        metadata = dict(error.trailing_metadata())
        assert "grpc-status-details-bin" in metadata, error
        status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
        field, reason = "", ""
        for detail in status.details:
            info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(request):
                field = request.field_violations[0].field
        assert "Traceback" not in error.details()
        return error.code(), field, reason, error.details()

    return of


@pytest.fixture(scope="session")
def data_server(
    start_server, lite0_path: Path, digits_cnn_path: Path, album: Path, tmp_path_factory
) -> Iterator[Any]:
    """A server that may make datasets of the album, as ``datasets/album``, and of what lies beside it."""
    from endoscope.v1 import dataset_pb2, dataset_pb2_grpc

    root = ("--datasets-root", str(album.parent))
    with start_server(tmp_path_factory.mktemp("state"), lite0_path.parent, *root) as running:
        request = dataset_pb2.CreateDatasetRequest(dataset_id="album", path=str(album))
        dataset_pb2_grpc.DatasetServiceStub(running.channel).CreateDataset(request, timeout=30)
        yield running
        health = health_pb2_grpc.HealthStub(running.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert "Traceback" not in (running.state / "log").read_text()


@dataclass(frozen=True)
class Signed:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _name(name)
        made = _builder(self._subject, self._subject, self._key)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(_pem(made.sign(self._key, hashes.SHA256())))

    def sign(self, name: str) -> Signed:
        """A certificate for this machine's own names."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = _builder(_name(name), self._subject, key)
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = Signed(self._folder / f"{self._name}-{name}.pem", self._folder / f"{self._name}-{name}.key")
        signed.certificate.write_bytes(_pem(made.sign(self._key, hashes.SHA256())))
        signed.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return signed


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="session")
def authority() -> Callable[[Path, str], Authority]:
    """Makes authorities that sign certificates: a folder for their files, and a name."""
    return Authority

"""The page of a server that asks for certificates and tokens."""

from __future__ import annotations

import datetime
import http.client
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from endoscope_server.security import Role, entry, new_token


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> tuple[Path, str]:
    """A file of tokens, and one of them, for reading only."""
    token = new_token()
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(entry("reader", Role.READ, token) + "\n")
    return path, token


def certify(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that is its own authority, for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}-key.pem"
    pem = serialization.Encoding.PEM
    paths[0].write_bytes(certificate.public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(pem, *private))
    return paths


def status(port: int, trusted: Path, shown: tuple[Path, Path] | None, **headers: str) -> int:
    context = ssl.create_default_context(cafile=trusted)
    if shown is not None:
        context.load_cert_chain(*shown)
    connection = http.client.HTTPSConnection("localhost", port, timeout=20, context=context)
    path = "/endoscope.v1.ModelService/ListModels"
    connection.request("POST", path, b"{}", {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_certificates_are_asked_for_as_by_grpc(
    start_server, address, digits_cnn_path: Path, tokens, tmp_path: Path
) -> None:
    server, client = certify(tmp_path, "server"), certify(tmp_path, "client")
    state = tmp_path / "state"
    state.mkdir()
    options = ["--tls-certificate", str(server[0]), "--tls-key", str(server[1])]
    options += ["--tls-client-ca", str(client[0]), "--tokens", str(tokens[0]), "--web", "127.0.0.1:0"]
    with start_server(state, digits_cnn_path.parent, *options):
        url = address(state)
        assert url.startswith("https://")
        port = int(url.rstrip("/").rpartition(":")[2])
        shown = {"Authorization": f"Bearer {tokens[1]}"}
        assert status(port, server[0], client, **shown) == 200
        assert status(port, server[0], client) == 401
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            status(port, server[0], None, **shown)
        # A new certificate is used from the next handshake on.
        renewed = certify(tmp_path, "renewed")
        server[0].write_bytes(renewed[0].read_bytes())
        server[1].write_bytes(renewed[1].read_bytes())
        assert status(port, renewed[0], client, **shown) == 200


def test_the_page_asks_for_a_token(
    start_server, address, browser, digits_cnn_path: Path, tokens, tmp_path: Path
) -> None:
    options = ("--tokens", str(tokens[0]), "--web", "127.0.0.1:0")
    with start_server(tmp_path, digits_cnn_path.parent, *options):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address(tmp_path))
        page.get_by_label("Token").fill("endoscope_wrong")
        page.get_by_role("button", name="Enter").click()
        page.get_by_text("not known to the server").wait_for()
        page.get_by_label("Token").fill(tokens[1])
        page.get_by_role("button", name="Enter").click()
        page.get_by_role("link", name="digits-cnn").wait_for()
        # What this token may not do is told in the server's words.
        page.get_by_label("Add a model: an ONNX file").set_input_files(digits_cnn_path)
        page.get_by_role("alert").filter(has_text="Not allowed").wait_for()
        page.close()

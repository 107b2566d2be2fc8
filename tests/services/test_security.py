"""TLS, client certificates, tokens and roles, against a server that asks for all of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from google.rpc import error_details_pb2, status_pb2

import endoscope
from endoscope_server.security import Role, entry, new_token
from endoscope_server.services.methods import Methods
from endoscope_server.services.roles import OPEN, ROLES
from endoscope_server.services.server import Server
from endoscope_server.settings import Settings

TOKENS = {role: new_token() for role in Role}
EXPIRED = new_token()
STRANGE = "a-token-that-nobody-knows-0123456789"


@dataclass(frozen=True)
class Guarded:
    """A server that asks for certificates and tokens."""

    running: Any
    ours: Any
    theirs: Any
    server: Any
    client: Any
    tokens: Path

    def channel(self) -> grpc.Channel:
        """A channel with all that is asked for but a token."""
        credentials = grpc.ssl_channel_credentials(
            self.ours.certificate.read_bytes(),
            self.client.key.read_bytes(),
            self.client.certificate.read_bytes(),
        )
        # A channel of its own, so that its handshake is a new one.
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(self.running.target, credentials, options)

    def arguments(self, role: Role = Role.ADMIN) -> dict[str, Any]:
        """What :func:`endoscope.connect` takes."""
        return {
            "root_certificates": self.ours.certificate,
            "client_certificate": self.client.certificate,
            "client_key": self.client.key,
            "token": TOKENS[role],
            "timeout": 20,
        }

    def log(self) -> list[dict[str, Any]]:
        """The log; gRPC's own lines, which tell why a handshake failed, are not JSON."""
        lines = (self.running.state / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if not re.match(r"[IWE]\d{4} ", line)]


@pytest.fixture(scope="module")
def guarded(start_server, authority, digits_cnn_path, tmp_path_factory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    ours, theirs = (authority(folder, name) for name in ("ours", "theirs"))
    server, client = ours.sign("server"), ours.sign("client")
    tokens = folder / "tokens.toml"
    lines = [entry(f"the-{role.name.lower()}-token", role, TOKENS[role]) for role in Role]
    lines.append(entry("the-late", Role.ADMIN, EXPIRED, datetime.now(UTC) - timedelta(seconds=1)))
    tokens.write_text("\n".join(lines) + "\n")
    options = ("--tls-certificate", str(server.certificate), "--tls-key", str(server.key))
    options += ("--tls-client-ca", str(ours.certificate), "--tokens", str(tokens))
    options += ("--log-level", "debug", "--log-format", "json", "--health-listen", "127.0.0.1:0")
    (folder / "state").mkdir()
    with start_server(folder / "state", digits_cnn_path.parent, *options) as running:
        yield Guarded(running, ours, theirs, server, client, tokens)
        log = (running.state / "log").read_text()
    for secret in (*TOKENS.values(), EXPIRED, STRANGE):
        assert secret not in log
    assert "PRIVATE KEY" not in log


def _outcome(
    channel: grpc.Channel, method: str, *authorization: str, request: bytes = b""
) -> tuple[Any, str]:
    """The code and the reason that a call with an empty request ends with; OK as soon as it has an answer."""
    metadata = [("authorization", value) for value in authorization]
    # Whatever the method streams: on the wire one message is one message.
    call = channel.stream_stream(method)(iter([request]), metadata=metadata, timeout=30)
    try:
        next(call, None)
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        status = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b""))
        info = error_details_pb2.ErrorInfo()
        found = [info.reason for detail in status.details if detail.Unpack(info)]
        return error.code(), "".join(found)
    call.cancel()
    return grpc.StatusCode.OK, ""


async def test_each_method_that_is_served_has_a_role(tmp_path, monkeypatch) -> None:
    served: set[str] = set()

    def note(_methods: Methods, service: str, handlers: dict[str, Any]) -> None:
        served.update(f"/{service}/{name}" for name in handlers)

    monkeypatch.setattr(Methods, "add_registered_method_handlers", note)
    server = Server(Settings(listen="127.0.0.1:0", state=tmp_path))
    await server.start()
    await server.stop()
    assert len(served) > 40
    assert served == ROLES.keys() | OPEN


@pytest.mark.parametrize("method", sorted(ROLES))
def test_each_role_may_call_what_it_may_and_nothing_else(guarded: Guarded, method: str) -> None:
    with guarded.channel() as channel:
        assert _outcome(channel, method) == (grpc.StatusCode.UNAUTHENTICATED, "NO_TOKEN")
        for role in Role:
            code, reason = _outcome(channel, method, f"Bearer {TOKENS[role]}")
            if role < ROLES[method]:
                assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW")
            else:
                assert code not in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


@pytest.mark.parametrize("method", sorted(OPEN))
def test_health_asks_for_no_token(guarded: Guarded, method: str) -> None:
    with guarded.channel() as channel:
        assert _outcome(channel, method)[0] is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ([f"Bearer {STRANGE}"], "UNKNOWN_TOKEN"),
        ([f"Bearer {EXPIRED}"], "TOKEN_EXPIRED"),
        ([f"Basic {STRANGE}"], "MALFORMED_TOKEN"),
        (["Bearer"], "MALFORMED_TOKEN"),
        ([STRANGE], "MALFORMED_TOKEN"),
        ([f"Bearer {TOKENS[Role.ADMIN]}", f"Bearer {TOKENS[Role.ADMIN]}"], "MALFORMED_TOKEN"),
    ],
)
def test_what_is_no_good_token_is_refused(guarded: Guarded, authorization: list[str], reason: str) -> None:
    with guarded.channel() as channel:
        outcome = _outcome(channel, "/endoscope.v1.ModelService/ListModels", *authorization)
        assert outcome == (grpc.StatusCode.UNAUTHENTICATED, reason)


def test_a_request_is_not_parsed_before_its_caller_is_known(guarded: Guarded) -> None:
    method, garbage = "/endoscope.v1.ModelService/ListModels", b"\xff" * 1000
    admin = f"Bearer {TOKENS[Role.ADMIN]}"
    with guarded.channel() as channel:
        assert _outcome(channel, method, request=garbage)[0] is grpc.StatusCode.UNAUTHENTICATED
        known = _outcome(channel, method, f"Bearer {TOKENS[Role.READ]}", request=garbage)
        assert known == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
        known = _outcome(channel, "/endoscope.v1.ModelService/UploadModel", admin, request=garbage)
        assert known == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    assert not any("exception" in line for line in guarded.log())


def test_a_method_that_is_not_there_is_unimplemented(guarded: Guarded) -> None:
    with guarded.channel() as channel:
        assert _outcome(channel, "/endoscope.v1.ModelService/Nothing")[0] is grpc.StatusCode.UNIMPLEMENTED


def test_the_client_library_and_its_errors(guarded: Guarded) -> None:
    target = guarded.running.target
    with endoscope.connect(target, **guarded.arguments(Role.READ)) as client:
        assert [model.model_id for model in client.list_models()].count("digits-cnn") == 1
        with pytest.raises(endoscope.errors.PermissionDenied) as caught:
            client.load_model("digits-cnn")
        assert caught.value.metadata["expected"] == "admin"
        assert "the-read-token" in caught.value.message
    with (
        endoscope.connect(target, **{**guarded.arguments(), "token": None}) as client,
        pytest.raises(endoscope.errors.Unauthenticated),
    ):
        client.list_models()


@pytest.mark.parametrize(
    "change",
    [
        {"client_certificate": None, "client_key": None},
        {"root_certificates": "theirs"},
        {"client": "theirs"},
        {"root_certificates": None, "client_certificate": None, "client_key": None},
    ],
    ids=["no client certificate", "a server of another authority", "a client of another authority", "no TLS"],
)
def test_without_the_right_certificates_there_is_no_connection(
    guarded: Guarded, change: dict[str, Any]
) -> None:
    change = dict(change)
    if change.get("root_certificates") == "theirs":
        change["root_certificates"] = guarded.theirs.certificate
    if change.pop("client", None):
        stranger = guarded.theirs.sign("client")
        change |= {"client_certificate": stranger.certificate, "client_key": stranger.key}
    with (
        endoscope.connect(
            guarded.running.target, **{**guarded.arguments(), **change, "timeout": 5}
        ) as client,
        pytest.raises(endoscope.errors.Unreachable),
    ):
        client.list_models()


def _environment(guarded: Guarded) -> dict[str, str]:
    return {
        **os.environ,
        "ENDOSCOPE_SERVER": guarded.running.target,
        "ENDOSCOPE_ROOT_CERTIFICATES": str(guarded.ours.certificate),
        "ENDOSCOPE_CLIENT_CERTIFICATE": str(guarded.client.certificate),
        "ENDOSCOPE_CLIENT_KEY": str(guarded.client.key),
        "ENDOSCOPE_TOKEN": TOKENS[Role.RUN],
    }


def _cli(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "endoscope", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_the_command_line_takes_it_from_the_environment_and_from_options(guarded: Guarded) -> None:
    environment = _environment(guarded)
    listed = _cli(environment, "models", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "digits-cnn" in listed.stdout
    bare = {name: value for name, value in environment.items() if not name.startswith("ENDOSCOPE_")}
    options = ["--server", guarded.running.target, "--ca", str(guarded.ours.certificate)]
    options += ["--cert", str(guarded.client.certificate), "--key", str(guarded.client.key)]
    listed = _cli(bare, "models", "list", *options, "--token", TOKENS[Role.READ])
    assert listed.returncode == 0, listed.stderr
    refused = _cli(bare, "models", "list", *options, "--token", STRANGE)
    assert refused.returncode == 1
    assert "not known" in refused.stderr
    assert STRANGE not in refused.stderr + refused.stdout
    half = _cli(bare, "models", "list", *options[:-2])
    assert half.returncode == 1
    assert "go together" in half.stderr


def test_health_by_the_command_line(guarded: Guarded) -> None:
    environment = _environment(guarded)
    del environment["ENDOSCOPE_TOKEN"]
    well = _cli(environment, "health", "--json")
    assert (well.returncode, json.loads(well.stdout)) == (0, {"status": "serving"})
    assert _cli(environment, "health", "endoscope.v1.ModelService").returncode == 0
    assert _cli(environment, "health", "nobody.Service").returncode == 1
    assert _cli({**environment, "ENDOSCOPE_SERVER": "127.0.0.1:1"}, "health").returncode == 3


def test_probes_without_tls_have_a_port_for_health_and_nothing_else(guarded: Guarded) -> None:
    told = next(line["message"] for line in guarded.log() if "health is told at port" in line["message"])
    target = f"127.0.0.1:{told.rpartition(' ')[2]}"
    bare = {name: value for name, value in os.environ.items() if not name.startswith("ENDOSCOPE_")}
    assert _cli(bare, "health", "--server", target).returncode == 0
    assert _cli(bare, "health", "endoscope.v1.ModelService", "--server", target).returncode == 0
    with grpc.insecure_channel(target) as channel:
        for method in ("/endoscope.v1.ModelService/ListModels", "/inference.GRPCInferenceService/ServerLive"):
            assert _outcome(channel, method)[0] is grpc.StatusCode.UNIMPLEMENTED


def test_the_log_names_who_called(guarded: Guarded) -> None:
    with endoscope.connect(guarded.running.target, **guarded.arguments(Role.RUN)) as client:
        result = client.visualize_class("digits-cnn", classes=[3], steps=2).result()
        assert result
    ended = [line for line in guarded.log() if "succeeded after 2 steps" in line["message"]]
    assert ended
    assert ended[-1]["caller"] == "the-run-token"
    deadline = time.monotonic() + 10
    while not (calls := [line for line in guarded.log() if line.get("code") == "OK" and "job_id" in line]):
        assert time.monotonic() < deadline, "the end of the call is told after the client has its answer"
        time.sleep(0.05)
    assert calls[-1]["method"] == "/endoscope.v1.GradientService/VisualizeClass"
    for name in ("caller", "job_id", "request_id"):
        assert calls[-1][name] == ended[-1][name]


def test_tokens_are_read_again_when_their_file_changes(guarded: Guarded) -> None:
    before = guarded.tokens.read_text()
    later, method = new_token(), "/endoscope.v1.ModelService/ListModels"

    def code(token: str) -> Any:
        with guarded.channel() as channel:
            return _outcome(channel, method, f"Bearer {token}")[0]

    assert code(later) is grpc.StatusCode.UNAUTHENTICATED
    guarded.tokens.write_text(entry("later", Role.READ, later))
    assert code(later) is grpc.StatusCode.OK
    assert code(TOKENS[Role.ADMIN]) is grpc.StatusCode.UNAUTHENTICATED
    for broken in ("later = ", f'later = {{ role = "read", sha256 = "{STRANGE}" }}', "later = 3"):
        guarded.tokens.write_text(broken)
        assert code(later) is grpc.StatusCode.OK, "what was read last stays in force"
        assert any("kept what was read before" in line["message"] for line in guarded.log()[-3:])
    guarded.tokens.unlink()
    assert code(later) is grpc.StatusCode.OK
    guarded.tokens.write_text(before)
    assert code(TOKENS[Role.ADMIN]) is grpc.StatusCode.OK


def test_certificates_are_read_again_when_their_files_change(guarded: Guarded, tmp_path) -> None:
    def issuer() -> str:
        host, _, port = guarded.running.target.partition(":")
        return _issuer(ssl.get_server_certificate((host, int(port))))

    files = (guarded.server.certificate, guarded.server.key)
    kept = [shutil.copy(file, tmp_path) for file in files]
    assert issuer() == "ours"
    renewed = guarded.theirs.sign("server")
    files[0].write_bytes(renewed.certificate.read_bytes())
    assert issuer() == "ours", "a certificate without its key is of no use"
    files[1].write_bytes(renewed.key.read_bytes())
    assert issuer() == "theirs"
    for file, copy in zip(files, kept, strict=True):
        shutil.copy(copy, file)
    assert issuer() == "ours"


def _issuer(pem: str) -> str:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return str(certificate.issuer.rfc4514_string()).removeprefix("CN=")

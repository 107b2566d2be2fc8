"""Files of tokens and certificates, and what the log says of a server that is open."""

from __future__ import annotations

import logging

import pytest
from click.testing import CliRunner

from endoscope_server.commands import serve, token
from endoscope_server.errors import InvalidInput, Unauthenticated
from endoscope_server.security import Certificates, Role, TokenFile
from endoscope_server.services.listening import warn
from endoscope_server.settings import Settings

STRANGE = "a-token-that-nobody-knows-0123456789"


def test_a_new_token_works_and_only_its_hash_is_in_the_line(tmp_path) -> None:
    done = CliRunner().invoke(token, ["new", "alice", "--role", "run", "--days", "2"])
    assert done.exit_code == 0, done.output
    made, line = done.stdout.splitlines()
    assert made not in line
    path = tmp_path / "tokens.toml"
    path.write_text(line)
    caller = TokenFile(path).caller(made)
    assert (caller.name, caller.role) == ("alice", Role.RUN)
    with pytest.raises(Unauthenticated):
        TokenFile(path).caller(made + "x")
    wrong = CliRunner().invoke(token, ["new", "a = 1", "--role", "run"])
    assert wrong.exit_code == 2
    assert "expected" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'bob = {{ role = "admin", sha256 = "{STRANGE}" }}', ["bob.sha256"]),
        (f'bob = {{ role = "king", sha256 = "{"0" * 64}" }}', ["bob.role", "read, run, admin"]),
        (f'bob = "{STRANGE}"', ["bob"]),
        (f'bob = {{ role = "run", token = "{STRANGE}" }}', ["bob"]),
        (f"[[{STRANGE}", ["no TOML"]),
    ],
)
def test_a_wrong_token_file_ends_the_server_and_tells_no_content(
    tmp_path, text: str, words: list[str]
) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    done = CliRunner().invoke(serve, ["--tokens", str(path), "--state", str(tmp_path / "state")])
    assert done.exit_code == 1
    assert all(word in done.stderr for word in [*words, str(path)]), done.stderr
    assert STRANGE not in done.output


def test_wrong_certificates_end_the_server(authority, tmp_path) -> None:
    ours = authority(tmp_path, "ours")
    one, other = ours.sign("one"), ours.sign("other")
    for certificate, key, authorities in (
        (one.certificate, other.key, None),
        (one.key, one.certificate, None),
        (tmp_path / "none.pem", one.key, None),
        (one.certificate, one.key, one.key),
    ):
        with pytest.raises(InvalidInput) as caught:
            Certificates(certificate, key, authorities)
        assert ".pem" in caught.value.message or ".key" in caught.value.message
    done = CliRunner().invoke(serve, ["--tls-certificate", str(one.certificate)])
    assert done.exit_code == 2
    assert "tls_key" in done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"listen": "0.0.0.0:1"}, ["may do everything"]),
        ({"listen": "[::]:1"}, ["may do everything"]),
        ({"listen": "example.com:1"}, ["may do everything"]),
        ({"listen": "0.0.0.0:1", "tokens": "tokens.toml"}, ["in the clear"]),
        ({"listen": "127.0.0.1:1"}, []),
        ({"listen": "[::1]:1"}, []),
        ({"listen": "localhost:1"}, []),
        ({"listen": "unix:/tmp/socket"}, []),
    ],
)
def test_what_is_open_to_everybody_is_told_in_the_log(
    caplog, settings: dict[str, str], words: list[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        warn(Settings.model_validate(settings))
    assert len(caplog.messages) == len(words)
    assert all(word in message for word, message in zip(words, caplog.messages, strict=True))

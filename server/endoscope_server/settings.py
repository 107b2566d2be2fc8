"""How a server is run: one schema for flags, environment variables and a file.

Each field of :class:`Settings` is a flag (``--approximate-above``), an environment variable
(``ENDOSCOPE_APPROXIMATE_ABOVE``) and a key of a TOML file (``approximate_above``). Flags go before the
environment, the environment before the file, the file before the defaults. To add a setting, add a field.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from endoscope_server.errors import InvalidInput

PREFIX = "ENDOSCOPE_"
"""What the names of environment variables begin with."""


@dataclass(frozen=True, slots=True)
class Flag:
    """What the command line has to know of a field beside its name, type, default and description.

    Attributes:
        section: Where the help shows it.
        metavar: What stands for its value in the help.
        name: The flag, if it is not the field's name.
    """

    section: str
    metavar: str = ""
    name: str = ""


def _there(path: Path) -> Path:
    if not path.exists():
        raise ValueError("there is nothing at this path, expected a folder or a file")
    return path


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError("there is no folder at this path")
    return path


def _no_file(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise ValueError("there is a file at this path, expected a folder or nothing")
    return path


def _split(value: Any) -> Any:
    return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value


Folder = Annotated[Path, AfterValidator(_folder)]
"""A folder that is there."""

Paths = Annotated[tuple[Annotated[Path, AfterValidator(_there)], ...], NoDecode, BeforeValidator(_split)]
"""Paths of what is there; as one string they have a colon between them."""


class Settings(BaseModel):
    """How a server is run. The description of each field is its flag's help."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    listen: Annotated[str, Flag("Serving", "HOST:PORT")] = Field(
        default="127.0.0.1:50051",
        min_length=1,
        description="Where to listen; port 0 takes one that is free, unix:PATH is a socket.",
    )
    port_file: Annotated[Path | None, Flag("Serving", "FILE")] = Field(
        default=None, description="File that gets the port once the server listens."
    )
    web: Annotated[str | None, Flag("Serving", "HOST:PORT")] = Field(
        default=None,
        min_length=1,
        description="Where to serve the browser page, with Connect and gRPC-Web beside it; port 0 takes one "
        "that is free. Off unless set. Certificates and tokens are asked for as by gRPC.",
    )
    health_listen: Annotated[str | None, Flag("Serving", "HOST:PORT")] = Field(
        default=None,
        min_length=1,
        description="Where to answer health checks alone, in the clear, for probes that speak no TLS "
        "and have no certificate; port 0 takes one that is free.",
    )
    grace: Annotated[float, Flag("Serving", "SECONDS")] = Field(
        default=5.0, ge=0, description="Time that calls have when the server stops."
    )
    max_calls: Annotated[int, Flag("Serving", "COUNT")] = Field(
        default=1024, ge=1, description="Calls that may be under way at once; more are told to try again."
    )
    client_calls: Annotated[int, Flag("Serving", "COUNT")] = Field(
        default=256,
        ge=1,
        description="Those of one client: of a token, or without tokens of the machine that calls.",
    )
    tls_certificate: Annotated[Path | None, Flag("Security", "FILE")] = Field(
        default=None,
        description="PEM file of the server's certificate and the chain above it; with it the server speaks "
        "TLS only. Read again when it changes.",
    )
    tls_key: Annotated[Path | None, Flag("Security", "FILE")] = Field(
        default=None, description="PEM file of the certificate's private key, without a password."
    )
    tls_client_ca: Annotated[Path | None, Flag("Security", "FILE")] = Field(
        default=None,
        description="PEM file of authorities; with it clients must show a certificate that one of them "
        "signed (mutual TLS).",
    )
    tokens: Annotated[Path | None, Flag("Security", "FILE")] = Field(
        default=None,
        description="TOML file of hashed tokens and their roles, see endoscope token; with it callers must "
        "send a token. Read again when it changes.",
    )
    shared_memory: Annotated[bool, Flag("Security")] = Field(
        default=False,
        description="Let clients on this machine pass tensors in POSIX shared memory. Whoever may run models "
        "then reads and writes what the server may in /dev/shm.",
    )
    log_format: Annotated[Literal["text", "json"], Flag("Telemetry")] = Field(
        default="text", description="Logs for people, or one JSON object a line."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Flag("Telemetry")] = Field(
        default="info", description="What is less important is not logged."
    )
    metrics_listen: Annotated[str | None, Flag("Telemetry", "HOST:PORT")] = Field(
        default=None,
        min_length=1,
        description="Where to answer Prometheus, at /metrics; port 0 takes one that is free.",
    )
    otlp_endpoint: Annotated[str | None, Flag("Telemetry", "URL")] = Field(
        default=None,
        min_length=1,
        description="Collector for OpenTelemetry's traces, such as http://localhost:4317 (OTLP over gRPC).",
    )
    state: Annotated[Path, AfterValidator(_no_file), Flag("Models and data", "FOLDER")] = Field(
        default=Path("endoscope-state"),
        description="Folder for uploads, certificates and jobs; made if it is not there.",
    )
    models: Annotated[Folder | None, Flag("Models and data", "FOLDER")] = Field(
        default=None, description="Folder of .onnx files to serve; only read."
    )
    datasets_roots: Annotated[Paths, Flag("Models and data", "PATH", "--datasets-root")] = Field(
        default=(),
        description="Folder below which clients may make datasets of what is there; may be given several "
        "times, and has colons between its paths in the environment.",
    )
    techniques: Annotated[Folder | None, Flag("Models and data", "FOLDER")] = Field(
        default=None,
        description="Folder of Python files that each add a technique. They are run as this server's own "
        "code: give a folder that nobody else may write to.",
    )
    approximate_above: Annotated[int, Flag("Models and data", "COUNT")] = Field(
        default=50_000,
        ge=0,
        description="With more pictures than these, a client may ask for approximate neighbours.",
    )
    engine: Annotated[str, Flag("Computing", "ENGINE")] = Field(
        default="local",
        min_length=1,
        description="What scans datasets: local, ray (a cluster of this machine), or the address of a Ray "
        "cluster that sees the same files.",
    )
    concurrency: Annotated[int, Flag("Computing", "JOBS")] = Field(
        default=4, ge=1, description="Jobs that take turns."
    )
    join_jobs: Annotated[bool, Flag("Computing")] = Field(
        default=False,
        description="Let jobs on one model take their steps as one batch: the last digits of a result then "
        "depend on what ran beside it.",
    )
    checkpoint_interval: Annotated[float, Flag("Computing", "SECONDS")] = Field(
        default=10.0,
        ge=0,
        description="Time between two checkpoints of a job, from which it goes on after a crash.",
    )
    job_retention: Annotated[float, Flag("Computing", "SECONDS")] = Field(
        default=7 * 24 * 3600.0, gt=0, description="Time that results of jobs are kept."
    )
    job_quota: Annotated[int, Flag("Computing", "BYTES")] = Field(
        default=10 * 2**30,
        ge=2**20,
        description="Disk that jobs may take; the oldest that ended make room for new ones.",
    )
    memory_budget: Annotated[int, Flag("Computing", "BYTES")] = Field(
        default=0,
        ge=0,
        description="Memory that models and jobs may take, by estimate; idle models go first, and what could "
        "not fit is refused. 0: three quarters of the machine's.",
    )
    threads: Annotated[int, Flag("Computing", "COUNT")] = Field(
        default=0, ge=0, description="Threads of ONNX Runtime; 0: its own choice."
    )
    torch_threads: Annotated[int, Flag("Computing", "COUNT")] = Field(
        default=0,
        ge=0,
        description="Threads of torch; 0: its own choice, one for each core.",
    )
    max_batch: Annotated[int, Flag("Computing", "ROWS")] = Field(
        default=16,
        ge=1,
        description="Rows of several clients' inference requests that are run as one batch; 1: none.",
    )
    max_queue: Annotated[int, Flag("Computing", "COUNT")] = Field(
        default=1024,
        ge=1,
        description="Inference requests that may be under way at once; more are told to try again.",
    )
    batch_delay: Annotated[float, Flag("Computing", "SECONDS")] = Field(
        default=0.002,
        ge=0,
        le=1,
        description="Time that an inference request waits for others at most while it could be run.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together, expected both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError(
                "tls_client_ca asks clients for certificates, expected tls_certificate beside it"
            )
        if self.techniques is not None and self.techniques.resolve().is_relative_to(self.state.resolve()):
            raise ValueError(
                f"techniques is {self.techniques}, within state: what is there may come from clients, "
                "expected a folder of your own"
            )
        return self


class _Environment(Settings, BaseSettings):
    """The schema as pydantic-settings wants it, to read environment variables by."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)


def flag_of(name: str) -> Flag:
    """What the command line has to know of a field.

    Raises:
        LookupError: if the field has no :class:`Flag`.
    """
    for item in Settings.model_fields[name].metadata:
        if isinstance(item, Flag):
            return item if item.name else Flag(item.section, item.metavar, f"--{name.replace('_', '-')}")
    raise LookupError(f"the setting {name} has no Flag")


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and where they are from.

    Attributes:
        settings: The settings.
        sources: Where each field is from, in words; fields that have their default are missing.
    """

    settings: Settings
    sources: Mapping[str, str]

    def as_toml(self) -> str:
        """All settings as a file for ``--config``, with a comment that says where each is from."""
        lines: list[str] = []
        for name, value in self.settings.model_dump(mode="json").items():
            lines.append(f"# {self.sources.get(name, 'default')}")
            lines.append(f"# {name} is not set" if value is None else tomli_w.dumps({name: value}).rstrip())
        return "\n".join(lines)


def resolve(flags: Mapping[str, Any], file: Path | None = None) -> Resolved:
    """Settings from flags, environment variables, and a file, checked.

    Args:
        flags: The fields that the command line names.
        file: A TOML file.

    Raises:
        InvalidInput: for a file that is no TOML, a key that is no setting, and for values that are wrong:
            each with its source.
    """
    layers: tuple[tuple[Mapping[str, Any], Callable[[str], str]], ...] = (
        (_read(file), lambda _: f"file {file}"),
        (EnvSettingsSource(_Environment)(), lambda name: f"environment variable {PREFIX}{name.upper()}"),
        (flags, lambda name: f"flag {flag_of(name).name}"),
    )
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for values, source in layers:
        merged |= values
        sources |= {name: source(name) for name in values}
    try:
        return Resolved(Settings.model_validate(merged), sources)
    except ValidationError as error:
        problems = [_sentence(problem, sources) for problem in error.errors(include_url=False)]
        first = error.errors()[0]["loc"]
        raise InvalidInput("\n".join(problems), field=str(first[0]) if first else "") from None


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(f"can't read {file}: {error.strerror}", field="config") from error
    except ValueError as error:
        raise InvalidInput(f"{file} is no TOML file: {error}", field="config") from error


def _sentence(problem: ErrorDetails, sources: Mapping[str, str]) -> str:
    path = ".".join(map(str, problem["loc"]))
    if not path:
        return str(problem.get("ctx", {}).get("error", problem["msg"]))
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, Settings.model_fields, 1)
        said = f"there is no such setting{f'; did you mean {close[0]}?' if close else ''}"
    else:
        said = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
        said = f"{str(problem['input'])[:200]!r}: {said}"
    return f"{path} ({sources[name]}): {said}"

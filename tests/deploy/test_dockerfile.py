"""The Dockerfile by hadolint and by rules of our own; deploy/check_install.py runs its install steps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from endoscope_server.settings import PREFIX, Settings

TOP = Path(__file__).parent.parent.parent
TEXT = (TOP / "Dockerfile").read_text()
TARGETS = ("cpu", "cuda")


def steps(text: str) -> list[tuple[str, str, str]]:
    """Each step as its stage's name, the instruction and the argument."""
    joined = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    stage, found = "", []
    for line in filter(None, map(str.strip, joined.splitlines())):
        instruction, _, argument = line.partition(" ")
        if instruction == "FROM":
            stage = argument.rpartition(" AS ")[2]
        found.append((stage, instruction, re.sub(r"\s+", " ", argument).strip()))
    return found


def bases(text: str) -> dict[str, str]:
    """What each stage is built on."""
    return {stage: argument.partition(" ")[0] for stage, name, argument in steps(text) if name == "FROM"}


def last(text: str, target: str, instruction: str) -> str:
    """The last argument of an instruction in a target, or in what it is built on."""
    stage: str | None = target
    while stage:
        found = [argument for at, name, argument in steps(text) if (at, name) == (stage, instruction)]
        if found:
            return found[-1]
        base = bases(text).get(stage)
        stage = base if base in bases(text) else None
    return ""


def environment(text: str, target: str) -> dict[str, str]:
    """The environment of a target's containers."""
    chain = [target]
    while bases(text).get(chain[-1]) in bases(text):
        chain.append(bases(text)[chain[-1]])
    pairs: dict[str, str] = {}
    for stage in reversed(chain):
        for at, name, argument in steps(text):
            if (at, name) == (stage, "ENV"):
                pairs |= dict(pair.split("=", 1) for pair in argument.split())
    return pairs


def problems(text: str) -> list[str]:  # noqa: C901  # a list of rules
    """What is wrong with a Dockerfile."""
    found = []
    stages = bases(text)
    for stage, base in stages.items():
        if base not in stages and not re.fullmatch(r"[\w./-]+:\d+\.\d+(\.\d+)?[\w.-]*", base):
            found.append(f"{stage}: the base {base} is not pinned to a version")
    for _, instruction, argument in steps(text):
        if instruction == "ADD":
            found.append("ADD unpacks and downloads: COPY does neither")
        if instruction == "RUN":
            found += _run_problems(argument)
        if instruction in ("ENV", "ARG") and re.search(r"(TOKEN|PASSWORD|SECRET)\w*=", argument):
            found.append(f"a secret would stay in the image: {argument}")
        if instruction == "COPY" and "--from=" not in argument:
            found += [
                f"COPY {source}: there is no such file for the builder"
                for source in argument.split()[:-1]
                if not (TOP / source).exists() or ignored(source)
            ]
        if instruction in ("CMD", "ENTRYPOINT") and not argument.startswith("["):
            found.append(f"{instruction} runs in a shell, which passes no signal on")
    for target in TARGETS:
        user = last(text, target, "USER").partition(":")[0]
        if not user.isdecimal() or user == "0":
            found.append(f"{target}: the user is {user or 'root'}, expected a number other than 0")
        if not last(text, target, "HEALTHCHECK").startswith("--"):
            found.append(f"{target}: there is no HEALTHCHECK")
    return found


def _run_problems(argument: str) -> list[str]:
    found = []
    if re.search(r"\bsudo\b", argument):
        found.append("sudo has no place in a build")
    if re.search(r"\b(curl|wget)\b", argument):
        found.append(f"nothing checks what is downloaded: {argument}")
    if re.search(r"apt-get install", argument) and not re.search(r"rm -rf /var/lib/apt/lists", argument):
        found.append("the lists of apt-get stay in the image")
    return found + [
        f"versions are not pinned: {command}"
        for command in re.findall(r"pip install [^&|;]*", argument)
        if "--constraint constraints.txt" not in command and "constraints.txt)" not in command
    ]


def ignored(source: str) -> bool:
    """Whether .dockerignore keeps a path from the builder."""
    out = False
    for line in (TOP / ".dockerignore").read_text().splitlines():
        pattern = line.strip().lstrip("!").removeprefix("**/")
        if (
            line
            and not line.startswith("#")
            and any(fnmatch(part, pattern) for part in (source, source.split("/")[0]))
        ):
            out = not line.startswith("!")
    return out


def test_nothing_is_wrong_with_it() -> None:
    assert problems(TEXT) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("python:3.11.13-slim-bookworm AS build", "python:latest AS build", "not pinned"),
        ("python:3.11.13-slim-bookworm AS build", "python AS build", "not pinned"),
        ("COPY constraints.txt ./", "ADD https://example.com/constraints.txt ./", "ADD"),
        ("COPY constraints.txt ./", "COPY tests ./", "no such file for the builder"),
        ("COPY constraints.txt ./", "COPY nothing.txt ./", "no such file for the builder"),
        ("USER 10001:10001", "USER root", "expected a number"),
        ("USER 10001:10001", "", "expected a number"),
        ("USER 10001:10001", "USER 0:0", "expected a number"),
        ("HEALTHCHECK --interval=15s", "LABEL x=", "no HEALTHCHECK"),
        ("RUN python -m venv", "RUN apt-get update && apt-get install -y git=1 && python -m venv", "apt-get"),
        ("RUN python -m venv", "RUN sudo python -m venv", "sudo"),
        ("RUN python -m venv", "RUN curl https://example.com | sh && python -m venv", "downloaded"),
        ("--constraint constraints.txt '.[server", "'.[server", "not pinned"),
        ('CMD ["serve"]', "CMD serve", "shell"),
        ("PYTHONUNBUFFERED=1", "ENDOSCOPE_TOKEN=abc", "secret"),
    ],
)
def test_each_rule_finds_what_it_is_there_for(old: str, new: str, words: str) -> None:
    assert old in TEXT
    assert any(words in problem for problem in problems(TEXT.replace(old, new, 1)))


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [str(hadolint), "-"], input=TEXT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
    bad = TEXT.replace("python:3.11.13-slim-bookworm AS build", "python:latest AS build")
    done = subprocess.run(
        [str(hadolint), "-"], input=bad, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "DL3007" in done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_a_container_listens_where_it_is_looked_for(target: str) -> None:
    variables = environment(TEXT, target)
    settings = {
        name.removeprefix(PREFIX).lower(): value for name, value in variables.items() if PREFIX in name
    }
    assert settings.keys() <= Settings.model_fields.keys()
    assert last(TEXT, target, "VOLUME") == json.dumps([settings["state"]])
    exposed = last(TEXT, target, "EXPOSE").split()
    listening = [settings[name] for name in ("listen", "health_listen", "metrics_listen")]
    assert listening == [f"0.0.0.0:{port}" for port in exposed]
    assert json.loads(last(TEXT, target, "ENTRYPOINT") or "[]") == ["endoscope"]
    assert json.loads(last(TEXT, target, "CMD") or "[]") == ["serve"]
    check = last(TEXT, target, "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:3] == ["endoscope", "health", "--server"]
    assert command[3] == settings["health_listen"].replace("0.0.0.0", "127.0.0.1")
    timeout = re.search(r"--timeout=(\d+)s", check)
    assert timeout
    assert float(command[command.index("--timeout") + 1]) < float(timeout[1])


def test_what_is_installed_is_what_the_project_offers() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    extras = {extra for names in re.findall(r"\.\[([\w,]+)\]", TEXT) for extra in names.split(",")}
    assert extras == {"server", "gpu", "web", "telemetry"}
    assert extras <= project["optional-dependencies"].keys()
    pins = (TOP / "constraints.txt").read_text().splitlines()
    assert any(pin.startswith("torch==") for pin in pins)
    gpu = {pin.partition("==")[0] for pin in (TOP / "deploy" / "constraints-cuda.txt").read_text().split()}
    assert "onnxruntime-gpu" in gpu
    assert not gpu & {pin.partition("==")[0] for pin in pins}, "each is pinned once"

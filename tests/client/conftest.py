"""A client of a running server, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import endoscope
from endoscope.cli import main

MODEL = "efficientnet-lite0"
Cli = Callable[..., Result]


@pytest.fixture(scope="session")
def client(server) -> Iterator[endoscope.Client]:
    with endoscope.connect(server.target) as made:
        made.wait_until_ready()
        yield made


@pytest.fixture(scope="session")
def photo_files(photos: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The photos as PNG files, by name."""
    folder = tmp_path_factory.mktemp("photos")
    for name, picture in photos.items():
        picture.save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in photos}


@pytest.fixture
def cli(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs ``endoscope ARGUMENTS`` in a folder of its own; fails unless it exits with ``code``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENDOSCOPE_SERVER", server.target)
    monkeypatch.setenv("ENDOSCOPE_MODEL", MODEL)

    def run(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


@pytest.fixture
def cli_json(cli: Cli) -> Callable[..., Any]:
    """What ``endoscope ARGUMENTS --json`` prints on stdout, parsed."""
    return lambda *arguments: json.loads(cli(*arguments, "--json").stdout)

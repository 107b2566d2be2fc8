"""Files of one's own that the server has for the time of a command."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from endoscope.client import Client
from endoscope.errors import AlreadyExists, EndoscopeError, NotFound

_CARD = ("title", "source", "license", "labels", "image_input", "preprocessing")
_CHUNK = 2**20

Lent = tuple[str, bool]
"""A name on the server, and whether it is there for this command alone."""


@contextlib.contextmanager
def lent_model(client: Client, model: str) -> Iterator[Lent]:
    """A model that the server has, or an .onnx file, with the card beside it if there is one.

    A file is sent under a name made of its own and its content's: the same file gives the same report.
    """
    path = Path(model)
    if not path.is_file():
        if path.suffix == ".onnx":
            raise click.UsageError(f"there is no file {model!r}")
        yield model, False
        return
    card = _card(path.with_suffix(".json"))
    name = _name(path.stem, _digest([path]))
    try:
        client.upload_model(path, name, **card)
    except AlreadyExists:
        # Somebody else audits the same file: it is not ours to delete.
        yield name, False
        return
    try:
        yield name, True
    finally:
        # What went wrong before counts for more than what is left behind.
        with contextlib.suppress(EndoscopeError):
            client.delete_model(name)


@contextlib.contextmanager
def lent_dataset(client: Client, dataset: str) -> Iterator[Lent]:
    """A dataset that the server has, or a folder whose subfolders are labels."""
    path = Path(dataset)
    if not path.is_dir():
        yield dataset, False
        return
    files = sorted(file for file in path.rglob("*") if file.is_file())
    name = _name(path.resolve().name, _digest(files, path))
    try:
        client.get_dataset(name)
    except NotFound:
        pass
    else:
        yield name, False
        return
    try:
        client.upload_images(name, path)
        yield name, True
    finally:
        with contextlib.suppress(EndoscopeError):
            client.delete_dataset(name)


def _digest(files: list[Path], root: Path | None = None) -> str:
    content = hashlib.sha256()
    for file in files:
        if root is not None:
            content.update(file.relative_to(root).as_posix().encode(errors="replace") + b"\0")
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                content.update(chunk)
    return content.hexdigest()


def _name(stem: str, digest: str) -> str:
    """A name that a server takes."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:80] or "file"
    return f"{plain}-{digest[:12]}"


def _card(path: Path) -> dict[str, Any]:
    """What is known of a model, from the JSON beside it."""
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise click.UsageError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(told, dict):
        raise click.UsageError(f"{str(path)!r} is no JSON object")
    return {name: told[name] for name in _CARD if name in told}

"""One run of one command: its client, and what it prints where."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
from rich.console import Console, RenderableType
from rich.text import Text

from endoscope.cli.plain import plain
from endoscope.client import Client, connect
from endoscope.results.models import Model

_UNBOUNDED = 500
"""Columns where nobody looks at a terminal: nothing is wrapped."""


class Session:
    """One run of one command.

    Attributes:
        client: The client.
        as_json: Whether stdout is for machines.
        progress: Whether progress is shown.
        out: The console for what is asked for.
        err: The console for all else.
    """

    def __init__(
        self,
        *,
        server: str,
        as_json: bool,
        quiet: bool,
        timeout: float | None,
        tls: bool,
        root_certificates: Path | None,
        client_certificate: Path | None,
        client_key: Path | None,
        token: str | None,
    ) -> None:
        self.client: Client = connect(
            server,
            tls=tls,
            root_certificates=root_certificates,
            client_certificate=client_certificate,
            client_key=client_key,
            token=token,
            timeout=timeout,
        )
        self.as_json = as_json
        self.out = Console(highlight=False)
        if not self.out.is_terminal:
            self.out.width = _UNBOUNDED
        self.err = Console(stderr=True, highlight=False)
        self.progress = not quiet and self.err.is_terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def tell(self, result: Any, *shown: RenderableType, files: Sequence[Path] = ()) -> None:
        """Print a result: as JSON for machines, or what is shown to people.

        Args:
            result: A result, or what JSON can hold.
            shown: What people see; nothing is printed of what is empty.
            files: Where its pictures were saved.
        """
        if not self.as_json:
            for item in filter(None, shown):
                self.out.print(Text(item) if isinstance(item, str) else item, soft_wrap=isinstance(item, str))
            for file in files:
                self.out.print(Text.assemble(("saved", "green"), f" {file}"), soft_wrap=True)
            return
        told = plain(result)
        if files:
            told = {**told, "files": [str(file) for file in files]}
        click.echo(json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False))

    def model(self, name: str | None) -> str:
        """The model that is meant: the one that was named, or the only one that there is."""
        if name:
            return name
        names = [model.model_id for model in self.client.list_models()]
        if len(names) != 1:
            there = f"there are {', '.join(names)}" if names else "the server has none"
            raise click.UsageError(f"say which model with --model: {there}")
        return names[0]

    def class_index(self, model: str, text: str) -> int:
        """A class by its index or its label."""
        if text.lstrip("-").isdecimal():
            return int(text)
        labels = self._labels(model)
        wanted = text.casefold()
        found = [index for index, label in enumerate(labels) if wanted in _names(label)]
        if len(found) == 1:
            return found[0]
        if found:
            raise click.UsageError(f"{text!r} is the label of the classes {', '.join(map(str, found))}")
        close = difflib.get_close_matches(wanted, [name for label in labels for name in _names(label)], 3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise click.UsageError(f"no class of {model} is called {text!r}{hint}")

    def _labels(self, model: str) -> Sequence[str]:
        return self._full(model).labels

    @functools.cache  # noqa: B019  # a session lives as long as its command
    def _full(self, model: str) -> Model:
        return self.client.get_model(model)


def _names(label: str) -> list[str]:
    """The names that a label has, such as ``tabby, tabby cat``."""
    whole = label.casefold()
    return [whole, *(name.strip() for name in whole.split(",") if name.strip() != whole)]

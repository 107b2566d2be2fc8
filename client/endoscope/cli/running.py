"""What all commands that are jobs have in common: their options, and what becomes of their results."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import RenderableType

from endoscope.cli.progress import follow
from endoscope.cli.session import Session
from endoscope.cli.terminal_pictures import terminal_pictures
from endoscope.results.showing import Showing
from endoscope.streams import Stream

T = TypeVar("T")

_SHOW_EVERY = 4
_SHOWN_PICTURES = 4

MODEL = click.option(
    "-m",
    "--model",
    envvar="ENDOSCOPE_MODEL",
    show_envvar=True,
    help="The model. Default: the only one that the server has.",
)
OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Where pictures go: a folder, or a file. Default: this folder.",
)
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all randomness.")
SHOW = click.option(
    "--show",
    is_flag=True,
    help="Show pictures in the terminal: as sixels or by kitty's protocol where it can, else as half blocks.",
)
IMAGE = click.Path(path_type=Path, exists=True, dir_okay=False)
"""The type of arguments that are pictures."""


@dataclass(frozen=True, slots=True)
class JobChoices:
    """How a job is run, and what becomes of its result.

    Attributes:
        output: Where pictures go.
        show: Whether they are shown in the terminal.
        detach: Whether the command ends at once, and the job goes on.
        batch: Whether the job waits for all interactive ones.
    """

    output: Path
    show: bool
    detach: bool
    batch: bool

    def arguments(self) -> dict[str, Any]:
        """For the client's method."""
        return {
            "detached": self.detach,
            "preview_every": _SHOW_EVERY if self.show else 0,
            "priority": "batch" if self.batch else "interactive",
        }


def job_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of a job; the function gets them as ``job``."""

    @functools.wraps(function)
    def gathered(*args: Any, output: Path, show: bool, detach: bool, batch: bool, **kwargs: Any) -> None:
        function(*args, job=JobChoices(output, show, detach, batch), **kwargs)

    made = click.option("--batch", is_flag=True, help="Run when no interactive job does.")(gathered)
    made = click.option("--detach", is_flag=True, help="Print the job's name, and let it run on.")(made)
    return OUTPUT(SHOW(made))


def run(session: Session, stream: Stream[T], job: JobChoices, tell: Callable[[T], RenderableType]) -> None:
    """Follow a job to its end, save its pictures, and print its result.

    Args:
        session: The session.
        stream: The job.
        job: What the user chose.
        tell: What people see of the result.
    """
    if job.detach:
        name = stream.job
        stream.close()
        session.tell({"job": name}, f"{name} runs; take it up with: endoscope jobs watch {name}")
        return
    finish(session, follow(session, stream, show=job.show), job.output, job.show, tell)


def finish(
    session: Session, result: T, output: Path, show: bool, tell: Callable[[T], RenderableType]
) -> None:
    """Save a result's pictures, and print it."""
    files: list[Path] = []
    if isinstance(result, Showing):
        files = save(result, output)
        if show and not session.as_json:
            pictures = [item.picture for item in result.shown()[:_SHOWN_PICTURES]]
            session.out.print(terminal_pictures(session.out, pictures))
    session.tell(result, tell(result), files=files)


def save(result: Showing, output: Path) -> list[Path]:
    """Write a result's pictures; what can't be written is a clear error."""
    try:
        return result.save(output)
    except (OSError, ValueError) as error:
        # PIL's ValueError is a suffix that it does not know.
        raise click.ClickException(f"can't save to {str(output)!r}: {error}") from error


def parse_json(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
    """An option's value that is JSON."""
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"{text!r} is no JSON: {error}") from error


def json_option(name: str, help_text: str) -> Callable[[Any], Any]:
    """An option that takes fields of a message as JSON."""
    return click.option(name, callback=parse_json, metavar="JSON", help=help_text)

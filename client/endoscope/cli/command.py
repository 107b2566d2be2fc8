"""What all commands have in common: the options that say how to reach the server, examples, exit codes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from endoscope.cli.session import Session
from endoscope.connection import DEFAULT_TARGET, SERVER_VARIABLE
from endoscope.errors import EndoscopeError, Unreachable

FunctionT = TypeVar("FunctionT", bound=Callable[..., None])

UNREACHABLE = 3
"""The exit code when no server answers."""


_PEM = click.Path(path_type=Path, dir_okay=False, exists=True)


def _common() -> list[click.Option]:
    return [
        click.Option(
            ["--server"],
            default=DEFAULT_TARGET,
            envvar=SERVER_VARIABLE,
            show_default=True,
            show_envvar=True,
            metavar="HOST:PORT",
            help="Where the server listens.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, and nothing else, on stdout."),
        click.Option(["--quiet", "-q"], is_flag=True, help="Show no progress."),
        click.Option(["--timeout"], type=float, metavar="SECONDS", help="Give up after this time."),
        click.Option(
            ["--tls"],
            is_flag=True,
            envvar="ENDOSCOPE_TLS",
            show_envvar=True,
            help="Ask the server to prove who it is.",
        ),
        click.Option(
            ["--ca", "--root-certificates", "root_certificates"],
            type=_PEM,
            envvar="ENDOSCOPE_ROOT_CERTIFICATES",
            show_envvar=True,
            help="PEM file of the authorities that are trusted, instead of the system's; implies --tls.",
        ),
        click.Option(
            ["--cert", "client_certificate"],
            type=_PEM,
            envvar="ENDOSCOPE_CLIENT_CERTIFICATE",
            show_envvar=True,
            help="PEM file of the client's own certificate, for servers that ask for one; implies --tls.",
        ),
        click.Option(
            ["--key", "client_key"],
            type=_PEM,
            envvar="ENDOSCOPE_CLIENT_KEY",
            show_envvar=True,
            help="PEM file of that certificate's private key.",
        ),
        click.Option(
            ["--token"], envvar="ENDOSCOPE_TOKEN", show_envvar=True, help="Bearer token; over TLS or locally."
        ),
    ]


class _Failure(click.ClickException):
    """An error of a call."""

    exit_code = 1


class _NotReached(click.ClickException):
    """No server answers."""

    exit_code = UNREACHABLE


class WithExamples(click.Command):
    """A command whose help shows examples."""

    examples: Sequence[str] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then the epilogue."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)


class Command(WithExamples):
    """A command that talks to a server; its function gets a :class:`Session` first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._common = _common()
        self.params += self._common

    def invoke(self, ctx: click.Context) -> Any:
        """Run with a session of its own, which ends with the command."""
        settings = {str(option.name): ctx.params.pop(str(option.name)) for option in self._common}
        try:
            with Session(**settings) as ctx.obj:
                return super().invoke(ctx)
        except EndoscopeError as error:
            kind = _NotReached if isinstance(error, Unreachable) else _Failure
            raise kind(error.message) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first, then those that all commands have."""
        common = set(self._common)
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], "Common options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections["Common options" if parameter in common else "Options"].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


class ExampleGroup(WithExamples, click.Group):
    """A group whose help shows examples."""


def command(
    name: str, *examples: str, group: click.Group | None = None
) -> Callable[[Callable[..., None]], Command]:
    """Make a function a command that talks to a server.

    Args:
        name: The command's name.
        examples: For its help.
        group: The group that it belongs to.
    """

    def decorate(function: Callable[..., None]) -> Command:
        made = click.command(name, cls=Command)(click.pass_obj(function))
        made.examples = examples
        if group is not None:
            group.add_command(made)
        return made

    return decorate


def group(name: str, *examples: str) -> Callable[[Callable[[], None]], ExampleGroup]:
    """Make a function a group of commands; its docstring is the help."""

    def decorate(function: Callable[[], None]) -> ExampleGroup:
        made = click.group(name, cls=ExampleGroup)(function)
        made.examples = examples
        return made

    return decorate


def options(*decorators: Callable[[Any], Any]) -> Callable[[FunctionT], FunctionT]:
    """Several options as one decorator, in their order in the help."""

    def decorate(function: FunctionT) -> FunctionT:
        return functools.reduce(lambda made, one: one(made), reversed(decorators), function)

    return decorate

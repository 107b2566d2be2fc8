"""The root of all commands."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from endoscope.cli.command import ExampleGroup

PLUGINS = "endoscope.commands"
"""The entry-point group in which other packages add commands; the server adds ``serve``."""

_COMMANDS: Mapping[str, str] = {
    "models": "models:models",
    "verify": "verify:verify",
    "classify": "activations:classify",
    "filters": "activations:filters",
    "activations": "activations:activations",
    "visualize": "visualize:visualize",
    "dream": "dream:dream",
    "invert": "invert:invert",
    "attack": "attack:attack",
    "fool": "attack:fool",
    "attribute": "attribute:attribute",
    "techniques": "techniques:techniques",
    "run": "techniques:run_technique",
    "datasets": "datasets:datasets",
    "extract": "datasets:extract",
    "neighbors": "searches:neighbors",
    "embed": "searches:embed",
    "patches": "searches:patches",
    "jobs": "jobs:jobs",
    "audit": "audit:audit",
    "replay": "replay:replay",
    "health": "health:health",
}
"""Where each command is found; a module is imported when its command is needed."""


class _Plugin(click.Command):
    """A command of another package; the package is imported when the command runs, or is asked for help."""

    def __init__(self, entry_point: importlib.metadata.EntryPoint) -> None:
        distribution = entry_point.dist.name if entry_point.dist else "another package"
        super().__init__(
            entry_point.name,
            short_help=f"(of {distribution}; see endoscope {entry_point.name} --help)",
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
            add_help_option=False,
        )
        self._entry_point = entry_point

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        return self._load().make_context(info_name, args, parent, **extra)

    def _load(self) -> click.Command:
        try:
            command: click.Command = self._entry_point.load()
        except ModuleNotFoundError as error:
            raise _missing(error) from error
        return command


class Root(ExampleGroup):
    """Finds commands here and in other packages, and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names of all commands."""
        return [*_COMMANDS, *sorted(_plugins().names - _COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name."""
        if cmd_name in _COMMANDS:
            module, _, name = _COMMANDS[cmd_name].partition(":")
            found: click.Command = getattr(importlib.import_module(f"endoscope.cli.{module}"), name)
            return found
        plugins = _plugins()
        return _Plugin(plugins[cmd_name]) if cmd_name in plugins.names else None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and exit with the code that tells how it went."""
        run: Callable[[], Any] = functools.partial(
            super().main, args, prog_name, complete_var, standalone_mode=False, **extra
        )
        if not standalone_mode:
            return run()
        try:
            code = run()
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("cancelled", err=True)
            code = 130
        except ModuleNotFoundError as error:
            missing = _missing(error)
            missing.show()
            code = missing.exit_code
        sys.exit(code if isinstance(code, int) else 0)


def _plugins() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=PLUGINS)


def _missing(error: ModuleNotFoundError) -> click.ClickException:
    return click.ClickException(
        f"the package {error.name} is not installed; the server needs: pip install 'endoscope[server]'"
    )


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="endoscope")
def main() -> None:
    """Look inside any neural network exported to ONNX.

    The server is 127.0.0.1:50051, or what --server or ENDOSCOPE_SERVER says.
    """


main.examples = (
    "endoscope serve --models ./models",
    "endoscope models list",
    "endoscope classify cat.png",
    "endoscope visualize class espresso -o espresso.png",
    "endoscope dream photo.jpg --layer _blocks.6.add --show",
    "endoscope attack cat.png --target espresso",
    'eval "$(_ENDOSCOPE_COMPLETE=bash_source endoscope)"   # completion; also zsh_source, fish_source',
)

"""The commands that the server adds to ``endoscope``: ``endoscope serve`` and ``endoscope token``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from endoscope_server.errors import EndoscopeError
from endoscope_server.security import Role, entry, new_token
from endoscope_server.settings import PREFIX, Settings, flag_of, resolve

SPIN_COUNT = "8000"
"""How often a thread of torch looks whether there is work before it falls asleep."""


class _Serve(click.Command):
    """A command with an option for each setting, shown in sections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [_option(name) for name in Settings.model_fields]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the settings by sections, then what else there is."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            known = parameter.name in Settings.model_fields
            section = flag_of(str(parameter.name)).section if known else "Other"
            if record is not None:
                sections.setdefault(section, []).append(record)
        sections["Other"] = sections.pop("Other")
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


def _option(name: str) -> click.Option:
    """The option of a setting. Values are checked by the schema, for all sources alike."""
    field, flag = Settings.model_fields[name], flag_of(name)
    default, several = field.default, get_origin(field.annotation) is tuple
    shown = default not in (None, ()) and not isinstance(default, bool)
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return click.Option(
        [f"{flag.name}/--no-{flag.name[2:]}" if isinstance(default, bool) else flag.name, name],
        default=None,
        type=bool if isinstance(default, bool) else str,
        multiple=several,
        metavar=flag.metavar or "|".join(choices) or None,
        help=f"{field.description}  [default: {default}]" if shown else field.description,
    )


@click.command(cls=_Serve, epilog=f"Example: {PREFIX}STATE=./state endoscope serve --models ./models")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar=f"{PREFIX}CONFIG",
    help="TOML file of settings; its keys are the flags' names with underscores.",
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print all settings as such a file, say where they are from, and end.",
)
def serve(config: Path | None, print_config: bool, **flags: Any) -> None:
    """Serve models over gRPC until SIGTERM or Ctrl-C.

    Every setting is a flag such as --approximate-above, an environment variable such as
    ENDOSCOPE_APPROXIMATE_ABOVE, or a key such as approximate_above of the file. Flags go before the
    environment, the environment before the file.
    """
    try:
        resolved = resolve({name: value for name, value in flags.items() if value not in (None, ())}, config)
    except EndoscopeError as error:
        raise click.UsageError(error.message) from error
    if print_config:
        click.echo(resolved.as_toml())
        return
    try:
        ended = _in_loop(_run(resolved.settings))
    except EndoscopeError as error:
        raise click.ClickException(error.message) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'a file'} can't be used: {error.strerror}") from error
    if not ended:
        # The computing thread is within a step that can't be stopped: the interpreter's own end would pull
        # it out of C++, which aborts the process.
        logging.shutdown()
        os._exit(0)


def _in_loop(work: Coroutine[Any, Any, bool]) -> bool:
    """Run a coroutine in the event loop that takes least from what computes: uvloop, where there is one.

    Measured with eight clients of EfficientNet-Lite0 on two cores: 246 images a second, 234 by asyncio's own.
    """
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


def _let_compute() -> None:
    """Let a thread that wakes not push another off its core at once, where the system has a policy for that.

    Else each message that comes in interrupts what is computed, and takes the cache from it. Measured with
    eight clients of EfficientNet-Lite0 on two cores: 249 images a second instead of 234.
    """
    if hasattr(os, "SCHED_BATCH"):
        # Some containers forbid it.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _prepare_threads(settings: Settings) -> None:
    """Say how torch's threads wait, which OpenMP reads when it is loaded, and how many there are.

    By default they spin. A thread that spins beside other processes keeps the one that it waits for from its
    core; one that falls asleep at once has to be woken, for each operator. They spin shortly, then sleep:
    that takes about what spinning takes alone, and has a bound beside others; see benchmarks/waiting.py.
    OMP_WAIT_POLICY and GOMP_SPINCOUNT say otherwise.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    if settings.torch_threads:
        import torch

        torch.set_num_threads(settings.torch_threads)


async def _run(settings: Settings) -> bool:
    """Serve until the end; whether all work has ended by then."""
    _let_compute()
    _prepare_threads(settings)
    # The engines take seconds to import: --help must not wait for them.
    from endoscope_server.files import write_whole
    from endoscope_server.services.server import Server
    from endoscope_server.telemetry import logs

    logs.configure(settings.log_format, settings.log_level)
    server = Server(settings)
    await server.start()
    if settings.port_file is not None:
        await asyncio.to_thread(write_whole, settings.port_file, str(server.port).encode())
    return await server.run_until_signalled()


@click.group()
def token() -> None:
    """Make tokens for clients.

    Example: endoscope token new alice --role run
    """


@token.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.name.lower() for role in Role]),
    required=True,
    help="read: looks at what is there; run: computes and minds jobs too; admin: changes models, datasets.",
)
@click.option("--days", type=click.IntRange(1, 36_500), help="After so many it is not accepted any more.")
def new(name: str, role: str, days: int | None) -> None:
    """Print a new token for NAME, and the line that goes into the file of endoscope serve --tokens.

    The file has the token's hash alone: nothing but this output holds the token.

    Example: endoscope token new alice --role run
    """
    made = new_token()
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    try:
        line = entry(name, Role.of(role), made, expires)
    except EndoscopeError as error:
        raise click.UsageError(error.message) from error
    click.echo("The token, for ENDOSCOPE_TOKEN or --token of the client:", err=True)
    click.echo(made)
    click.echo("The line for the file of endoscope serve --tokens:", err=True)
    click.echo(line)

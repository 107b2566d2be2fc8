"""``endoscope health``."""

from __future__ import annotations

import click

from endoscope.cli.command import command
from endoscope.cli.session import Session

_PATIENCE = 5.0
"""Seconds without --timeout: whoever looks after a server wants an answer soon."""


@command("health", "endoscope health", "endoscope health endoscope.v1.GradientService --timeout 2")
@click.argument("service", default="")
def health(session: Session, service: str) -> None:
    """Ask the server whether it takes calls, as containers and orchestrators do.

    SERVICE is the full name of a service; all of them by default. The exit code is 0 if it does, 1 if not, 3
    if no server answers.
    """
    client = session.client
    if client.connection.timeout is None:
        client = client.within(_PATIENCE)
    status = client.check_health(service)
    session.tell({"status": status}, status.replace("_", " "))
    if status != "serving":
        raise click.exceptions.Exit(1)

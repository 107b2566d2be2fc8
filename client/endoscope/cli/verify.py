"""``endoscope verify``."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.text import Text

from endoscope.cli.command import command
from endoscope.cli.session import Session
from endoscope.cli.tables import table
from endoscope.errors import EndoscopeError
from endoscope.results.models import ParityCertificate, ParityValue

_SHOWN = 40
"""Of more values only the worst are shown, and the first that differs."""


@command(
    "verify",
    "endoscope verify net.onnx",
    "endoscope verify efficientnet-lite0 --all",
    "endoscope verify net.onnx --tolerance 1e-4 --json",
)
@click.argument("model")
@click.option(
    "--tolerance", type=float, help="The largest relative difference that is accepted. Default: 0.001."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random inputs.")
@click.option("--all", "whole", is_flag=True, help=f"Show every value, not the worst {_SHOWN} alone.")
def verify(session: Session, model: str, tolerance: float | None, seed: int, whole: bool) -> None:
    """Compare every value of MODEL's graph between both engines.

    MODEL is an .onnx file, which is sent to the server under a name of its own and deleted again, or the name
    of a model that the server has. Without parity the exit code is 1.
    """
    with _served(session, model) as name:
        certificate = session.client.verify_model(name, tolerance=tolerance, seed=seed)
    session.tell(certificate, _describe(certificate, whole))
    if not certificate.passed:
        raise click.ClickException(
            f"{model} has no parity: the engines differ at {certificate.first_difference}"
        )


@contextlib.contextmanager
def _served(session: Session, model: str) -> Iterator[str]:
    """The name under which the server has the model."""
    path = Path(model)
    if not path.is_file():
        if path.suffix == ".onnx":
            raise click.UsageError(f"there is no file {model!r}")
        yield model
        return
    name = f"verify-{secrets.token_hex(8)}"
    session.client.upload_model(path, name)
    try:
        yield name
    finally:
        # What went wrong before counts for more than what is left behind.
        with contextlib.suppress(EndoscopeError):
            session.client.delete_model(name)


def _describe(certificate: ParityCertificate, whole: bool) -> RenderableType:
    shown = _chosen(certificate, whole)
    rows = [
        (
            "→" if value.value == certificate.first_difference else "",
            value.value,
            value.op_type,
            f"{value.absolute:.2e}",
            f"{value.relative:.2e}",
        )
        for value in shown
    ]
    values = table("", "value", "operator", "absolute>", "relative>", rows=rows)
    hidden = len(certificate.values) - len(shown)
    verdict = Text("parity", "green") if certificate.passed else Text("no parity", "red")
    verdict.append(
        f": {certificate.compared_count} values compared, tolerance {certificate.tolerance:g}", "default"
    )
    worst = f"worst: {certificate.worst_value} ({certificate.worst_op_type})"
    differences = f"relative {certificate.worst_relative:.2e}, absolute {certificate.worst_absolute:.2e}"
    lines = [f"{worst}, {differences}", f"first difference: {certificate.first_difference or 'none'}"]
    lines += certificate.notes
    if hidden:
        lines.append(f"{hidden} values with smaller differences are not shown; see --all")
    return Group(values, verdict, *map(Text, lines))


def _chosen(certificate: ParityCertificate, whole: bool) -> Sequence[ParityValue]:
    """The worst values in the order of computation."""
    if whole or len(certificate.values) <= _SHOWN:
        return certificate.values
    worst = sorted(certificate.values, key=lambda value: value.relative, reverse=True)[:_SHOWN]
    names = {value.value for value in worst} | {certificate.first_difference}
    return [value for value in certificate.values if value.value in names]

"""``python -m endoscope_zoo NAME FOLDER``: export a model of the zoo."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import endoscope_zoo
from endoscope_zoo.recipe import sha256


@click.command()
@click.argument("name", type=click.Choice(endoscope_zoo.names()))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def export(name: str, folder: Path) -> None:
    """Export the model NAME to FOLDER/NAME.onnx."""
    path = endoscope_zoo.get(name).export(folder)
    click.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB  sha256 {sha256(path)}")


if __name__ == "__main__":
    sys.exit(export())

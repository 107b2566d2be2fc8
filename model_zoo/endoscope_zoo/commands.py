"""The commands that the zoo adds to ``endoscope``: ``endoscope zoo list`` and ``endoscope zoo get``."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

import endoscope_zoo
from endoscope.cli.tables import size, table
from endoscope_zoo.download import Progress as Report
from endoscope_zoo.download import no_progress, sha256
from endoscope_zoo.errors import ZooError
from endoscope_zoo.recipe import Recipe


@click.group()
def zoo() -> None:
    """Known models: which there are, and their ONNX files.

    Example: endoscope zoo get efficientnet-lite0 -o models
    """


@zoo.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
def list_recipes(as_json: bool) -> None:
    """List the models that there are recipes for.

    Example: endoscope zoo list
    """
    recipes = [endoscope_zoo.get(name) for name in endoscope_zoo.names()]
    if as_json:
        click.echo(json.dumps([_told(recipe) for recipe in recipes], indent=2, ensure_ascii=False))
        return
    rows = (
        (
            recipe.name,
            recipe.origin,
            size(recipe.size),
            "{height}x{width}".format(**recipe.card.preprocessing),
            len(recipe.card.labels),
            recipe.extra,
        )
        for recipe in recipes
    )
    Console().print(table("name", "source", "size>", "input", "classes>", "needs", rows=rows))
    for extra in sorted({recipe.extra for recipe in recipes if recipe.missing}):
        click.echo(f"Not installed: {extra}. Install it with: pip install 'endoscope[{extra}]'")


@zoo.command("get")
@click.argument("name", metavar="NAME")
@click.option(
    "--output",
    "-o",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("models"),
    show_default=True,
    help="Where NAME.onnx and its card NAME.json are written, for endoscope serve --models.",
)
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def get(name: str, folder: Path, quiet: bool) -> None:
    """Make the model NAME: download its weights if it needs some, and export it to ONNX.

    A download that breaks off goes on where it was when asked again. Weights are kept in the folder that
    ENDOSCOPE_CACHE names, or in endoscope in the user's folder for caches.

    Example: endoscope zoo get efficientnet-lite0 -o models && endoscope serve --models models
    """
    if name not in endoscope_zoo.names():
        raise click.BadParameter(f"there is no {name!r}, expected {', '.join(endoscope_zoo.names())}")
    recipe = endoscope_zoo.get(name)
    try:
        with _shown(recipe, quiet) as report:
            path = recipe.export(folder, report)
        path.with_suffix(".json").write_text(recipe.card.to_json(indent=2) + "\n", "utf-8")
    except ZooError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{folder} can't be written: {error.strerror or error}") from error
    click.echo(f"{path}  {size(path.stat().st_size)}  sha256 {sha256(path)}")


def _told(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "title": recipe.card.title,
        "source": recipe.card.source,
        "license": recipe.card.license,
        "size": recipe.size,
        "preprocessing": dict(recipe.card.preprocessing),
        "classes": len(recipe.card.labels),
        "needs": list(recipe.needs),
        "missing": list(recipe.missing),
        "extra": recipe.extra,
        "url": recipe.weights.url if recipe.weights else None,
    }


@contextlib.contextmanager
def _shown(recipe: Recipe, quiet: bool) -> Iterator[Report]:
    """A bar on stderr: of the download, then of an export whose end nobody knows."""
    if quiet or not sys.stderr.isatty():
        yield no_progress
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"making {recipe.name}", total=None)

        def report(done: int, total: int) -> None:
            ended = 0 < total == done
            description = f"making {recipe.name}" if ended else f"downloading {recipe.name}"
            bar.update(task, description=description, completed=done, total=None if ended else total or None)

        yield report

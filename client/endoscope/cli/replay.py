"""``endoscope replay``."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from PIL import Image
from rich.text import Text

from endoscope.calls.replaying import needs
from endoscope.cli.command import command, options
from endoscope.cli.progress import follow
from endoscope.cli.running import IMAGE, SHOW
from endoscope.cli.session import Session
from endoscope.cli.terminal_pictures import terminal_pictures
from endoscope.comparing import Comparison, compare
from endoscope.results.showing import Showing

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@command(
    "replay",
    "endoscope replay class-967.png",
    "endoscope replay dream.png --image photo.jpg -o again.png",
)
@click.argument("picture", type=IMAGE)
@options(
    click.option(
        "--image",
        "images",
        type=IMAGE,
        multiple=True,
        help="A picture that the request took; may be given several times, in order.",
    ),
    click.option("--tensor", "tensors", type=_FILE, multiple=True, help="An array that it took, as .npy."),
    click.option("-m", "--model", help="Default: the one that the picture names."),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The new picture's file. Default: PICTURE with -replay in its name.",
    ),
    SHOW,
)
def replay(
    session: Session,
    picture: Path,
    images: tuple[Path, ...],
    tensors: tuple[Path, ...],
    model: str | None,
    output: Path | None,
    show: bool,
) -> None:
    """Make again what made PICTURE, and tell whether the pixels are the same.

    A PNG that the server made tells its technique, model, parameters and seed. The pictures and arrays that
    the request took are not in it: give them with --image and --tensor. If a byte of the pixels differs, the
    exit code is 1.
    """
    _check_counts(picture, images, tensors)
    stream = session.client.replay(
        picture, images, tensors=[np.load(file, allow_pickle=False) for file in tensors], model=model
    )
    result = follow(session, stream, show=show)
    if not isinstance(result, Showing):
        raise click.ClickException(f"{picture} was made by a technique that gives no pictures")
    with Image.open(picture) as before:
        before.load()
        found = compare(before, result)
    output = output or picture.with_name(f"{picture.stem}-replay.png")
    found.picture.save(output)
    if show and not session.as_json:
        session.out.print(terminal_pictures(session.out, [before, found.picture]))
    session.tell(found, Text("the same pixels", "green") if found.equal else "", files=[output])
    if not found.equal:
        raise click.ClickException(_why(found))


def _check_counts(picture: Path, images: tuple[Path, ...], tensors: tuple[Path, ...]) -> None:
    wanted_images, wanted_tensors = needs(picture)
    for option, word, wanted, given in (
        ("--image", "picture(s)", wanted_images, len(images)),
        ("--tensor", "array(s)", wanted_tensors, len(tensors)),
    ):
        if wanted != given:
            raise click.UsageError(f"the request took {wanted} {word}, {given} given with {option}")


def _why(found: Comparison) -> str:
    how = (
        "of another size" if found.largest_difference is None else f"up to {found.largest_difference} of 255"
    )
    changes = "".join(f"\n  {change}" for change in found.changes)
    return f"the pixels differ ({how})" + (f"; what is not as it was:{changes}" if changes else "")

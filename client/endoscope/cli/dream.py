"""``endoscope dream``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from endoscope.cli.command import command, options
from endoscope.cli.running import IMAGE, MODEL, SEED, JobChoices, job_options, json_option, run
from endoscope.cli.session import Session


@command(
    "dream",
    "endoscope dream photo.jpg -o dream.png",
    "endoscope dream photo.jpg --layer _blocks.6.add --layer _blocks.10.add=0.5 --octaves 6 --show",
    "endoscope dream photo.jpg --guide flowers.jpg",
)
@click.argument("image", type=IMAGE)
@options(
    MODEL,
    click.option(
        "-l",
        "--layer",
        "layers",
        multiple=True,
        metavar="LAYER[=WEIGHT]",
        help="May be given several times. Default: one in the middle.",
    ),
    click.option("--steps", type=int, help="In each octave. Default: 10."),
    click.option("--octaves", type=int, help="Default: 4."),
    click.option("--octave-scale", type=float, help="Default: 1.4."),
    click.option("--step-size", type=float, help="In 8-bit pixel units. Default: 1.5."),
    click.option("--jitter", type=int, help="The largest random shift, in pixels. Default: 32."),
    click.option(
        "--tile-size", type=int, help="Larger pictures are taken in tiles, in pixels. Default: 512."
    ),
    click.option("--guide", type=IMAGE, help="A picture whose features are amplified instead."),
    click.option("--zoom-frames", type=int, help="Zoom into the dream for so many frames."),
    click.option("--zoom-factor", type=float, help="From one frame to the next. Default: 1.05."),
    SEED,
    json_option("--preprocessing", "Overrides the model's own, field by field."),
)
@job_options
def dream(
    session: Session, image: Path, layers: tuple[str, ...], model: str | None, job: JobChoices, **chosen: Any
) -> None:
    """Amplify in IMAGE what a layer sees in it."""
    weights = dict(map(_weighted, layers))
    stream = session.client.deep_dream(session.model(model), image, weights, **chosen, **job.arguments())
    run(session, stream, job, lambda found: f"{found.image.width} x {found.image.height} pixels")


def _weighted(text: str) -> tuple[str, float]:
    layer, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return layer, float(weight)
    except ValueError:
        # A name may have an equals sign of its own.
        return text, 1.0

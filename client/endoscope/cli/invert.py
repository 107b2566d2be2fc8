"""``endoscope invert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import RenderableType

from endoscope.cli.command import command, options
from endoscope.cli.running import IMAGE, MODEL, SEED, JobChoices, job_options, json_option, run
from endoscope.cli.session import Session
from endoscope.cli.tables import table
from endoscope.results.gradients import Inversion


@command(
    "invert",
    "endoscope invert photo.jpg --layer _conv_stem --layer _blocks.4.add -o inverted",
    "endoscope invert photo.jpg --layer '*' --steps 200 --json",
)
@click.argument("image", type=IMAGE)
@options(
    click.option(
        "-l", "--layer", "layers", multiple=True, required=True, help="May be given several times; '*': all."
    ),
    MODEL,
    click.option("--steps", type=int, help="For each layer. Default: 1200."),
    SEED,
    click.option(
        "--reference", "references", type=IMAGE, multiple=True, help="Another picture, to scale errors by."
    ),
    json_option("--regularizers", "Fields of Regularizers."),
    json_option("--preprocessing", "Overrides the model's own, field by field."),
)
@job_options
def invert(
    session: Session, image: Path, layers: tuple[str, ...], model: str | None, job: JobChoices, **chosen: Any
) -> None:
    """Find out what layers still tell of IMAGE: the privacy curve."""
    stream = session.client.invert_representation(
        session.model(model), image, layers, **chosen, **job.arguments()
    )
    run(session, stream, job, _curve)


def _curve(found: Inversion) -> RenderableType:
    rows = [
        (
            item.layer,
            f"{item.feature_error:.4f}",
            f"{item.psnr:.1f}",
            f"{item.ssim:.3f}",
            f"{item.perceptual_distance:.3f}",
        )
        for item in found.layers
    ]
    return table("layer", "feature error>", "PSNR (dB)>", "SSIM>", "perceptual distance>", rows=rows)

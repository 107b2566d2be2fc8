"""``endoscope attribute``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
from rich.console import RenderableType

from endoscope.calls.judging import AttributionMethod
from endoscope.cli.command import command, options
from endoscope.cli.running import IMAGE, MODEL, SEED, JobChoices, job_options, json_option, run
from endoscope.cli.session import Session
from endoscope.cli.tables import table
from endoscope.results.gradients import Attributions


@command(
    "attribute",
    "endoscope attribute cat.png --method grad_cam -o heat.png",
    "endoscope attribute cat.png --method integrated_gradients --method smoothgrad --class tabby",
)
@click.argument("image", type=IMAGE)
@options(
    click.option(
        "--method",
        "methods",
        type=click.Choice(get_args(AttributionMethod)),
        multiple=True,
        required=True,
        help="May be given several times.",
    ),
    MODEL,
    click.option("--class", "class_name", help="By index or label. Default: what the model sees."),
    click.option("--samples", type=int, help="Noisy copies or steps of the path. Default: 50."),
    click.option(
        "--noise", type=float, help="SmoothGrad's, as a share of the picture's range. Default: 0.15."
    ),
    click.option("--layer", help="Grad-CAM's. Default: the last with positions."),
    click.option("--window", type=int, help="Side of the occluded window, in pixels. Default: 32."),
    click.option("--stride", type=int, help="Pixels between two windows. Default: 16."),
    click.option("--baseline", type=float, help="The grey level that stands for nothing, in [0, 1]."),
    SEED,
    json_option("--preprocessing", "Overrides the model's own, field by field."),
)
@job_options
def attribute(
    session: Session,
    image: Path,
    methods: tuple[AttributionMethod, ...],
    model: str | None,
    class_name: str | None,
    job: JobChoices,
    **chosen: Any,
) -> None:
    """Show what in IMAGE spoke for a class."""
    name = session.model(model)
    class_index = None if class_name is None else session.class_index(name, class_name)
    stream = session.client.attribute(
        name, image, methods, class_index=class_index, **chosen, **job.arguments()
    )
    run(session, stream, job, _scores)


def _scores(found: Attributions) -> RenderableType:
    rows = [
        (item.method, f"{item.deletion:.3f}", f"{item.insertion:.3f}", _error(item.completeness_error))
        for item in found.attributions
    ]
    columns = ("method", "deletion>", "insertion>", "completeness error>")
    return table(*columns, rows=rows, title=str(found.score))


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"

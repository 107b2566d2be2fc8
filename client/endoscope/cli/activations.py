"""``endoscope classify``, ``filters`` and ``activations``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from rich.console import RenderableType

from endoscope.cli.command import command, options
from endoscope.cli.running import IMAGE, MODEL, OUTPUT, SHOW, finish, json_option
from endoscope.cli.session import Session
from endoscope.cli.tables import classifications, table
from endoscope.results.activations import Activations

_PREPROCESSING = json_option("--preprocessing", "Overrides the model's own, field by field.")


@command(
    "classify",
    "endoscope classify cat.png",
    "endoscope classify *.jpg --top 3 --json",
)
@click.argument("images", type=IMAGE, nargs=-1, required=True)
@options(MODEL, click.option("--top", type=int, default=5, show_default=True, help="How many classes."))
@_PREPROCESSING
def classify(
    session: Session, images: tuple[Path, ...], model: str | None, top: int, preprocessing: Any
) -> None:
    """Tell the strongest classes of IMAGES."""
    name = session.model(model)
    found = session.client.classify(name, images, top=top, preprocessing=preprocessing)
    told = [
        {"image": str(image), "top": classification.top}
        for image, classification in zip(images, found, strict=True)
    ]
    session.tell(told, classifications([str(image) for image in images], found))


@command(
    "filters",
    "endoscope filters -o filters.png",
    "endoscope filters _blocks.0._depthwise_conv --order similarity --show",
)
@click.argument("layer", required=False)
@options(
    MODEL,
    click.option(
        "--order", type=click.Choice(["index", "norm", "similarity"]), default="index", help="Of the tiles."
    ),
    click.option("--tile-size", type=int, help="Side of a tile, in pixels, at most 512."),
    click.option("--columns", type=int, help="Tiles in a row."),
    click.option(
        "--weights", type=click.Path(path_type=Path, dir_okay=False), help="Save the weights as .npy."
    ),
    OUTPUT,
    SHOW,
)
def filters(
    session: Session,
    layer: str | None,
    model: str | None,
    order: Literal["index", "norm", "similarity"],
    tile_size: int | None,
    columns: int | None,
    weights: Path | None,
    output: Path,
    show: bool,
) -> None:
    """Show the filters of the convolution LAYER, by default the first one."""
    found = session.client.get_filters(
        session.model(model), layer, order=order, tile_size=tile_size, columns=columns
    )
    if weights:
        np.save(weights, found.weights)
    shape = " x ".join(map(str, found.weights.shape))
    finish(session, found, output, show, lambda _: f"{found.layer}: {shape}, weights {found.weights_name}")


@command(
    "activations",
    "endoscope activations cat.png --layer _conv_stem --layer _blocks.10.add -o maps",
    "endoscope activations cat.png --layer _conv_head --top-k 10 --json",
    "endoscope activations cat.png --layer _conv_stem --tensors stem.npz",
)
@click.argument("images", type=IMAGE, nargs=-1, required=True)
@options(
    MODEL,
    click.option(
        "-l", "--layer", "layers", multiple=True, help="May be given several times. Default: the outputs."
    ),
    click.option(
        "--statistics",
        type=click.Choice(["none", "spatial", "channel"]),
        default="none",
        help="Over the positions of each channel, or the channels at each position.",
    ),
    click.option("--top-k", type=int, help="List so many of the strongest units."),
    click.option("--overlay-channel", type=int, help="The one channel that heat maps show. Default: all."),
    click.option(
        "--tensors", type=click.Path(path_type=Path, dir_okay=False), help="Save the values as .npz."
    ),
    _PREPROCESSING,
    OUTPUT,
    SHOW,
)
def activations(
    session: Session,
    images: tuple[Path, ...],
    model: str | None,
    layers: tuple[str, ...],
    statistics: Literal["none", "spatial", "channel"],
    top_k: int | None,
    overlay_channel: int | None,
    tensors: Path | None,
    preprocessing: Any,
    output: Path,
    show: bool,
) -> None:
    """Show what layers make of IMAGES: feature maps, heat maps, statistics, the strongest units."""
    found = session.client.get_activations(
        session.model(model),
        images,
        layers,
        statistics=statistics,
        top_k=top_k,
        overlay_channel=overlay_channel,
        preprocessing=preprocessing,
        omit_tensors=tensors is None,
        feature_map_pictures=True,
        overlays=True,
    )
    if tensors:
        values = {item.layer: item.tensor for item in found.activations if item.tensor is not None}
        np.savez(tensors, **values)  # type: ignore[arg-type]  # its stub takes the names for options
    finish(session, found, output, show, _strongest)


def _strongest(found: Activations) -> RenderableType:
    rows = [
        (item.layer, image, " ".join(map(str, unit.index)), f"{unit.activation:.4g}")
        for item in found.activations
        for image, top in enumerate(item.top_units)
        for unit in top.units
    ]
    return table("layer", "picture>", "unit", "activation>", rows=rows) if rows else ""

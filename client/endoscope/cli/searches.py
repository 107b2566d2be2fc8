"""``endoscope neighbors``, ``embed`` and ``patches``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import RenderableType

from endoscope.cli.command import command, options
from endoscope.cli.running import (
    IMAGE,
    MODEL,
    OUTPUT,
    SEED,
    SHOW,
    JobChoices,
    finish,
    job_options,
    json_option,
    run,
)
from endoscope.cli.session import Session
from endoscope.cli.tables import table
from endoscope.results.searches import ActivatingPatches, Embedding, Neighbors

_PREPROCESSING = json_option("--preprocessing", "Overrides the model's own, field by field.")


@command(
    "neighbors",
    "endoscope neighbors birds robin.png -o neighbors.png",
    "endoscope neighbors birds --item 17 --item 23 --k 5 --pixels --json",
)
@click.argument("dataset")
@click.argument("images", type=IMAGE, nargs=-1)
@options(
    MODEL,
    click.option("--item", "items", type=int, multiple=True, help="An item of the dataset, by index."),
    click.option("-l", "--layer", help="Default: the one before the logits."),
    click.option("-k", "--k", "k", type=int, help="How many. Default: 10."),
    click.option("--metric", type=click.Choice(["l2", "cosine"]), default="l2", show_default=True),
    click.option("--pixels", "pixel_space", is_flag=True, help="The neighbours in the space of pixels too."),
    click.option("--approximate", is_flag=True, help="An approximate index may be used."),
    click.option("--thumbnail-size", type=int, help="In pixels; 0: none. Default: 96."),
    _PREPROCESSING,
    OUTPUT,
    SHOW,
)
def neighbors(
    session: Session,
    dataset: str,
    images: tuple[Path, ...],
    items: tuple[int, ...],
    model: str | None,
    output: Path,
    show: bool,
    **chosen: Any,
) -> None:
    """Find the pictures of DATASET that are nearest to IMAGES, or to items of its own."""
    if not images and not items:
        raise click.UsageError("give pictures, or items with --item")
    found = session.client.find_neighbors(session.model(model), dataset, images, items=items, **chosen)
    queries = [*map(str, images), *(f"item {item}" for item in items)]
    finish(session, found, output, show, lambda result: _neighbors(queries, result))


@command(
    "embed",
    "endoscope embed birds --method tsne -o map.png",
    "endoscope embed birds --method pca --dimensions 3 --coordinates birds.npy",
)
@click.argument("dataset")
@options(
    MODEL,
    click.option("-l", "--layer", help="Default: the one before the logits."),
    click.option("--method", type=click.Choice(["pca", "tsne", "umap"]), default="pca", show_default=True),
    click.option("--dimensions", type=int, help="Default: 2."),
    click.option("--perplexity", type=float, help="Of t-SNE. Default: 30, or a third of the items."),
    click.option("--iterations", type=int, help="Of t-SNE. Default: 1000."),
    click.option(
        "--initial-components", type=int, help="What t-SNE and UMAP start from; 0: all. Default: 50."
    ),
    click.option("--thumbnails", is_flag=True, help="Thumbnails, not dots."),
    click.option("--image", "images", type=IMAGE, multiple=True, help="A further picture (PCA only)."),
    click.option("--coordinates", type=click.Path(path_type=Path, dir_okay=False), help="Save them as .npy."),
    SEED,
    _PREPROCESSING,
)
@job_options
def embed(
    session: Session,
    dataset: str,
    model: str | None,
    coordinates: Path | None,
    job: JobChoices,
    **chosen: Any,
) -> None:
    """Lay the features of DATASET out in two or three dimensions."""
    stream = session.client.embed_features(session.model(model), dataset, **chosen, **job.arguments())

    def tell(found: Embedding) -> RenderableType:
        if coordinates:
            np.save(coordinates, found.coordinates)
        return _embedding(found)

    run(session, stream, job, tell)


@command(
    "patches",
    "endoscope patches birds _blocks.10.add:3,7,12 -o patches.png",
    "endoscope patches birds _conv_stem --k 16 --json",
)
@click.argument("dataset")
@click.argument("selections", nargs=-1, required=True, metavar="LAYER[:CHANNEL,...]...")
@options(
    MODEL,
    click.option("-k", "--k", "k", type=int, help="Patches for each channel. Default: 9."),
    click.option("--patch-size", type=int, help="On the sheet, in pixels. Default: 96."),
    _PREPROCESSING,
)
@job_options
def patches(
    session: Session,
    dataset: str,
    selections: tuple[str, ...],
    model: str | None,
    job: JobChoices,
    **chosen: Any,
) -> None:
    """Find the patches of DATASET that activate channels of a LAYER most; by default all of its channels."""
    stream = session.client.find_activating_patches(
        session.model(model), dataset, dict(map(_selection, selections)), **chosen, **job.arguments()
    )
    run(session, stream, job, _patches)


def _selection(text: str) -> tuple[str, list[int]]:
    layer, colon, channels = text.rpartition(":")
    if not colon:
        return text, []
    try:
        return layer, [int(channel) for channel in channels.split(",")]
    except ValueError:
        raise click.UsageError(f"{text!r} is no selection, expected LAYER or LAYER:CHANNEL,CHANNEL") from None


def _neighbors(queries: list[str], found: Neighbors) -> RenderableType:
    rows = [
        (
            query if rank == 0 else "",
            space,
            rank + 1,
            item.item,
            item.item_name,
            item.label,
            f"{item.distance:.4g}",
        )
        for query, result in zip(queries, found.results, strict=True)
        for space, listed in (("features", result.neighbors), ("pixels", result.pixel_neighbors))
        for rank, item in enumerate(listed)
    ]
    return table("query", "space", "rank>", "item>", "name", "label", "distance>", rows=rows)


def _embedding(found: Embedding) -> RenderableType:
    measures = {
        "trustworthiness": found.trustworthiness,
        "silhouette": found.silhouette,
        "kNN purity": found.knn_purity,
        "KL divergence": found.kl_divergence,
    }
    rows = [(name, f"{value:.4f}") for name, value in measures.items() if value is not None]
    rows += [
        (f"variance of component {index}", f"{share:.2%}")
        for index, share in enumerate(found.explained_variance_ratio, 1)
    ]
    return table("measure", "value>", rows=rows)


def _patches(found: ActivatingPatches) -> RenderableType:
    rows = [
        (channels.layer, channels.channel, patch.item_name, f"{patch.activation:.4g}", patch.left, patch.top)
        for channels in found.channels
        for patch in channels.patches[:1]
    ]
    return table("layer", "channel>", "strongest in", "activation>", "left>", "top>", rows=rows)

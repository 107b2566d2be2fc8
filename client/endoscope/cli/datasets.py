"""``endoscope datasets`` and ``extract``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from endoscope.cli.command import command, group, options
from endoscope.cli.running import MODEL, JobChoices, job_options, json_option, run
from endoscope.cli.session import Session
from endoscope.cli.tables import moment, table
from endoscope.results.datasets import Dataset, ExtractedFeatures, SkippedItem, StoredFeatures

_SHOWN = 20


@group("datasets", "endoscope datasets list", "endoscope datasets upload birds ./birds")
def datasets() -> None:
    """List, describe, make and delete datasets."""


@command("list", "endoscope datasets list", group=datasets)
def list_datasets(session: Session) -> None:
    """List the datasets."""
    found = session.client.list_datasets()
    rows = [
        (item.dataset_id, item.item_count, len(item.labels), len(item.features), item.path) for item in found
    ]
    session.tell(found, table("name", "pictures>", "labels>", "features>", "path", rows=rows))


@command("show", "endoscope datasets show birds", group=datasets)
@click.argument("dataset")
def show(session: Session, dataset: str) -> None:
    """Describe DATASET: its labels, what was skipped, the features that are stored."""
    found = session.client.get_dataset(dataset)
    session.tell(found, _facts(found))


@command("create", "endoscope datasets create birds /data/birds", group=datasets)
@click.argument("name")
@click.argument("path")
def create(session: Session, name: str, path: str) -> None:
    """Make the dataset NAME of PATH on the server: a folder, a zip, a Parquet or an Arrow file."""
    made = session.client.create_dataset(name, path)
    session.tell(made, _facts(made))


@command(
    "upload",
    "endoscope datasets upload birds ./birds",
    "endoscope datasets upload birds new.png",
    group=datasets,
)
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
def upload(session: Session, name: str, path: Path) -> None:
    """Make or extend the dataset NAME with pictures of one's own.

    PATH is a picture, or a folder of pictures whose subfolders are labels.
    """
    made = session.client.upload_images(name, path)
    session.tell(made, _facts(made))


@command("delete", "endoscope datasets delete birds", group=datasets)
@click.argument("dataset")
def delete(session: Session, dataset: str) -> None:
    """Delete DATASET and its features; the operator's own files stay."""
    session.client.delete_dataset(dataset)
    session.tell({"deleted": dataset}, f"deleted {dataset}")


@command(
    "extract",
    "endoscope extract birds",
    "endoscope extract birds --layer _blocks.10.add --layer _conv_head --detach",
)
@click.argument("dataset")
@options(
    MODEL,
    click.option("-l", "--layer", "layers", multiple=True, help="Default: the one before the logits."),
    click.option("--batch-size", type=int, help="Pictures that are computed at once."),
    json_option("--preprocessing", "Overrides the model's own, field by field."),
)
@job_options
def extract(
    session: Session,
    dataset: str,
    layers: tuple[str, ...],
    model: str | None,
    job: JobChoices,
    **chosen: Any,
) -> None:
    """Compute and store the features of each picture of DATASET, going on where an earlier run stopped."""
    stream = session.client.extract_features(
        dataset, session.model(model), layers, **chosen, **job.arguments()
    )
    run(session, stream, job, _extracted)


def _facts(found: Dataset) -> RenderableType:
    labels = ", ".join(found.labels[:_SHOWN]) + (", ..." if len(found.labels) > _SHOWN else "")
    rows = [
        ("name", found.dataset_id),
        ("pictures", found.item_count),
        ("labels", labels),
        ("path", found.path),
        ("made", moment(found.create_time)),
    ]
    facts = table("", "", rows=[row for row in rows if row[1] != ""])
    facts.show_header = False
    return Group(facts, *_stored(found.features), *_skipped(found.skipped))


def _extracted(found: ExtractedFeatures) -> RenderableType:
    counts = f"{found.computed_count} computed, {found.reused_count} there before"
    return Group(
        Text(f"{counts}, {found.images_per_second:.1f} pictures a second"),
        *_stored(found.features),
        *_skipped(found.skipped),
    )


def _stored(features: tuple[StoredFeatures, ...]) -> list[RenderableType]:
    rows = [
        (item.value, item.item_count, item.feature_count, item.model_fingerprint[:12]) for item in features
    ]
    return [table("features of", "pictures>", "numbers each>", "model", rows=rows)] if rows else []


def _skipped(items: tuple[SkippedItem, ...]) -> list[RenderableType]:
    rows = [(item.item_name, item.reason) for item in items[:_SHOWN]]
    return [table("skipped", "why", rows=rows)] if rows else []

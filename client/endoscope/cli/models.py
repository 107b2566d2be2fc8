"""``endoscope models``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType

from endoscope.cli.command import command, group
from endoscope.cli.running import json_option
from endoscope.cli.session import Session
from endoscope.cli.tables import moment, size, table
from endoscope.results.models import Model


@group(
    "models",
    "endoscope models list",
    "endoscope models show efficientnet-lite0",
    "endoscope models upload net.onnx",
)
def models() -> None:
    """List, describe, add and delete models."""


@command("list", "endoscope models list", "endoscope models list --json", group=models)
def list_models(session: Session) -> None:
    """List the models."""
    found = session.client.list_models()
    rows = [
        (
            model.model_id,
            model.title,
            model.state,
            size(model.size_bytes),
            _parity(model),
            model.fingerprint[:12],
        )
        for model in found
    ]
    session.tell(found, table("name", "title", "state", "size>", "parity", "fingerprint", rows=rows))


@command(
    "show",
    "endoscope models show efficientnet-lite0",
    "endoscope models show efficientnet-lite0 --json | jq '.layers[].alias'",
    group=models,
)
@click.argument("model")
def show(session: Session, model: str) -> None:
    """Describe MODEL: what it takes and gives, its layers, their receptive fields."""
    found = session.client.get_model(model)
    rows = [
        (
            layer.alias,
            layer.op_type,
            " x ".join(layer.shape),
            f"{layer.parameter_count:,}",
            layer.receptive_field or "",
        )
        for layer in found.layers
    ]
    layers = table("layer", "operator", "output", "parameters>", "receptive field", rows=rows)
    session.tell(found, _facts(found), layers)


@command(
    "upload",
    "endoscope models upload net.onnx",
    "endoscope models upload net.onnx --name my-net --labels labels.txt",
    """endoscope models upload net.onnx --preprocessing '{"scale": 255, "mean": [127], "std": [128]}'""",
    group=models,
)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", help="Default: the file's name.")
@click.option("--title", help="The name as its authors write it.")
@click.option("--image-input", help="The input that takes the picture.")
@json_option("--preprocessing", "How pictures become its input; fields of Preprocessing.")
@click.option(
    "--labels", type=click.File("r"), help="File with a class name a line, in the order of the logits."
)
@click.option("--source", help="Where it comes from.")
@click.option("--license", "license_name", help="SPDX identifier.")
@click.option("--overwrite", is_flag=True, help="Replace a model of that name.")
def upload(
    session: Session,
    file: Path,
    name: str | None,
    title: str | None,
    image_input: str | None,
    preprocessing: Any,
    labels: Any,
    source: str | None,
    license_name: str | None,
    overwrite: bool,
) -> None:
    """Add the model in FILE; it is checked and verified before it is there."""
    names: Sequence[str] | None = labels.read().splitlines() if labels else None
    made = session.client.upload_model(
        file,
        name,
        title=title,
        image_input=image_input,
        preprocessing=preprocessing,
        labels=names,
        source=source,
        license=license_name,
        overwrite=overwrite,
    )
    session.tell(made, _facts(made))


@command("delete", "endoscope models delete my-net", group=models)
@click.argument("model")
def delete(session: Session, model: str) -> None:
    """Delete the uploaded MODEL from the server's disk."""
    session.client.delete_model(model)
    session.tell({"deleted": model}, f"deleted {model}")


@command("load", "endoscope models load efficientnet-lite0", group=models)
@click.argument("model")
def load(session: Session, model: str) -> None:
    """Load MODEL into memory."""
    found = session.client.load_model(model)
    session.tell(found, f"{found.model_id} is {found.state}")


@command("unload", "endoscope models unload efficientnet-lite0", group=models)
@click.argument("model")
def unload(session: Session, model: str) -> None:
    """Free the memory of MODEL."""
    found = session.client.unload_model(model)
    session.tell(found, f"{found.model_id} is {found.state}")


def _parity(model: Model) -> str:
    if model.certificate is None:
        return "not verified"
    return "passed" if model.certificate.passed else "failed"


def _facts(model: Model) -> RenderableType:
    guessed = " (guessed from the input's shape)" if model.preprocessing_assumed else ""
    settings = model.preprocessing
    takes = (
        f"{settings.height} x {settings.width} {settings.channel_order}, {settings.resize}"
        if settings
        else ""
    )
    rows = [
        ("name", model.model_id),
        ("title", model.title),
        ("size", size(model.size_bytes)),
        ("added", moment(model.create_time)),
        ("fingerprint", model.fingerprint),
        ("producer", model.producer),
        ("opsets", ", ".join(f"{domain} {version}" for domain, version in model.opsets.items())),
        ("inputs", ", ".join(map(str, model.inputs))),
        ("outputs", ", ".join(map(str, model.outputs))),
        ("pictures", f"{takes}{guessed}"),
        ("classes", model.class_count),
        ("parity", _parity(model)),
        ("no gradient", ", ".join(sorted({item.op_type for item in model.unsupported_operators}))),
        ("source", model.source),
        ("license", model.license),
    ]
    made = table("", "", rows=[row for row in rows if row[1]])
    made.show_header = False
    return Group(made)

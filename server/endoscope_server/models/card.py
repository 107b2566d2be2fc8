"""What a model's graph does not say: how pictures become its input, its labels, where it comes from."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from endoscope_server.errors import InvalidInput
from endoscope_server.graph import Graph
from endoscope_server.images.preprocessing import ChannelOrder, Layout, Preprocessing, ResizeMode

CARD_KEY = "endoscope.card"
"""The ONNX metadata property in which a card travels with its model, as JSON."""

DEFAULT_SIDE = 224
"""Pixels a side where the graph leaves the input's size free and nobody names one."""

_ENUMS: Mapping[str, type[enum.Enum]] = {
    "resize": ResizeMode,
    "channel_order": ChannelOrder,
    "layout": Layout,
}


@dataclass(frozen=True, slots=True)
class Card:
    """A model's card.

    Attributes:
        title: As its authors write it; may be empty.
        source: Where it comes from; may be empty.
        license: SPDX identifier; may be empty.
        labels: Class names in the order of the logits; may be empty.
        image_input: The input that takes the picture; empty if the model takes none.
        preprocessing: How pictures become that input; None if the model takes none.
        assumed: True if nobody said how, and it was assumed from the input's shape.
    """

    title: str
    source: str
    license: str
    labels: tuple[str, ...]
    image_input: str
    preprocessing: Preprocessing | None
    assumed: bool


def make_card(graph: Graph, given: Mapping[str, Any]) -> Card:
    """The card of a model.

    Args:
        graph: The model; a card that its file carries is read first.
        given: What the user says beside; wins over the file's, key by key. The keys are the fields of
            :class:`Card`; ``preprocessing`` is a mapping of those fields of ``Preprocessing`` that are known.

    Raises:
        InvalidInput: for a value that can't be, with the field ``card.…``.
    """
    facts = {**_embedded(graph), **given}
    name = str(facts.get("image_input", "")) or _image_input(graph)
    if name and name not in {value.name for value in graph.inputs}:
        expected = ", ".join(repr(value.name) for value in graph.inputs)
        raise InvalidInput(f"the model has no input {name!r}, expected {expected}", field="card.image_input")
    labels = tuple(map(str, facts.get("labels", ())))
    if labels and graph.class_count not in (None, len(labels)):
        raise InvalidInput(
            f"there are {len(labels)} labels for {graph.class_count} classes, expected one for each",
            field="card.labels",
        )
    said = facts.get("preprocessing") or {}
    base = _from_shape(graph, name) if name else None
    try:
        preprocessing = overridden(base, said) if base else None
    except InvalidInput as error:
        error.field = f"card.preprocessing.{error.field}"
        raise
    return Card(
        title=str(facts.get("title", "")),
        source=str(facts.get("source", "")),
        license=str(facts.get("license", "")),
        labels=labels,
        image_input=name,
        preprocessing=preprocessing,
        assumed=not said,
    )


def overridden(base: Preprocessing, changes: Mapping[str, Any]) -> Preprocessing:
    """A preprocessing with some fields replaced; enumerations may be given by their value.

    When the number of channels changes, a mean or deviation that is not given becomes 0 or 1.

    Raises:
        InvalidInput: for an unknown field or a value out of its range.
    """
    if not changes:
        return base
    known = {field.name for field in dataclasses.fields(Preprocessing)}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise InvalidInput(
            f"there is no {unknown[0]!r}, expected {', '.join(sorted(known))}", field=unknown[0]
        )
    values: dict[str, Any] = {}
    for name, value in changes.items():
        kind = _ENUMS.get(name)
        try:
            values[name] = kind(value) if kind else tuple(value) if name in {"mean", "std"} else value
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"{name} is {value!r}: {error}", field=name) from error
    grey = values.get("channel_order", base.channel_order) is ChannelOrder.GREY
    if grey != (base.channels == 1):
        channels = 1 if grey else 3
        values = {"mean": (0.0,) * channels, "std": (1.0,) * channels, **values}
    return dataclasses.replace(base, **values)


def _embedded(graph: Graph) -> Mapping[str, Any]:
    for item in graph.skeleton.metadata_props:
        if item.key == CARD_KEY:
            try:
                facts = json.loads(item.value)
            except json.JSONDecodeError as error:
                raise InvalidInput(f"the card in the file is no JSON: {error}", field="card") from error
            if not isinstance(facts, dict):
                raise InvalidInput("the card in the file is no JSON object", field="card")
            return facts
    return {}


def _image_input(graph: Graph) -> str:
    return graph.image_axes[0] if graph.image_axes else ""


def _from_shape(graph: Graph, name: str) -> Preprocessing:
    shape = graph.values[name].shape
    if shape is None or len(shape) != 4:
        raise InvalidInput(
            f"input {name!r} has the shape {shape}, expected batch, channels, height, width",
            field="card.image_input",
        )
    layout = Layout.NHWC if shape[3] in (1, 3) and shape[1] not in (1, 3) else Layout.NCHW
    channel, row, column = (3, 1, 2) if layout is Layout.NHWC else (1, 2, 3)
    height, width = shape[row], shape[column]
    grey = shape[channel] == 1
    channels = 1 if grey else 3
    return Preprocessing(
        height=height if isinstance(height, int) else DEFAULT_SIDE,
        width=width if isinstance(width, int) else DEFAULT_SIDE,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        channel_order=ChannelOrder.GREY if grey else ChannelOrder.RGB,
        layout=layout,
    )

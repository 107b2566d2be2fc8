"""Units behind rectifiers that never fire over some pictures."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.graph import Graph, Layer
from endoscope_server.graph.axes import value_axes
from endoscope_server.techniques.audit.evidence import BATCH
from endoscope_server.techniques.parts.steps import Step
from endoscope_server.techniques.parts.subject import Subject

_RECTIFIERS = frozenset({"Relu", "Clip"})


@dataclass(frozen=True, slots=True)
class DeadUnits:
    """How many units of a layer never were above zero.

    Attributes:
        layer: The layer's alias.
        value: Its ONNX name.
        units: Of the layer: channels times positions.
        dead: Of them.
        channels: Of the layer.
        dead_channels: Channels all of whose units are dead.
    """

    layer: str
    value: str
    units: int
    dead: int
    channels: int
    dead_channels: int


def rectified_layers(graph: Graph) -> list[Layer]:
    """Layers that could be at zero: what Relu and Clip make of a picture."""
    return [
        layer
        for layer in graph.layers
        if layer.op_type in _RECTIFIERS
        and layer.receptive_field is not None
        and graph.values[layer.value].is_float
    ]


def count_dead_units(
    subject: Subject, pictures: NDArray[np.uint8], layers: Sequence[Layer]
) -> Generator[Step | None, None, tuple[DeadUnits, ...]]:
    """Largest activations over all pictures, by ONNX Runtime; a Clip that goes below zero is left out.

    Args:
        subject: The model.
        pictures: pictures x channels x height x width in 8 bits.
        layers: As :func:`rectified_layers` gives them.
    """
    names = [layer.value for layer in layers]
    largest: dict[str, NDArray[Any]] = {}
    smallest = dict.fromkeys(names, 0.0)
    for start in range(0, len(pictures), BATCH):
        found = subject.judged_values(pictures[start : start + BATCH], names)
        for name in names:
            top = found[name].max(0)
            largest[name] = np.maximum(largest[name], top) if name in largest else top
            smallest[name] = min(smallest[name], float(found[name].min()))
        done = min(start + BATCH, len(pictures))
        yield Step(done, len(pictures), stage=f"units of {done} of {len(pictures)} pictures")
    counted = []
    for layer in layers:
        if smallest[layer.value] < 0:
            continue
        axes = value_axes(subject.graph, layer.value, largest[layer.value].ndim + 1)
        maps = axes.channels_first(largest[layer.value][None])[0]
        dead = maps.reshape(len(maps), -1) <= 0
        counted.append(
            DeadUnits(layer.alias, layer.value, dead.size, int(dead.sum()), len(dead), int(dead.all(1).sum()))
        )
    return tuple(counted)

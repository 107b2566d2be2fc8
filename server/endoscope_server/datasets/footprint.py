"""About how much memory a scan takes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from endoscope_server.datasets.engine import PIXEL_SIDE, Engine, Load, peaks_of, value_of, values_of
from endoscope_server.datasets.scan import CHUNK_BYTES, CHUNK_IMAGES, ScanParameters
from endoscope_server.graph import Graph, find_stem, most_alive
from endoscope_server.graph.axes import value_axes
from endoscope_server.images.preprocessing import Preprocessing

_NUMBER_BYTES = 4
_PICTURE_BYTES = 3 * 2**20
"""Of a decoded picture: a photo of a million pixels. What is larger takes more than is told."""
_ARENA = 1.5
"""What ONNX Runtime's arena takes over the values that are alive: it keeps pieces that fit nothing later.
Measured: 0.9 to 1.7 times."""
_GIVEN_COPIES = 2
"""A value as it is given out, and as it is ranked or joined with those of other runs."""
_CHUNK_COPIES = 3
"""Features as they came, as one array, and as those that are new."""


def scan_memory(
    engine: Engine,
    graph: Graph,
    sizes: Mapping[str, int],
    preprocessing: Preprocessing,
    count: int,
    parameters: ScanParameters,
    providers: tuple[str, ...] = ("CPUExecutionProvider",),
) -> int:
    """About how many bytes a scan takes while it runs, if nothing is stored yet.

    The weights of the model's sessions are not among them: those stay with the model.

    Args:
        engine: What computes features.
        graph: The model.
        sizes: Bytes of each computed value for one picture as the model gets it, by ONNX name.
        preprocessing: Between pictures and the model.
        count: Items that are looked at.
        parameters: What is wanted.
        providers: ONNX Runtime execution providers.
    """
    at_once, batch = (min(number, count) for number in parameters.sizes(graph, providers))
    picture = _input_bytes(preprocessing)
    values = values_of(parameters.values)
    given = sum(sizes.get(value, picture) for value in values)
    features = sum(feature_bytes(graph, sizes, wanted, preprocessing) for wanted in parameters.values)
    stem = find_stem(graph, values) if providers[0] == "CPUExecutionProvider" else None
    passing = {} if stem is None else {name: sizes.get(name, 0) // at_once for name in stem.passing}
    alive = most_alive(graph, {**sizes, **passing}, values)
    runs = round(at_once * (_ARENA * alive + _GIVEN_COPIES * given))
    working = runs + batch * (picture + features) + _PICTURE_BYTES
    waiting = min(count, batch + min(CHUNK_IMAGES, CHUNK_BYTES // max(features, 1)))
    under_way = engine.memory(Load(count / batch, batch, working, batch * features))
    return round(under_way) + _CHUNK_COPIES * waiting * features


def feature_bytes(graph: Graph, sizes: Mapping[str, int], wanted: str, preprocessing: Preprocessing) -> int:
    """About how many bytes the features of one picture take.

    Args:
        graph: The model.
        sizes: Bytes of each computed value for one picture, by ONNX name.
        wanted: As :class:`Extraction` has it.
        preprocessing: Between pictures and the model.
    """
    value = value_of(wanted)
    if value is None:
        return 3 * PIXEL_SIDE**2
    whole = sizes.get(value, _input_bytes(preprocessing))
    if wanted != peaks_of(value):
        return whole
    shape = graph.values[value].shape
    channels = shape[value_axes(graph, value, len(shape)).channel] if shape and len(shape) > 1 else 1
    # The strongest activation of each, its row and its column.
    return 3 * _NUMBER_BYTES * channels if isinstance(channels, int) else whole


def _input_bytes(preprocessing: Preprocessing) -> int:
    return _NUMBER_BYTES * math.prod(preprocessing.shape)

"""The filters of a convolution, raw and as a picture (Zeiler and Fergus 2014; Krizhevsky et al. 2012)."""

from __future__ import annotations

import difflib
import enum
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from endoscope_server.errors import EndoscopeError, InvalidInput, NotFound
from endoscope_server.graph import Sessions
from endoscope_server.graph.graph import Graph
from endoscope_server.images import tiles
from endoscope_server.images.preprocessing import ChannelOrder

_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_MANY_TILES = 1024
_COMFORTABLE_SIDE = 32


class FilterOrder(enum.Enum):
    """In what order filters are shown."""

    INDEX = "index"
    NORM = "norm"
    """By L2 norm, largest first."""
    SIMILARITY = "similarity"
    """Each next to the one most like it: a greedy chain by cosine, from the largest norm on."""


@dataclass(frozen=True, slots=True)
class FilterParameters:
    """What is wanted of GetFilters.

    Attributes:
        layer: A convolution by alias, output value or node name; empty for the first.
        order: Of the tiles.
        tile_size: Longer side of a tile in pixels, from the filter's own to 512; 0 for a whole multiple of
            the filter's that gives about 32.
        columns: Tiles in a row; 0 for a picture that is about square, or has a row a filter where every
            channel has a tile.
    """

    layer: str = ""
    order: FilterOrder = FilterOrder.INDEX
    tile_size: int = 0
    columns: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.tile_size <= 512:
            raise InvalidInput(f"tile_size is {self.tile_size}, expected 0 to 512", field="tile_size")
        if self.columns < 0:
            raise InvalidInput(f"columns is {self.columns}, expected 0 or more", field="columns")


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a convolution.

    Attributes:
        layer: Alias of the convolution.
        weights_name: ONNX name of the weights.
        weights: filters x input channels x height x width, in the file's order of channels.
        order: Indices of the filters in the order of the tiles.
        picture: The tiles, zero at mid-grey.
        columns: How many tiles stand in a row.
    """

    layer: str
    weights_name: str
    weights: NDArray[np.generic]
    order: tuple[int, ...]
    picture: Image.Image
    columns: int


def get_filters(
    sessions: Sessions,
    parameters: FilterParameters,
    channel_order: ChannelOrder = ChannelOrder.RGB,
) -> Filters:
    """The filters of a convolution, each scaled by its own largest magnitude, colours kept.

    Args:
        sessions: Of the model; needed where the weights are stored quantised.
        parameters: What is wanted.
        channel_order: Of the model's input: with BGR, three channels are shown the other way round.

    Raises:
        NotFound: if the model has no such layer.
        InvalidInput: if the layer is no two-dimensional convolution.
        LimitExceeded: if the picture would be too large.
    """
    graph = sessions.graph
    node = _convolution(graph, parameters.layer)
    name, weights = _weights(sessions, node)
    order = _order(weights, parameters.order)
    batch = tiles.signed(weights[list(order)], axes=(1, 2, 3))
    channels = batch.shape[1]
    columns = parameters.columns
    if channels == 3:
        batch = batch[:, ::-1] if channel_order is ChannelOrder.BGR else batch
    elif channels != 1:
        batch = batch.reshape(-1, 1, *batch.shape[2:])
        columns = columns or channels
    height, width = _tile_size(parameters.tile_size, batch.shape[2], batch.shape[3], len(batch))
    columns = min(columns or tiles.square_columns(len(batch)), len(batch))
    picture = tiles.tile(tiles.enlarge(batch, height, width), columns)
    alias = next(layer.alias for layer in graph.layers if layer.value == node.output[0])
    return Filters(alias, name, weights, order, picture, columns)


def _convolution(graph: Graph, asked: str) -> onnx.NodeProto:
    found = [node for node in graph.nodes if node.op_type in _CONVOLUTIONS]
    if not found:
        raise InvalidInput("the model has no convolution", field="layer", reason="NO_CONVOLUTION")
    if not asked:
        return found[0]
    by_name = {node.name: node for node in graph.nodes if node.name}
    if asked in by_name:
        node = by_name[asked]
    else:
        try:
            value = graph.values[graph.resolve(asked)]
        except EndoscopeError as error:
            raise error.at("layer") from None
        if value.producer is None:
            raise _not_convolution(graph, asked, found)
        node = graph.nodes[value.producer]
    if node.op_type not in _CONVOLUTIONS:
        raise _not_convolution(graph, asked, found)
    return node


def _not_convolution(graph: Graph, asked: str, found: list[onnx.NodeProto]) -> InvalidInput:
    outputs = {node.output[0] for node in found}
    aliases = [layer.alias for layer in graph.layers if layer.value in outputs]
    close = difflib.get_close_matches(asked, aliases, n=3, cutoff=0.3) or aliases[:3]
    return InvalidInput(
        f"layer {asked!r} is no convolution, expected one such as {', '.join(map(repr, close))}",
        field="layer",
        reason="NOT_A_CONVOLUTION",
    )


def _weights(sessions: Sessions, node: onnx.NodeProto) -> tuple[str, NDArray[np.generic]]:
    """The weights as numbers: what is stored, or what the graph makes of it without any input."""
    name = node.input[_CONVOLUTIONS[node.op_type]]
    try:
        weights = sessions.run({}, [name])[name]
    except (InvalidInput, NotFound) as error:
        raise InvalidInput(
            f"the filters of {node.output[0]!r} are computed from the model's input, expected stored weights",
            field="layer",
            reason="NO_STORED_WEIGHTS",
        ) from error
    if node.op_type == "QLinearConv":
        weights = _dequantised(sessions, weights, node.input[4], node.input[5])
    if weights.ndim == 3:
        weights = weights[:, :, None]
    if weights.ndim != 4:
        raise InvalidInput(
            f"the filters of {node.output[0]!r} have the shape {list(weights.shape)}, "
            "expected two dimensions of space",
            field="layer",
            reason="NOT_TWO_DIMENSIONAL",
        )
    return name, weights


def _dequantised(
    sessions: Sessions, weights: NDArray[np.generic], scale_name: str, zero_name: str
) -> NDArray[np.float32]:
    scale = np.asarray(sessions.graph.weights[scale_name], np.float32).reshape(-1, 1, 1, 1)
    zero = np.asarray(sessions.graph.weights[zero_name], np.float32).reshape(-1, 1, 1, 1)
    return (weights.astype(np.float32) - zero) * scale


def _order(weights: NDArray[np.generic], order: FilterOrder) -> tuple[int, ...]:
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    norms = np.linalg.norm(flat, axis=1)
    if order is FilterOrder.INDEX:
        return tuple(range(len(flat)))
    if order is FilterOrder.NORM:
        return tuple(int(index) for index in np.argsort(-norms, kind="stable"))
    unit = flat / np.where(norms == 0, 1, norms)[:, None]
    chain = [int(norms.argmax())]
    left = np.ones(len(flat), bool)
    left[chain[0]] = False
    while left.any():
        cosine = np.where(left, unit @ unit[chain[-1]], -np.inf)
        chain.append(int(cosine.argmax()))
        left[chain[-1]] = False
    return tuple(chain)


def _tile_size(asked: int, height: int, width: int, count: int) -> tuple[int, int]:
    longer = max(height, width)
    if asked and asked < longer:
        raise InvalidInput(
            f"tile_size is {asked}, expected at least the filter's own {longer}", field="tile_size"
        )
    comfortable = longer if count > _MANY_TILES else longer * max(1, round(_COMFORTABLE_SIDE / longer))
    side = asked or comfortable
    return max(1, height * side // longer), max(1, width * side // longer)

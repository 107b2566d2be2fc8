"""Any values of a graph for some pictures, with statistics and pictures of them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.graph import ReceptiveField, Sessions, run_inputs
from endoscope_server.graph.axes import Axes, value_axes
from endoscope_server.images import tiles


class Statistics(enum.Enum):
    """Over which axes statistics are taken."""

    NONE = "none"
    SPATIAL = "spatial"
    """Over the positions of each channel."""
    CHANNEL = "channel"
    """Over the channels at each position."""


@dataclass(frozen=True, slots=True)
class ActivationParameters:
    """What is wanted of GetActivations.

    Attributes:
        layers: Values by ONNX name or alias; none stands for the model's outputs.
        statistics: Of each value.
        top_k: How many of the strongest units are listed for each value and picture, 0 to 1000.
        feature_map_pictures: Whether the channels of feature maps are shown as tiles.
        overlays: Whether heat maps are laid over the pictures.
        overlay_channel: The channel that overlays show; None for the mean magnitude of all.
    """

    layers: tuple[str, ...] = ()
    statistics: Statistics = Statistics.NONE
    top_k: int = 0
    feature_map_pictures: bool = False
    overlays: bool = False
    overlay_channel: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.top_k <= 1000:
            raise InvalidInput(f"top_k is {self.top_k}, expected 0 to 1000", field="top_k")
        if self.overlay_channel is not None and self.overlay_channel < 0:
            raise InvalidInput(
                f"overlay_channel is {self.overlay_channel}, expected 0 or more", field="overlay_channel"
            )


@dataclass(frozen=True, slots=True)
class ActivationStatistics:
    """Statistics of a value: pictures x channels, or pictures x positions (rows x columns in a feature map).

    Attributes:
        mean: Mean.
        std: Standard deviation, of the whole population.
        minimum: Smallest.
        maximum: Largest.
        sparsity: Share of numbers that are zero or negative, in [0, 1].
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    sparsity: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class UnitActivation:
    """One unit of one picture: its place in the value without the picture's axis, and its activation."""

    index: tuple[int, ...]
    activation: float


@dataclass(frozen=True, slots=True)
class Activation:
    """A value for a batch of pictures.

    Attributes:
        layer: As it was asked for.
        value: Its ONNX name.
        tensor: The value; axis 0 is the picture's.
        statistics: If asked for, and if the value is a float.
        top_units: The strongest units of each picture, strongest first, if asked for.
        feature_maps: A picture for each, if asked for and the value is a feature map.
        overlays: A picture for each, if asked for and the value is a feature map.
    """

    layer: str
    value: str
    tensor: NDArray[np.generic]
    statistics: ActivationStatistics | None = None
    top_units: tuple[tuple[UnitActivation, ...], ...] = ()
    feature_maps: tuple[Image.Image, ...] = ()
    overlays: tuple[Image.Image, ...] = ()


def get_activations(
    sessions: Sessions,
    inputs: Mapping[str, NDArray[np.generic]],
    parameters: ActivationParameters,
    pictures: Sequence[Image.Image] = (),
) -> tuple[Activation, ...]:
    """Values of the graph for a batch.

    Args:
        sessions: Of the model.
        inputs: Arrays by input name; axis 0 is the picture's.
        parameters: What is wanted.
        pictures: The pictures as the model sees them, fitted to its input; needed for overlays.

    Raises:
        NotFound: for an unknown layer, with the field ``layers[i]``.
        InvalidInput: for inputs that don't fit, or overlays without pictures.
    """
    graph = sessions.graph
    layers = parameters.layers or tuple(value.name for value in graph.outputs)
    if parameters.overlays and not pictures:
        raise InvalidInput("overlays need pictures, expected images in the request", field="overlays")
    names = []
    for index, layer in enumerate(layers):
        try:
            names.append(graph.resolve(layer))
        except EndoscopeError as error:
            raise error.at(f"layers[{index}]") from None
    values = run_inputs(sessions, inputs, list(dict.fromkeys(names)))
    return tuple(
        _activation(layer, name, values[name], sessions, parameters, pictures)
        for layer, name in zip(layers, names, strict=True)
    )


def strongest(array: NDArray[np.generic], count: int) -> tuple[UnitActivation, ...]:
    """The ``count`` largest numbers of one picture's value, largest first, equal ones by index."""
    flat = np.asarray(array, np.float64).reshape(-1)
    count = min(count, flat.size)
    if not count:
        return ()
    ranked = np.where(np.isnan(flat), -np.inf, flat)
    threshold = np.partition(ranked, flat.size - count)[flat.size - count]
    candidates = np.flatnonzero(ranked >= threshold)
    order = candidates[np.argsort(-ranked[candidates], kind="stable")][:count]
    places = np.unravel_index(order, array.shape)
    return tuple(
        UnitActivation(tuple(int(axis[rank]) for axis in places), float(flat[place]))
        for rank, place in enumerate(order)
    )


def _activation(
    layer: str,
    name: str,
    tensor: NDArray[np.generic],
    sessions: Sessions,
    parameters: ActivationParameters,
    pictures: Sequence[Image.Image],
) -> Activation:
    axes = value_axes(sessions.graph, name, tensor.ndim)
    numeric = sessions.graph.values[name].is_float or tensor.dtype.kind in "iub"
    if not numeric or not tensor.ndim:
        return Activation(layer, name, tensor)
    statistics = None
    if parameters.statistics is not Statistics.NONE:
        statistics = _statistics(tensor, axes, parameters.statistics)
    maps = np.asarray(axes.channels_first(tensor), np.float32) if axes.spatial else None
    return Activation(
        layer=layer,
        value=name,
        tensor=tensor,
        statistics=statistics,
        top_units=tuple(strongest(item, parameters.top_k) for item in tensor) if parameters.top_k else (),
        feature_maps=tuple(map(_feature_maps, maps))
        if parameters.feature_map_pictures and maps is not None
        else (),
        overlays=_overlays(
            maps, sessions.graph.receptive_fields.get(name), pictures, parameters.overlay_channel
        )
        if parameters.overlays and maps is not None
        else (),
    )


def _statistics(tensor: NDArray[np.generic], axes: Axes, over: Statistics) -> ActivationStatistics:
    values = np.asarray(axes.channels_first(tensor), np.float32)
    reduced: int | tuple[int, ...] = (2, 3) if over is Statistics.SPATIAL else 1

    def shaped(result: NDArray[np.floating]) -> NDArray[np.float32]:
        if over is Statistics.CHANNEL and not axes.spatial:
            result = result[..., 0]
        return np.asarray(result, np.float32)

    return ActivationStatistics(
        # Sums of a large feature map lose digits in 32 bits.
        mean=shaped(values.mean(reduced, dtype=np.float64)),
        std=shaped(values.std(reduced, dtype=np.float64)),
        minimum=shaped(values.min(reduced)),
        maximum=shaped(values.max(reduced)),
        sparsity=shaped((values <= 0).mean(reduced)),
    )


def _feature_maps(maps: NDArray[np.float32]) -> Image.Image:
    """The channels as grey tiles: from 0 at black where nothing is negative, else with 0 at mid-grey."""
    finite: NDArray[np.float32] = np.nan_to_num(maps)
    if finite.min() >= 0:
        largest = finite.max(axis=(1, 2), keepdims=True)
        scaled = finite / np.maximum(largest, np.finfo(np.float32).tiny)
    else:
        scaled = tiles.signed(finite, axes=(1, 2))
    height, width = scaled.shape[1:]
    factor = max(1, round(32 / max(height, width)))
    return tiles.tile(tiles.enlarge(scaled[:, None], height * factor, width * factor))


def _overlays(
    maps: NDArray[np.float32],
    field: ReceptiveField | None,
    pictures: Sequence[Image.Image],
    channel: int | None,
) -> tuple[Image.Image, ...]:
    if len(pictures) != len(maps):
        raise InvalidInput(
            f"there are {len(pictures)} pictures for {len(maps)} activations, expected as many",
            field="images",
        )
    if channel is not None and channel >= maps.shape[1]:
        raise InvalidInput(
            f"overlay_channel is {channel}, expected below the layer's {maps.shape[1]} channels",
            field="overlay_channel",
        )
    finite = np.nan_to_num(maps)
    strength = np.abs(finite).mean(1) if channel is None else np.maximum(finite[:, channel], 0)
    made = []
    for values, picture in zip(strength, pictures, strict=True):
        spread = spread_over_image(values, field, picture.height, picture.width)
        made.append(tiles.overlay(picture, spread / max(float(spread.max()), 1e-12)))
    return tuple(made)


def spread_over_image(
    values: NDArray[np.floating], field: ReceptiveField | None, height: int, width: int
) -> NDArray[np.float64]:
    """A feature map at the image's size, each unit at the middle of what it sees.

    Args:
        values: rows x columns of units.
        field: Of the units; None spreads them evenly.
        height: Of the image.
        width: Of the image.
    """
    place = []
    for units, pixels, axis in (
        (values.shape[0], height, field.rows if field else None),
        (values.shape[1], width, field.columns if field else None),
    ):
        if axis is None:
            place.append((np.arange(pixels) + 0.5) * units / pixels - 0.5)
        else:
            middle = float(axis.low + axis.high) / 2
            place.append((np.arange(pixels) - middle) / float(axis.stride))
    rows = _between(values.astype(np.float64), place[0])
    return _between(rows.T, place[1]).T


def _between(values: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of ``values`` at fractional places, linearly, the outermost ones going on."""
    place = np.clip(place, 0, len(values) - 1)
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, len(values) - 1)
    share = (place - below)[:, None]
    blended: NDArray[np.float64] = (1 - share) * values[below] + share * values[above]
    return blended

"""The patches of a dataset that activate channels most (Girshick et al. 2014; Zeiler and Fergus 2014).

One pass over the dataset serves every channel of several layers; what is held is ``k`` places a channel. Of
each picture only the strongest unit of a channel counts, so that no picture fills a row by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from endoscope_server.datasets import peaks_of
from endoscope_server.datasets.scan import Observe, ScanResult
from endoscope_server.errors import InvalidInput
from endoscope_server.graph import Graph, ReceptiveField
from endoscope_server.graph.axes import value_axes
from endoscope_server.images import tiles
from endoscope_server.techniques.parts.steps import Step, preview_due

MAX_PATCH_BYTES = 512 * 2**20
SHEET_ROWS = 64
PREVIEW_ROWS, PREVIEW_SIDE = 8, 64


@dataclass(frozen=True, slots=True)
class ChannelSelection:
    """Channels of a layer.

    Attributes:
        layer: As it was asked for.
        value: ONNX name of the layer's value.
        channels: The channels; none stands for all.
    """

    layer: str
    value: str
    channels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PatchParameters:
    """What is wanted of FindActivatingPatches.

    Attributes:
        k: Patches a channel, 1 to 100; fewer where there are fewer pictures.
        patch_size: Side of a patch on the contact sheet in pixels, 16 to 512.
        omit_patches: Whether pictures of the patches are not wanted.
        preview_every: Every how many steps the sheet is shown as it stands; 0 for never.
    """

    k: int = 9
    patch_size: int = 96
    omit_patches: bool = False
    preview_every: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 100:
            raise InvalidInput(f"k is {self.k}, expected 1 to 100", field="k")
        if not 16 <= self.patch_size <= 512:
            raise InvalidInput(f"patch_size is {self.patch_size}, expected 16 to 512", field="patch_size")


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch, and the unit that it activates.

    Attributes:
        item: Index of the picture in the dataset.
        activation: Of the unit.
        row: The unit's, in the feature map; 0 where there are no positions.
        column: Likewise.
        box: What the unit sees of the picture as the model gets it: left, top, right, bottom.
    """

    item: int
    activation: float
    row: int
    column: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class ChannelPatches:
    """What activates a channel most, strongest first; at most one patch of a picture."""

    layer: str
    channel: int
    patches: tuple[Patch, ...]


Scan = Callable[[Sequence[str], Observe], Generator[Step | None, None, ScanResult]]
"""Goes through a dataset for some values, and tells what it finds."""

Fitted = Callable[[int], Image.Image]
"""An item as the model sees it."""


def find_activating_patches(
    graph: Graph,
    selections: Sequence[ChannelSelection],
    parameters: PatchParameters,
    scan: Scan,
    fitted: Fitted,
    size: tuple[int, int],
) -> Generator[Step | None, None, tuple[ChannelPatches, ...]]:
    """The strongest patches of each channel.

    Args:
        graph: The model.
        selections: The layers and channels.
        parameters: What is wanted.
        scan: Goes through the dataset.
        fitted: Gives an item as the model sees it.
        size: Rows and columns of the model's input.

    Raises:
        InvalidInput: for a channel that is not there, or more patches than can be answered with.
    """
    rankings = [
        _Ranking(selection, parameters, graph, size, index) for index, selection in enumerate(selections)
    ]

    def observe(items: Sequence[int], features: Mapping[str, NDArray[Any]]) -> None:
        for ranking in rankings:
            ranking.take(items, features[peaks_of(ranking.selection.value)])

    work = scan([peaks_of(selection.value) for selection in selections], observe)
    count = 0
    for step in work:
        if step is None:
            yield None
            continue
        count += 1
        images = None
        if preview_due(count, 0, parameters.preview_every):
            rows = [row for ranking in rankings for row in ranking.result(PREVIEW_ROWS)][:PREVIEW_ROWS]
            picture = contact_sheet(rows, fitted, PREVIEW_SIDE)
            images = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / np.float32(255)
        yield Step(count, step.total, step.losses, images, step.stage)
    return tuple(row for ranking in rankings for row in ranking.result())


def channel_count(graph: Graph, value: str) -> int | None:
    """How many channels a value has, or None if the graph does not say."""
    shape = graph.values[value].shape
    if shape is None:
        return None
    size = shape[value_axes(graph, value, len(shape)).channel] if len(shape) > 1 else 1
    return size if isinstance(size, int) else None


def check_selection(
    graph: Graph,
    selection: ChannelSelection,
    parameters: PatchParameters,
    size: tuple[int, int],
    channels: int,
    field: str,
) -> None:
    """Whether channels are there, and their patches can be answered with.

    Raises:
        InvalidInput: if not.
    """
    for number, channel in enumerate(selection.channels):
        if not 0 <= channel < channels:
            raise InvalidInput(
                f"channel {channel} is not there, expected 0 to {channels - 1}",
                field=f"{field}.channels[{number}]",
                reason="OUT_OF_RANGE",
            )
    if parameters.omit_patches:
        return
    seen = _seen(graph, selection.value)
    height = min(size[0], seen.rows.size) if seen.rows else size[0]
    width = min(size[1], seen.columns.size) if seen.columns else size[1]
    count = len(selection.channels) or channels
    if 3 * height * width * count * parameters.k > MAX_PATCH_BYTES:
        raise InvalidInput(
            f"{count} channels with {parameters.k} patches of {height} x {width} pixels each have more than "
            f"{MAX_PATCH_BYTES >> 20} MiB; expected fewer channels, a smaller k, or omit_patches",
            field=field,
            reason="TOO_MANY_PATCHES",
        )


def contact_sheet(rows: Sequence[ChannelPatches], fitted: Fitted, side: int) -> Image.Image:
    """A row for each channel, patches with their activations; smaller ones where it would be too large."""
    rows = rows[:SHEET_ROWS]
    columns = max((len(row.patches) for row in rows), default=0)
    while side > 16 and len(rows) * columns * (1.3 * side + 8) ** 2 > tiles.MAX_PIXELS / 2:
        side -= 8
    pictures = cut_out(rows, fitted)
    titles = [f"{row.layer} {row.channel}" for row in rows]
    captions = [[f"{patch.activation:.3g}" for patch in row.patches] for row in rows]
    small = [[tiles.thumbnail(picture, side) for picture in row] for row in pictures]
    return tiles.sheet(small, side, captions, titles)


def cut_out(rows: Sequence[ChannelPatches], fitted: Fitted) -> list[list[Image.Image]]:
    """The patches' pixels; each picture is fitted once."""
    found: dict[tuple[int, int], Image.Image] = {}
    places: dict[int, list[tuple[int, int]]] = {}
    for row_number, row in enumerate(rows):
        for number, patch in enumerate(row.patches):
            places.setdefault(patch.item, []).append((row_number, number))
    for item, wanted in places.items():
        picture = fitted(item)
        for place in wanted:
            found[place] = picture.crop(rows[place[0]].patches[place[1]].box)
    return [
        [found[row_number, number] for number in range(len(row.patches))]
        for row_number, row in enumerate(rows)
    ]


class _Ranking:
    """The strongest units of a selection's channels, so far."""

    def __init__(
        self,
        selection: ChannelSelection,
        parameters: PatchParameters,
        graph: Graph,
        size: tuple[int, int],
        index: int,
    ) -> None:
        self.selection = selection
        self._parameters = parameters
        self._graph = graph
        self._size = size
        self._field = f"selections[{index}]"
        self._seen = _seen(graph, selection.value)
        self._channels: NDArray[np.int64] | None = None
        self._best: NDArray[np.float64] = np.zeros((0, 0, 4))

    def take(self, items: Sequence[int], peaks: NDArray[Any]) -> None:
        """Look at some pictures.

        Args:
            items: Their indices.
            peaks: pictures x (3 channels), as :func:`peaks_of` has them.
        """
        count = peaks.shape[1] // 3
        if self._channels is None:
            check_selection(self._graph, self.selection, self._parameters, self._size, count, self._field)
            self._channels = np.array(self.selection.channels or range(count), np.int64)
            self._best = np.zeros((len(self._channels), 0, 4))
        # channels x pictures x (activation, item, row, column)
        found = peaks.reshape(len(items), 3, count)[:, :, self._channels].astype(np.float64)
        own = np.broadcast_to(np.asarray(items, np.float64)[:, None], found[:, 0].shape)
        fresh = np.stack([found[:, 0], own, found[:, 1], found[:, 2]], axis=-1).transpose(1, 0, 2)
        merged = np.concatenate([self._best, fresh], axis=1)
        # Equal activations go by the item, so that the order of arrival does not matter.
        order = np.lexsort((merged[..., 1], -merged[..., 0]), axis=-1)[:, : self._parameters.k]
        self._best = np.take_along_axis(merged, order[..., None], axis=1)

    def result(self, limit: int | None = None) -> list[ChannelPatches]:
        """What was found, for the first channels."""
        channels = np.zeros(0, np.int64) if self._channels is None else self._channels[:limit]
        return [
            ChannelPatches(
                self.selection.layer,
                int(channel),
                tuple(self._patch(*place) for place in best if np.isfinite(place[0])),
            )
            for channel, best in zip(channels, self._best, strict=False)
        ]

    def _patch(self, activation: float, item: float, row: float, column: float) -> Patch:
        top, left, bottom, right = self._seen.box(int(row), int(column), *self._size)
        return Patch(int(item), float(activation), int(row), int(column), (left, top, right, bottom))


def _seen(graph: Graph, value: str) -> ReceptiveField:
    """What units see, along the axes that their rows and columns are counted on; else everything."""
    found = graph.receptive_fields.get(value)
    if found is None or found.spatial:
        return found or ReceptiveField(None, None, None, None)
    shape = graph.values[value].shape
    four = shape is not None and len(shape) == 4
    return ReceptiveField(
        found.rows if four and found.row_axis == 2 else None,
        found.columns if four and found.column_axis == 3 else None,
        None,
        None,
    )

"""Layers taken band by band: some rows of each before the next rows of the first.

What a layer leaves is then still near when the next one reads it, and only so many rows of it are kept as
others still need: a map is a ring of rows (Alwani et al. 2016, "Fused-Layer CNN Accelerators").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass

from endoscope_server.mirror.kernels.pooling import Mean
from endoscope_server.mirror.native.support import Layer

# So many numbers of all layers a band has, about: they stay in a core's own cache.
_BAND = 1 << 18


@dataclass(frozen=True, eq=False)
class Band:
    """Rows of a layer's result.

    Attributes:
        layer: The layer.
        first: The first row.
        last: The one after the last.
    """

    layer: Layer
    first: int
    last: int


@dataclass(frozen=True)
class Schedule:
    """Bands in order.

    Attributes:
        bands: They make up all of the layers.
        rings: How many rows of each slot's value are kept.
    """

    bands: list[Band]
    rings: dict[int, int]


def schedule(layers: Sequence[Layer], lasting: Set[int], banded: bool) -> Schedule:
    """The order in which layers are computed for one image.

    Args:
        layers: In the order of what they need.
        lasting: Slots of values that are needed whole.
        banded: Whether large layers are taken band by band, else each is computed at once.
    """
    bands: list[Band] = []
    large = [index for index, layer in enumerate(layers) if banded and _numbers(layer) > _BAND]
    produced = {layer.output: layer for layer in layers}
    done: defaultdict[Layer, int] = defaultdict(int)
    rings: defaultdict[int, int] = defaultdict(int)
    readers = defaultdict(list)
    for layer in layers:
        for slot in layer.inputs:
            readers[slot].append(layer)

    def compute(layer: Layer, last: int) -> None:
        first, last = done[layer], min(last, layer.shape[2])
        if last <= first:
            return
        for slot in layer.inputs:
            if slot in produced:
                compute(produced[slot], _last_read(layer, last))
        bands.append(Band(layer, first, last))
        done[layer] = last
        slot, height = layer.output, layer.shape[2]
        oldest = min((_first_read(reader, done[reader]) for reader in readers[slot]), default=0)
        rings[slot] = height if slot in lasting else max(rings[slot], min(height, last - oldest))

    if large:
        driver = layers[large[-1]]
        count = -(-sum(map(_numbers, layers[: large[-1] + 1])) // _BAND)
        for part in range(1, count + 1):
            compute(driver, -(-driver.shape[2] * part // count))
    for layer in layers:
        compute(layer, layer.shape[2])
    return Schedule(bands, dict(rings))


def _numbers(layer: Layer) -> int:
    _, channels, height, width = layer.shape
    return channels * height * width


def _first_read(layer: Layer, row: int) -> int:
    """The first row of its inputs that a layer reads for a row and those after it."""
    if row >= layer.shape[2]:
        return 1 << 62
    if isinstance(layer.kernel, Mean):
        return 0
    if layer.geometry is None:
        return row
    return max(0, row * layer.geometry.strides[0] - layer.geometry.starts[0])


def _last_read(layer: Layer, last: int) -> int:
    """The row of its inputs after the last one that a layer reads for the rows before ``last``."""
    geometry = layer.geometry
    if isinstance(layer.kernel, Mean):
        return 1 << 62
    if geometry is None:
        return last
    reach = (geometry.kernel[0] - 1) * geometry.dilations[0] - geometry.starts[0]
    return min(geometry.size[0], max(0, (last - 1) * geometry.strides[0] + reach + 1))

"""Dense convolutions in the processor's integer tiles: their weights, and the operations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from endoscope_server.mirror.compiling.arena import View, plain
from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.program import Field, Operation, shared
from endoscope_server.mirror.kernels.weights import Weights
from endoscope_server.mirror.native.tables import Table, in_order, table_fields
from endoscope_server.mirror.tiles import gathered, maps
from endoscope_server.mirror.tiles.digits import DIGITS
from endoscope_server.mirror.tiles.instructions import DEPTH, SIDE, TILE, available
from endoscope_server.mirror.tiles.product import cut_matrix, weights_of_inputs

# Fewer numbers are summed about as fast by vectors.
_LEAST_SUM = 128
# What a block gathers has to stay in a core's own cache.
_MOST_SUM = 8192
# So many channels at least, of as many as tiles take.
_FULL = 0.75
# Bytes of a group's panels, which stay there for a chunk of blocks.
_GROUP = 1 << 20
_CHUNK = 32
# Parts of a batch in which largest numbers are looked for.
_PARTS = 32


@dataclass(frozen=True, eq=False)
class Digits:
    """A map cut into digits.

    Attributes:
        view: The digits.
        scales: What first ones are worth, for each image.
        depth: Bytes of a digit of a pixel.
        pixels: Of an image.
    """

    view: View
    scales: View
    depth: int
    pixels: int


@dataclass(frozen=True, eq=False)
class Packed:
    """A convolution's weights.

    Attributes:
        digits: As tiles take them.
        scales: For each column.
    """

    digits: Tensor
    scales: Tensor


def takes(machine: Machine, weights: Weights) -> bool:
    """Whether tiles are faster for a convolution, forward and back, than vectors."""
    columns, channels, *kernel = weights.shape
    count = kernel[0] * kernel[1]
    both = all(
        size % SIDE == 0
        and size >= _FULL * maps.depth(size)
        and _LEAST_SUM <= count * maps.depth(size) <= _MOST_SUM
        for size in (channels, columns)
    )
    return both and machine.lanes == SIDE and available() and bool(_largest(weights, 1).isfinite().all())


def _largest(weights: Weights, axis: int) -> Tensor:
    """The largest weight along an axis, without signs."""

    def find() -> Tensor:
        others = [other for other in range(len(weights.shape)) if other != axis]
        return weights.fold().abs().amax(others)

    return weights.packed(("largest", axis), find)


def factors(weights: Weights, backward: bool) -> Tensor:
    """What the channels are multiplied by that are read."""
    axis = 0 if backward else 1
    return weights.packed(("factors", axis), lambda: weights_of_inputs(_largest(weights, axis)))


def pack(weights: Weights, backward: bool, taps: Sequence[int]) -> Packed:
    """Weights, or those of the gradient of the input, of some taps."""
    return weights.packed(("tiled", backward, tuple(taps)), lambda: _pack(weights, backward, taps))


def _pack(weights: Weights, backward: bool, taps: Sequence[int]) -> Packed:
    own = weights.fold().flatten(2)[:, :, list(taps)]
    # Columns x taps x channels.
    matrix = own.permute(1, 2, 0) if backward else own.permute(0, 2, 1)
    channels = matrix.shape[2]
    wide = torch.nn.functional.pad(matrix, (0, maps.depth(channels) - channels)).flatten(1)
    own_factors = torch.nn.functional.pad(
        factors(weights, backward), (0, maps.depth(channels) - channels), value=1.0
    )
    return Packed(*cut_matrix(wide, own_factors.repeat(len(taps))))


def cut(x: View, channel_factors: Tensor, backward: bool) -> tuple[Digits, list[Operation]]:
    """The operations that cut a map, whose channels are whole vectors."""
    images, channels = x.shape[:2]
    parts = max(1, min(x.pixels, -(-_PARTS // images)))
    part = -(-x.pixels // parts)
    parts, depth = -(-x.pixels // part), maps.depth(channels)

    largest, scales = plain(2 * images * parts, backward), plain(images, backward)
    view = plain(images * x.pixels * DIGITS * depth // 4, backward)
    fields: dict[str, Field] = {
        "units": images * parts,
        "parts": parts,
        "part": part,
        "pixels": x.pixels,
        "vectors": channels // SIDE,
        "input": x,
        "input_row": x.row,
        "input_image": x.pixels * x.row,
        "factors": channel_factors,
        "largest": largest,
    }
    cutting: dict[str, Field] = {**fields, "depth": depth, "digits": view, "scales": scales}
    return Digits(view, scales, depth, x.pixels), [
        Operation(maps.build_largest, (), maps.LARGEST, fields),
        Operation(maps.build_cut, (), maps.CUT, cutting),
    ]


def convolve(
    x: Digits, packed: Packed, table: Table, places: Table, images: int, end: dict[str, Field], wait: bool
) -> Operation:
    """The operation that multiplies what a table gathers.

    Args:
        x: The map.
        packed: The weights.
        table: Taps x the result's pixels: pixels of an image of the map.
        places: Where in an image of the result its pixels are.
        images: How many.
        end: Fields of what happens to the result, its bias and the size of its images.
        wait: Whether what follows needs it.
    """
    steps, panels, blocks = len(table) * x.depth // DEPTH, len(packed.scales) // SIDE, -(-len(places) // SIDE)
    group = max(1, min(panels, _GROUP // (steps * DIGITS * TILE)))
    groups = -(-panels // group)
    chunk = shared(blocks, images * groups, min(blocks, _CHUNK))
    fields: dict[str, Field] = {
        "units": groups * images * -(-blocks // chunk),
        "images": images,
        "chunk": chunk,
        "blocks": blocks,
        "group": -(-panels // groups),
        "panels": panels,
        "steps": steps,
        "lines": -(-SIDE // steps),
        "rows": len(places),
        "digits": x.view,
        "digits_image": x.pixels * DIGITS * x.depth,
        "scales": x.scales,
        "depth": x.depth,
        "taps": len(table),
        **table_fields(table),
        "zeros": _zeros(DIGITS * x.depth),
        "places": places,
        "matrix": packed.digits,
        "matrix_scales": packed.scales,
        "bias_apart": 1,
        **end,
    }
    return Operation(gathered.build, (in_order(places),), gathered.FIELDS, fields, wait)


@functools.lru_cache(maxsize=64)
def _zeros(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int8)

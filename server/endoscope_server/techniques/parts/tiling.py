"""Large pictures in tiles, so that memory does not grow with them."""

from __future__ import annotations

import torch
from torch import Tensor


def tiles(height: int, width: int, side: int) -> list[tuple[slice, slice]]:
    """Tiles of at most ``side`` pixels a side that cover a picture; the last of a row overlaps if it must."""
    return [(rows, columns) for rows in _spans(height, side) for columns in _spans(width, side)]


def cover(height: int, width: int, places: list[tuple[slice, slice]]) -> Tensor:
    """How many of the tiles each pixel is in, height x width."""
    counts = torch.zeros(height, width)
    for rows, columns in places:
        counts[rows, columns] += 1
    return counts


def _spans(length: int, side: int) -> list[slice]:
    if length <= side:
        return [slice(0, length)]
    starts = [*range(0, length - side, side), length - side]
    return [slice(start, start + side) for start in starts]

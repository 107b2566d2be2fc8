"""Which axis of a value holds channels, and which hold positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endoscope_server.graph.graph import Graph


@dataclass(frozen=True, slots=True)
class Axes:
    """The roles of a value's axes; axis 0 is the picture's.

    Attributes:
        channel: The axis of channels, features, or a token's components.
        rows: The axis that runs down the image, or None.
        columns: The axis that runs across the image, or None.
        rank: How many axes there are.
    """

    channel: int
    rows: int | None
    columns: int | None
    rank: int

    @property
    def spatial(self) -> bool:
        """Whether the value is a feature map: units in rows and columns."""
        return self.rows is not None and self.columns is not None

    def channels_first(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The value as pictures x channels x rows x columns; without rows, positions x 1 stand there."""
        if self.rows is not None and self.columns is not None:
            rest = [
                axis for axis in range(1, self.rank) if axis not in (self.channel, self.rows, self.columns)
            ]
            moved = array.transpose(0, self.channel, *rest, self.rows, self.columns)
            return moved.reshape(moved.shape[0], -1, *moved.shape[-2:])
        if self.rank < 2:
            return array.reshape(array.shape[0] if array.ndim else 1, 1, 1, 1)
        moved = np.moveaxis(array, self.channel, 1)
        return moved.reshape(*moved.shape[:2], -1, 1)


def value_axes(graph: Graph, value: str, rank: int) -> Axes:
    """The axes of a value of known rank.

    Feature maps are told by their receptive fields, or by a rank of 4 (channels first) where none are
    known; a value of rank 3 is taken for tokens with their components last.
    """
    field = graph.receptive_fields.get(value)
    if field is not None and field.row_axis is not None and field.column_axis is not None and rank >= 3:
        left = [axis for axis in range(1, rank) if axis not in (field.row_axis, field.column_axis)]
        return Axes(left[0] if left else 0, field.row_axis, field.column_axis, rank)
    if rank == 4:
        return Axes(1, 2, 3, rank)
    return Axes(max(rank - 1, 0), None, None, rank)

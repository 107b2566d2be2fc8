"""Compositional pattern-producing networks, which paint a picture point by point (Stanley 2007)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_SHAPE_GENES = 8
_REACH = 3.0
"""In deviations: farther out a bell is as good as zero."""
_SIZE = 0.25
_SIZES = 0.7
_PHASE_ALONG, _PHASE_AROUND = 5.0, 2.5
"""In radians at one deviation from the middle."""
_COLOR = 1.5
_LIMIT = 20.0


class Pattern:
    """A network from a point's place to its colour, made of nodes that are added up and squashed.

    A node is a bell somewhere in the picture, stretched and turned, times a sine of the place along it and of
    the distance from its middle, times a colour. Its genes are of the order of 1: the middle's x and y, from
    -1 to 1 within the picture, size (a logarithm), aspect, angle, frequencies along and around (relative to
    its size), phase, and a number for each channel. A node whose colour is zero is not there.

    Args:
        channels: 1 or 3.
        height: Rows, in pixels.
        width: Columns, in pixels.
        nodes: The most nodes.

    Attributes:
        genome_shape: Nodes x genes.
    """

    def __init__(self, channels: int, height: int, width: int, nodes: int) -> None:
        self.genome_shape = (nodes, _SHAPE_GENES + channels)
        self._shape = (channels, height, width)
        self._half = max(height, width) / 2

    def field(self, genome: NDArray[np.float32]) -> NDArray[np.float32]:
        """The sum of all nodes before it is squashed, channels x height x width."""
        found = np.zeros(self._shape, np.float32)
        for node in genome[used(genome)]:
            self.add(found, node)
        return found

    def add(self, field: NDArray[np.float32], node: NDArray[np.float32], sign: float = 1.0) -> None:
        """Add a node to a field in place, or with ``sign`` -1 take it away."""
        color = np.float32(_COLOR * sign) * node[_SHAPE_GENES:]
        if not color.any():
            return
        x, y, size, aspect, angle, along, around, phase = (float(gene) for gene in node[:_SHAPE_GENES])
        size = _SIZE * math.exp(_SIZES * size)
        long, short = size * math.exp(0.5 * aspect), size * math.exp(-0.5 * aspect)
        reach = _REACH * max(long, short)
        rows, down = self._span(y, reach, self._shape[1])
        columns, over = self._span(x, reach, self._shape[2])
        down, over = down[:, None], over[None, :]
        cosine, sine = np.float32(math.cos(math.pi * angle)), np.float32(math.sin(math.pi * angle))
        u, v = cosine * over + sine * down, cosine * down - sine * over
        bell = np.exp(-0.5 * (np.square(u / np.float32(long)) + np.square(v / np.float32(short))))
        wave = np.float32(_PHASE_ALONG * along / size) * u + np.float32(
            _PHASE_AROUND * around / size
        ) * np.hypot(u, v)
        value = bell * np.sin(wave + np.float32(math.pi * phase))
        field[:, rows, columns] += color[:, None, None] * value

    @staticmethod
    def paint(fields: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Fields squashed to pictures in 8 bits."""
        squashed = np.float32(255) / (1 + np.exp(-fields.clip(-_LIMIT, _LIMIT)))
        return np.rint(squashed).astype(np.uint8)

    def _span(self, middle: float, reach: float, length: int) -> tuple[slice, NDArray[np.float32]]:
        """The pixels of an axis within reach of a middle, and where they are as seen from it."""
        centre = length / 2 * (1 + middle)
        first = min(max(math.floor(centre - reach * self._half), 0), length)
        last = min(max(math.ceil(centre + reach * self._half), first), length)
        places = (np.arange(first, last) + 0.5 - centre) / self._half
        return slice(first, last), places.astype(np.float32)


def used(genome: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which nodes of a genome are there."""
    return np.any(genome[:, _SHAPE_GENES:] != 0, axis=1)

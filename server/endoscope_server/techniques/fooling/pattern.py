"""Compositional pattern-producing networks, which paint a picture point by point (Stanley 2007)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_WAVES = 16
_SHAPES = 12
_FREQUENCY = 20.0
"""Typical frequency of the waves, in radians from the middle of the picture to its edge."""


class Pattern:
    """A network from a point's place to its colour, whose weights are a genome.

    The place is x, y, the distance from the middle, and 1. It goes through sines of many frequencies, then
    through sines, Gaussians and hyperbolic tangents, and is squashed to colours. The numbers of a genome are
    of the order of 1.

    Args:
        channels: 1 or 3.
        height: Rows, in pixels.
        width: Columns, in pixels.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self._shape = (channels, height, width)
        longest = max(height, width)
        rows = torch.linspace(-1, 1, height) * (height / longest)
        columns = torch.linspace(-1, 1, width) * (width / longest)
        y, x = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))
        self._places = torch.stack([x, y, (x.square() + y.square()).sqrt(), torch.ones_like(x)])
        first = torch.full((_WAVES, 4), _FREQUENCY)
        first[:, 3] = math.pi
        second = torch.full((_SHAPES, _WAVES + 1), 1.5 / math.sqrt(_WAVES))
        third = torch.full((channels, _SHAPES + 1), 2 / math.sqrt(_SHAPES))
        self._scales = (first, second, third)

    @property
    def size(self) -> int:
        """How long a genome is."""
        return sum(scale.numel() for scale in self._scales)

    def paint(self, genomes: NDArray[np.float64]) -> NDArray[np.uint8]:
        """The pictures of genomes.

        Args:
            genomes: batch x size.

        Returns:
            batch x channels x height x width in 8 bits.
        """
        return torch.stack([self._paint(genome) for genome in torch.from_numpy(genomes).float()]).numpy()

    def _paint(self, genome: Tensor) -> Tensor:
        parts = genome.split([scale.numel() for scale in self._scales])
        first, second, third = (
            part.view_as(scale) * scale for part, scale in zip(parts, self._scales, strict=True)
        )
        waves = torch.sin(first @ self._places)
        sines, bells, steps = torch.addmm(second[:, -1:], second[:, :-1], waves).chunk(3)
        shapes = torch.cat([torch.sin(sines), torch.exp(-bells.square()), torch.tanh(steps)])
        colors = torch.addmm(third[:, -1:], third[:, :-1], shapes).sigmoid()
        return (colors * 255).round().to(torch.uint8).view(self._shape)

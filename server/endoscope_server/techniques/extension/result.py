"""What any technique gives: pictures, numbers, curves, tables and text, each under a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class NamedPicture:
    """A picture of a result.

    Attributes:
        pixels: channels x height x width in 8 bits.
        caption: What it shows and what was measured on it, for people.
    """

    pixels: NDArray[np.uint8]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """A curve.

    Attributes:
        values: In order.
        positions: Where each value stands; empty for 1, 2, 3 and so on.
    """

    values: tuple[float, ...]
    positions: tuple[float, ...] = ()


Table = Mapping[str, tuple[float, ...] | tuple[str, ...]]
"""Columns by name, all of one length."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Result:
    """What any technique gives.

    Attributes:
        pictures: By name, the most important first. They go out as PNG: what was measured on them in 8 bits
            holds.
        numbers: By name.
        series: Curves by name.
        tables: By name.
        text: What is to be said beside, in Markdown.
    """

    pictures: Mapping[str, NamedPicture] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    text: str = ""

    def problem(self) -> str:
        """What of it can't be told to a caller, in words; empty if all can."""
        for name, picture in self.pictures.items():
            pixels = picture.pixels
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or len(pixels) not in (1, 3):
                return (
                    f"the picture {name!r} as {pixels.dtype} of the shape {list(pixels.shape)}, expected "
                    "uint8, 1 or 3 channels x height x width"
                )
        for name, series in self.series.items():
            values, positions = len(series.values), len(series.positions)
            if positions not in (0, values):
                return f"the series {name!r} with {values} values at {positions} positions"
        for name, table in self.tables.items():
            if len({len(cells) for cells in table.values()}) > 1:
                return f"the table {name!r} with columns of different lengths"
        return ""

"""Pictures in a terminal: two pixels a cell, as coloured half blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style

_UPPER = "▀"
_GAP = 1


class HalfBlocks:
    """Pictures side by side, as large as fits.

    Args:
        pictures: What is shown.
        rows: The most rows of text.
    """

    def __init__(self, pictures: Sequence[Image.Image], rows: int) -> None:
        self._pictures = pictures
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [self._cells(picture, self._room(options)) for picture in self._pictures]
        for row in range(max((len(cells) for cells in lines), default=0)):
            for cells in lines:
                width = len(cells[0])
                yield from cells[row] if row < len(cells) else [Segment(" " * width)]
                yield Segment(" " * _GAP)
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(len(self._pictures), options.max_width)

    def _room(self, options: ConsoleOptions) -> int:
        """Columns for one picture."""
        return max(options.max_width // max(len(self._pictures), 1) - _GAP, 1)

    def _cells(self, picture: Image.Image, columns: int) -> list[list[Segment]]:
        # A cell is about twice as high as wide, so a half block is about square.
        scale = min(columns / picture.width, 2 * self._rows / picture.height, 1)
        width, height = max(round(picture.width * scale), 1), max(round(picture.height * scale / 2), 1)
        pixels = np.asarray(picture.convert("RGB").resize((width, 2 * height), Image.Resampling.LANCZOS))
        return [
            [_cell(upper, lower) for upper, lower in zip(pixels[row], pixels[row + 1], strict=True)]
            for row in range(0, 2 * height, 2)
        ]


def _cell(upper: Sequence[int], lower: Sequence[int]) -> Segment:
    return Segment(_UPPER, Style(color=_color(upper), bgcolor=_color(lower)))


def _color(pixel: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel)

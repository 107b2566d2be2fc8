"""Pictures in a terminal: as sixels or by kitty's protocol where it can, else as half blocks."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Sequence

import click
from PIL import Image
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

from endoscope.cli.half_blocks import HalfBlocks

VARIABLE = "ENDOSCOPE_PICTURES"
"""The environment variable that says how pictures are shown, where asking the terminal is not enough."""

_GAP = 8
_ROWS = 32


class Protocol(enum.StrEnum):
    """How a terminal shows pictures."""

    KITTY = "kitty"
    SIXEL = "sixel"
    BLOCKS = "blocks"


def terminal_pictures(
    console: Console, pictures: Sequence[Image.Image], rows: int = _ROWS, *, live: bool = False
) -> RenderableType:
    """Pictures side by side, as sharp as the terminal can and as large as fits.

    Args:
        console: Where they will be shown.
        pictures: At least one.
        rows: The most rows of text.
        live: Whether they will be drawn over each other. Sixels can't: their pixels stay.

    Raises:
        click.UsageError: if the environment asks for a protocol that there is not.
    """
    protocol = _protocol(console)
    if protocol is Protocol.BLOCKS or (live and protocol is Protocol.SIXEL):
        return HalfBlocks(pictures, rows)
    return _Sharp(_side_by_side(pictures), protocol, rows)


class _Sharp:
    """A picture in the terminal's own pixels."""

    def __init__(self, picture: Image.Image, protocol: Protocol, rows: int) -> None:
        from textual_image.renderable import SixelImage, TGPImage

        kind = SixelImage if protocol is Protocol.SIXEL else TGPImage
        # Made once, however often it is drawn: kitty is sent the pixels only the first time.
        self._image = kind(picture, width="auto", height="auto")
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = min(self._rows, max(console.height - 2, 1))
        yield from console.render(self._image, options.update(height=rows))


def _protocol(console: Console) -> Protocol:
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted != "auto":
        try:
            return Protocol(wanted)
        except ValueError:
            known = ", ".join(Protocol)
            raise click.UsageError(f"{VARIABLE} is {wanted!r}, expected auto, {known}") from None
    if not (console.is_terminal and _has_size()):
        return Protocol.BLOCKS
    # The import asks the terminal what it can, which takes up to a fifth of a second.
    from textual_image.renderable import Image as Best
    from textual_image.renderable import SixelImage, TGPImage

    return {SixelImage: Protocol.SIXEL, TGPImage: Protocol.KITTY}.get(Best, Protocol.BLOCKS)


def _has_size() -> bool:
    """Whether the terminal knows how many cells it has; some that no person looks at do not."""
    try:
        return os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else -1).columns > 0
    except OSError:
        return False


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """One picture of several, at the same height."""
    height = max(picture.height for picture in pictures)
    scaled = [
        picture.convert("RGBA").resize(
            (max(round(picture.width * height / picture.height), 1), height), Image.Resampling.LANCZOS
        )
        for picture in pictures
    ]
    width = sum(picture.width for picture in scaled) + _GAP * (len(scaled) - 1)
    strip = Image.new("RGBA", (width, height))
    left = 0
    for picture in scaled:
        strip.paste(picture, (left, 0))
        left += picture.width + _GAP
    return strip

"""Pictures of a dataset's items, for answers."""

from __future__ import annotations

from PIL import Image

from endoscope_server.datasets import Source
from endoscope_server.errors import EndoscopeError
from endoscope_server.images import tiles
from endoscope_server.images.decoding import decode

_GONE = Image.new("RGB", (1, 1), (230, 230, 230))


class ItemPictures:
    """Items' pictures, each decoded once for a size.

    Args:
        source: Where they come from.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._small: dict[tuple[int, int], Image.Image] = {}

    def picture(self, item: int) -> Image.Image:
        """An item in full; a grey dot if it has gone since it was scanned."""
        try:
            return decode(self._source.read(item))
        except EndoscopeError:
            return _GONE

    def thumbnail(self, item: int, side: int) -> Image.Image:
        """An item with its longer side at most ``side`` pixels."""
        name = item, side
        if name not in self._small:
            self._small[name] = tiles.reduced(self.picture(item), side)
        return self._small[name]

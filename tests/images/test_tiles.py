"""Grids, sheets and heat maps."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from endoscope_server.errors import LimitExceeded
from endoscope_server.images import tiles


def test_tiles_stand_row_by_row() -> None:
    batch = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None, None] * np.ones((5, 3, 4, 6), np.float32)
    picture = np.asarray(tiles.tile(batch, columns=2, gap=1))
    assert picture.shape == (14, 13, 3)
    for index in range(5):
        row, column = divmod(index, 2)
        block = picture[row * 5 : row * 5 + 4, column * 7 : column * 7 + 6]
        assert (block == round(index / 4 * 255)).all()
    assert (picture[4] == 255).all()
    assert (picture[10:, 7:] == 255).all()


def test_enlarging_keeps_single_values() -> None:
    small = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    assert np.array_equal(tiles.enlarge(small, 4, 9), np.kron(small, np.ones((2, 3))))


def test_signed_values_put_zero_at_mid_grey() -> None:
    values = tiles.signed(np.array([[0.0, -2.0, 1.0], [0.0, 0.0, 0.0]]), axes=(1,))
    assert values.tolist() == [[0.5, 0.0, 0.75], [0.5, 0.5, 0.5]]


def test_a_sheet_has_every_thumbnail(photos: dict[str, Image.Image]) -> None:
    rows = [list(photos.values()), list(photos.values())[:2]]
    captions = [list(photos), ["a caption that is far too long for a thumbnail", ""]]
    picture = tiles.sheet(rows, 64, captions, ["first", "second"])
    bare = tiles.sheet(rows, 64)
    assert bare.size == (4 + 4 * 68, 4 + 2 * 68)
    assert picture.width > bare.width
    cat = np.asarray(tiles.thumbnail(photos["chelsea"], 64))
    assert np.array_equal(np.asarray(bare)[4:68, 4:68], cat)


def test_what_is_too_large_is_refused_before_it_is_made() -> None:
    batch = np.broadcast_to(np.float32(0), (1000, 1, 512, 512))
    with pytest.raises(LimitExceeded):
        tiles.tile(batch)
    with pytest.raises(LimitExceeded):
        tiles.sheet([[Image.new("L", (1, 1))] * 2000] * 20, 512)


def test_heat_grows_lighter() -> None:
    colours = tiles.heat(np.linspace(0, 1, 50))
    lightness = colours @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    assert (np.diff(lightness) > 0).all()
    assert colours.min() >= 0
    assert colours.max() <= 1

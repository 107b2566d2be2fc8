"""Pictures become inputs: quickly, and exactly as Pillow and plain arithmetic have it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from endoscope_server.images.preprocessing import ChannelOrder, Layout, Preprocessing, ResizeMode
from endoscope_server.images.resampling import resample, resized

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def written(preprocessing: Preprocessing, picture: Image.Image) -> np.ndarray:
    expected = preprocessing.prepare(picture)
    found = np.full_like(expected, np.nan)
    preprocessing.write(picture, found[0])
    assert np.array_equal(found, expected)
    return found


def noise(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Pixels whose resampling overshoots black and white."""
    return Image.fromarray(generator.choice(np.array([0, 3, 128, 255], np.uint8), (height, width, 3)))


@pytest.mark.parametrize("seed", range(40))
def test_resampling_is_pillows_bit_for_bit(seed: int) -> None:
    generator = np.random.default_rng(seed)
    width, height = (int(size) for size in generator.integers(1, 700, 2))
    columns, rows = (int(size) for size in generator.integers(1, 300, 2))
    left, top = generator.uniform(0, width * 0.7), generator.uniform(0, height * 0.7)
    box = left, top, generator.uniform(left + 0.1, width), generator.uniform(top + 0.1, height)
    picture = noise(generator, width, height)
    table = np.repeat(np.arange(256, dtype=np.float32)[None], 3, axis=0)
    planes = np.empty((3, rows, columns), np.float32)
    resample(picture, box, table, planes)
    expected = resized(picture, box, (columns, rows))
    assert np.array_equal(planes.transpose(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize("size", [(500, 375), (640, 640), (300, 300)])
def test_what_pillow_does_at_once_is_the_same(size: tuple[int, int], photos: dict[str, Image.Image]) -> None:
    picture = photos["coffee"].resize(size)
    box = 0.25, 7.5, size[0] - 1.5, size[1] - 9.25
    expected = picture.resize((224, 224), Image.Resampling.BICUBIC, box=box)
    difference = np.asarray(resized(picture, box, (224, 224))).astype(int) - np.asarray(expected)
    # One rounding between the two passes, of numbers that differ with their order.
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("seed", range(40))
def test_pictures_of_any_size(seed: int) -> None:
    generator = np.random.default_rng(seed)
    width, height, columns, rows = (int(size) for size in generator.integers(1, 400, 4))
    fraction = float(generator.choice([1, 0.9, 0.875]))
    preprocessing = Preprocessing(rows, columns, crop_fraction=fraction, mean=MEAN, std=STD)
    written(preprocessing, noise(generator, width, height))


def test_a_picture_in_several_pieces_of_memory(photos: dict[str, Image.Image]) -> None:
    """Pillow cuts pictures beyond 16 MB into pieces."""
    large = photos["chelsea"].resize((2500, 2000), Image.Resampling.NEAREST)
    written(Preprocessing(64, 64, mean=MEAN, std=STD), large)


@pytest.mark.parametrize(
    ("resize", "order", "layout"), list(itertools.product(ResizeMode, ChannelOrder, Layout)), ids=str
)
def test_written_inputs_are_the_prepared_ones(
    resize: ResizeMode, order: ChannelOrder, layout: Layout, photos: dict[str, Image.Image]
) -> None:
    grey = order is ChannelOrder.GREY
    preprocessing = Preprocessing(
        60,
        44,
        resize=resize,
        mean=MEAN[:1] if grey else MEAN,
        std=STD[:1] if grey else STD,
        channel_order=order,
        layout=layout,
    )
    cat = photos["chelsea"]
    for picture in (cat, cat.convert("L"), cat.crop((0, 0, 44, 60)), cat.crop((100, 100, 101, 103))):
        written(preprocessing, picture)


def test_pixels_that_fit_are_cut_out_and_left_as_they_are(photos: dict[str, Image.Image]) -> None:
    preprocessing = Preprocessing(224, 224, mean=MEAN, std=STD, crop_fraction=0.875)
    square = photos["astronaut"].crop((100, 0, 356, 256))
    cut = square.crop((16, 16, 240, 240))
    assert np.array_equal(np.asarray(preprocessing.fit(square)), np.asarray(cut))
    resized = square.resize((224, 224), Image.Resampling.BICUBIC, box=(16, 16, 240, 240))
    assert np.array_equal(np.asarray(resized), np.asarray(cut))
    written(preprocessing, square)

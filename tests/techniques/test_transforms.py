"""What random changes do to pictures, beside scipy, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from endoscope_server.errors import InvalidInput
from endoscope_server.techniques.parts.transforms import (
    LUCID,
    Jitter,
    Noise,
    Pad,
    RandomCrops,
    Rescale,
    Rotate,
    Tile,
    Transform,
    transform,
)

ALL = (
    Pad(3),
    Pad(3, reflect=True),
    Jitter(4),
    Rotate(30),
    Rotate(30, upright=0.5),
    Rescale(0.7, 1.3),
    RandomCrops(2, 0.4, 0.8),
    Noise(0.1),
    Tile(),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def smooth() -> Tensor:
    """A batch of smooth pictures, 40 x 48."""
    values = np.random.default_rng(0).random((2, 3, 40, 48))
    blurred = scipy.ndimage.gaussian_filter(values, (0, 0, 3, 3))
    return torch.from_numpy((blurred - blurred.min()) / np.ptp(blurred))


@pytest.mark.parametrize("change", ALL, ids=repr)
def test_gradients(change: Transform) -> None:
    """By finite differences, with the same random numbers each time."""
    images = torch.rand(2, 3, 9, 11, dtype=torch.float64, generator=seeded(), requires_grad=True)
    assert torch.autograd.gradcheck(lambda pictures: change(pictures, seeded(1)), (images,))


@pytest.mark.parametrize("change", ALL, ids=repr)
def test_the_same_seed_changes_pictures_alike(change: Transform, smooth: Tensor) -> None:
    assert torch.equal(change(smooth, seeded(3)), change(smooth, seeded(3)))


@pytest.mark.parametrize("seed", range(4))
def test_a_turn_is_scipys(seed: int, smooth: Tensor) -> None:
    turned = Rotate(25)(smooth, seeded(seed))
    angles = (torch.rand(2, generator=seeded(seed)) * 50 - 25).tolist()
    inner = (slice(None), slice(12, 28), slice(12, 36))
    for before, after, angle in zip(smooth, turned, angles, strict=True):
        expected = scipy.ndimage.rotate(before.numpy(), angle, axes=(1, 2), reshape=False, order=1)
        np.testing.assert_allclose(after.numpy()[inner], expected[inner], atol=2e-3)
    assert abs(turned - smooth).max() > 0.1


def test_some_pictures_stay_upright(smooth: Tensor) -> None:
    many = smooth[:1].expand(400, -1, -1, -1)
    turned = Rotate(40, upright=0.25)(many, seeded())
    still = torch.isclose(turned, many, atol=1e-4).flatten(1).all(1)
    assert 70 < int(still.sum()) < 130
    everywhere = Rotate(40, upright=1)(many[:8], seeded())
    torch.testing.assert_close(everywhere, many[:8], atol=1e-4, rtol=0)
    with pytest.raises(InvalidInput, match="upright"):
        Rotate(40, upright=1.5)


def test_a_shift_is_a_crop_or_wraps(smooth: Tensor) -> None:
    for image, crop in zip(smooth, Jitter(4)(smooth, seeded()), strict=True):
        places = [image[:, top : top + 36, left : left + 44] for top in range(5) for left in range(5)]
        assert sum(torch.equal(crop, place) for place in places) == 1
    wrapped = Tile()(smooth, seeded())
    assert not torch.equal(wrapped, smooth)
    assert torch.equal(wrapped.flatten(1).sort(1).values, smooth.flatten(1).sort(1).values)


def test_sizes(smooth: Tensor) -> None:
    assert Pad(3)(smooth, seeded()).shape == (2, 3, 46, 54)
    assert RandomCrops(3, 0.2, 0.9)(smooth, seeded()).shape == (6, 3, 40, 40)
    heights = {Rescale(0.5, 1.5)(smooth, seeded(seed)).shape[2] for seed in range(20)}
    assert min(heights) < 30 < 50 < max(heights)
    assert max(heights) <= 60
    assert min(heights) >= 20


def test_noise_has_its_deviation(smooth: Tensor) -> None:
    noise = Noise(0.2)(smooth, seeded()) - smooth
    assert math.isclose(float(noise.std()), 0.2, rel_tol=0.05)


def test_lucids_changes_hold_the_middle(smooth: Tensor) -> None:
    """All together move a picture by a few pixels: on the average it stays where it was."""
    some = [transform(smooth, LUCID, seeded(seed)) for seed in range(50)]
    assert len({tuple(one.shape) for one in some}) > 3
    middles = torch.stack([one[:, :, one.shape[2] // 2, one.shape[3] // 2] for one in some])
    torch.testing.assert_close(middles.mean(0), smooth[:, :, 18:22, 22:26].mean((2, 3)), atol=0.1, rtol=0)

"""Random changes of the picture before the model sees it (Olah et al. 2017): what is found survives them.

Each transform takes a batch and a random generator, and gives a batch; all are differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from endoscope_server.errors import InvalidInput
from endoscope_server.techniques.parts.checks import check_number


class Transform(Protocol):
    """One random change."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The changed pictures, batch x channels x height x width."""
        ...


@dataclass(frozen=True, slots=True)
class Pad:
    """A border of ``pixels`` on each side, mid-grey or mirrored."""

    pixels: int
    reflect: bool = False

    def __post_init__(self) -> None:
        check_number("pixels", self.pixels, 0, 1024)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Nothing here is random."""
        if self.reflect:
            if self.pixels >= min(images.shape[2:]):
                raise InvalidInput(
                    f"the mirrored border is {self.pixels}, expected less than the picture has to mirror",
                    field="transforms",
                )
            return F.pad(images, (self.pixels,) * 4, mode="reflect")
        return F.pad(images, (self.pixels,) * 4, value=0.5)


@dataclass(frozen=True, slots=True)
class Jitter:
    """A crop that is ``pixels`` smaller along both axes, at a uniform place.

    Each picture of the batch moves by itself.
    """

    pixels: int

    def __post_init__(self) -> None:
        check_number("pixels", self.pixels, 0, 1024)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The crops."""
        height, width = images.shape[2] - self.pixels, images.shape[3] - self.pixels
        if height < 1 or width < 1:
            raise InvalidInput(
                f"the jitter is {self.pixels}, expected less than the picture's size", field="transforms"
            )
        places = torch.randint(0, self.pixels + 1, (len(images), 2), generator=generator).tolist()
        crops = [
            image[:, top : top + height, left : left + width]
            for image, (top, left) in zip(images, places, strict=True)
        ]
        return torch.stack(crops)


@dataclass(frozen=True, slots=True)
class Rotate:
    """A turn by a uniform angle of at most ``degrees`` either way; a share of pictures stays ``upright``."""

    degrees: float
    upright: float = 0.0

    def __post_init__(self) -> None:
        check_number("degrees", self.degrees, 0, 180)
        check_number("upright", self.upright, 0, 1)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The turned pictures, mid-grey where nothing was."""
        degrees = _uniform(len(images), -self.degrees, self.degrees, generator)
        if self.upright:
            degrees[torch.rand(len(images), generator=generator) < self.upright] = 0
        angles = degrees.to(images) * (math.pi / 180)
        ratio = images.shape[2] / images.shape[3]
        zero = torch.zeros_like(angles)
        rows = (
            torch.stack([angles.cos(), -angles.sin() * ratio, zero], 1),
            torch.stack([angles.sin() / ratio, angles.cos(), zero], 1),
        )
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return F.grid_sample(images - 0.5, grid, align_corners=False) + 0.5


@dataclass(frozen=True, slots=True)
class Rescale:
    """An enlargement or reduction by one uniform factor for the whole batch."""

    minimum: float
    maximum: float

    def __post_init__(self) -> None:
        check_number("minimum", self.minimum, above=0, maximum=8)
        check_number("maximum", self.maximum, minimum=self.minimum, maximum=8)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The pictures in their new size."""
        factor = float(_uniform(1, self.minimum, self.maximum, generator))
        size = [max(1, round(side * factor)) for side in images.shape[2:]]
        return F.interpolate(images, size, mode="bilinear", align_corners=False)


@dataclass(frozen=True, slots=True)
class RandomCrops:
    """``count`` square crops of each picture, their sides a uniform share of its shorter one.

    The batch grows ``count`` times; crop j of picture i is at i * count + j.
    """

    count: int
    minimum: float
    maximum: float

    def __post_init__(self) -> None:
        check_number("count", self.count, 1, 64)
        check_number("minimum", self.minimum, above=0, maximum=1)
        check_number("maximum", self.maximum, minimum=self.minimum, maximum=1)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The crops, each brought to the picture's shorter side."""
        side = min(images.shape[2:])
        shares = _uniform(len(images) * self.count, self.minimum, self.maximum, generator).tolist()
        places = torch.rand(len(shares), 2, generator=generator).tolist()
        crops = []
        for index, (share, (down, right)) in enumerate(zip(shares, places, strict=True)):
            size = max(1, round(side * share))
            top, left = round(down * (images.shape[2] - size)), round(right * (images.shape[3] - size))
            crop = images[index // self.count, None, :, top : top + size, left : left + size]
            crops.append(F.interpolate(crop, (side, side), mode="bilinear", align_corners=False))
        return torch.cat(crops)


@dataclass(frozen=True, slots=True)
class Noise:
    """Gaussian noise, in [0, 1] pixel units."""

    deviation: float

    def __post_init__(self) -> None:
        check_number("deviation", self.deviation, 0, 10)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The noisy pictures."""
        return images + torch.randn(images.shape, generator=generator).to(images.device) * self.deviation


@dataclass(frozen=True, slots=True)
class Tile:
    """A shift by any number of pixels, the picture wrapped around its borders."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The shifted pictures."""
        down = int(torch.randint(0, images.shape[2], (1,), generator=generator))
        right = int(torch.randint(0, images.shape[3], (1,), generator=generator))
        return images.roll((down, right), (2, 3))


def transform(images: Tensor, transforms: Sequence[Transform], generator: torch.Generator) -> Tensor:
    """The pictures after all transforms, in order."""
    for change in transforms:
        images = change(images, generator)
    return images


LUCID: tuple[Transform, ...] = (Pad(12), Jitter(8), Rescale(0.9, 1.1), Rotate(10, upright=6 / 26), Jitter(4))
"""What Lucid does by default (Olah et al. 2017)."""


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)

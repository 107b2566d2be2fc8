"""What is wanted of CreateFoolingImage, and what it gives."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput
from endoscope_server.images.encoding import ImageFormat
from endoscope_server.techniques.classification import ClassScore
from endoscope_server.techniques.parts.checks import check_number

MAX_CLASSES = 64


class FoolingMethod(enum.Enum):
    """How fooling pictures are sought."""

    GRADIENT = "gradient"
    CPPN = "cppn"


_STEPS = {FoolingMethod.GRADIENT: 256, FoolingMethod.CPPN: 2000}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoolingParameters:
    """What is wanted of CreateFoolingImage.

    Attributes:
        classes: What the model is to be sure of, 1 to 64; they run as one batch.
        method: Gradient ascent, or evolution.
        confidence: The softmax probability at which to stop, in (0, 1).
        steps: The most steps or generations, 1 to 100000; None for the method's own.
        image: The picture to start from, as the model sees it; None for noise. Gradient ascent only.
        seed: Of all random numbers.
        image_format: Of the files that are judged.
        preview_every: Every how many steps the pictures are sent along; 0 for never.
    """

    classes: tuple[int, ...]
    method: FoolingMethod = FoolingMethod.GRADIENT
    confidence: float = 0.996
    steps: int | None = None
    image: NDArray[np.float32] | None = None
    seed: int = 0
    image_format: ImageFormat = ImageFormat.PNG
    preview_every: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise InvalidInput(
                f"there are {len(self.classes)} classes, expected 1 to {MAX_CLASSES}", field="classes"
            )
        if self.method is FoolingMethod.CPPN and self.image is not None:
            raise InvalidInput("evolution starts from no picture, expected none", field="image")
        check_number("confidence", self.confidence, above=0, below=1)
        if self.steps is not None:
            check_number("steps", self.steps, 1, 100_000)
        check_number("seed", self.seed, 0)

    @property
    def log_odds(self) -> float:
        """The confidence as log(p / (1 - p))."""
        return math.log(self.confidence) - math.log1p(-self.confidence)


def with_defaults(parameters: FoolingParameters) -> FoolingParameters:
    """The parameters with the method's own steps where none were given."""
    return replace(parameters, steps=parameters.steps or _STEPS[parameters.method])


@dataclass(frozen=True, slots=True, eq=False)
class FoolingImages:
    """What CreateFoolingImage gives, measured on the decoded files by ONNX Runtime.

    Attributes:
        pictures: batch x channels x height x width in 8 bits.
        success: Whether each reaches the confidence.
        scores: Of the class that was asked for.
        top: The strongest classes.
    """

    pictures: NDArray[np.uint8]
    success: tuple[bool, ...]
    scores: tuple[ClassScore, ...]
    top: tuple[tuple[ClassScore, ...], ...]


def confidences(log_odds: Sequence[float]) -> dict[str, float]:
    """A step's ``confidence[0]``, ..., one for each class, of log(p / (1 - p))."""
    return {f"confidence[{index}]": _sigmoid(value) for index, value in enumerate(log_odds)}


def _sigmoid(value: float) -> float:
    return 0.5 + 0.5 * math.tanh(value / 2)

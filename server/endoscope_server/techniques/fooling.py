"""Fooling images: they show nothing to people, and the model is sure of them (Nguyen et al. 2015)."""

from __future__ import annotations

import enum
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.errors import InvalidInput, Unsupported
from endoscope_server.images.encoding import ImageFormat, as_filed
from endoscope_server.techniques.classification import ClassScore, scores_of, strongest_classes
from endoscope_server.techniques.parts.ascent import ascend
from endoscope_server.techniques.parts.checks import check_number
from endoscope_server.techniques.parts.optimizers import Adam
from endoscope_server.techniques.parts.parameterization import Pixels
from endoscope_server.techniques.parts.regularizers import Regularizers
from endoscope_server.techniques.parts.steps import Step
from endoscope_server.techniques.parts.subject import Subject, to_8_bit

MAX_CLASSES = 64
TOP = 5
_NOISE = 0.1
_RATE = 0.01
_SURPLUS = 0.5
"""The mirror goes on until the odds are better than asked for by e to this: ONNX Runtime is the judge."""


class FoolingMethod(enum.Enum):
    """How fooling pictures are sought."""

    GRADIENT = "gradient"
    CPPN = "cppn"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoolingParameters:
    """What is wanted of CreateFoolingImage.

    Attributes:
        classes: What the model is to be sure of, 1 to 64; they run as one batch.
        method: Gradient ascent, or evolution.
        confidence: The softmax probability at which to stop, in (0, 1).
        steps: The most steps, 1 to 100000.
        image: The picture to start from, as the model sees it; None for noise.
        seed: Of all random numbers.
        image_format: Of the files that are judged.
        preview_every: Every how many steps the pictures are sent along; 0 for never.
    """

    classes: tuple[int, ...]
    method: FoolingMethod = FoolingMethod.GRADIENT
    confidence: float = 0.996
    steps: int = 256
    image: NDArray[np.float32] | None = None
    seed: int = 0
    image_format: ImageFormat = ImageFormat.PNG
    preview_every: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise InvalidInput(
                f"there are {len(self.classes)} classes, expected 1 to {MAX_CLASSES}", field="classes"
            )
        if self.method is FoolingMethod.CPPN:
            raise Unsupported("evolution is not there yet, expected the method gradient", field="method")
        check_number("confidence", self.confidence, above=0, below=1)
        check_number("steps", self.steps, 1, 100_000)
        check_number("seed", self.seed, 0)


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


def create_fooling_images(
    subject: Subject, parameters: FoolingParameters
) -> Generator[Step, None, FoolingImages]:
    """Ascend the log-odds of each class until the mirror is sure of the picture in 8 bits."""
    generator = torch.Generator().manual_seed(parameters.seed)
    classes = torch.tensor(parameters.classes, device=subject.device)[:, None]
    shape = (len(classes), subject.preprocessing.channels, *subject.size)
    if parameters.image is None:
        start = 0.5 + _NOISE * torch.randn(shape, generator=generator)
    else:
        start = torch.from_numpy(parameters.image.copy()).expand(shape)
    found = start.clamp(0, 1).to(subject.device)
    wanted = float(np.log(parameters.confidence) - np.log1p(-parameters.confidence)) + _SURPLUS
    sure = torch.zeros(len(classes), dtype=torch.bool, device=subject.device)

    def objectives(images: Tensor, _step: int) -> dict[str, Tensor]:
        rounded = images + ((images * 255).round() / 255 - images).detach()
        odds = _log_odds(subject.logits(rounded), classes)
        fresh = (odds.detach() >= wanted) & ~sure
        found[fresh] = images.detach()[fresh]
        sure.logical_or_(fresh)
        return {"log_odds": odds.clamp(max=wanted).sum()}

    images = yield from ascend(
        Pixels(found),
        objectives,
        steps=parameters.steps,
        optimizer=Adam(learning_rate=_RATE),
        generator=generator,
        regularizers=Regularizers(),
        preview_every=parameters.preview_every,
        stop=lambda _images: bool(sure.all()),
    )
    pictures = to_8_bit(torch.where(sure[:, None, None, None], found, images))
    logits = subject.judged_logits(as_filed(pictures, parameters.image_format))
    scores = scores_of(logits, parameters.classes)
    success = tuple(score.probability >= parameters.confidence for score in scores)
    return FoolingImages(pictures, success, scores, strongest_classes(logits, TOP))


def _log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """log(p / (1 - p)) of each picture's class."""
    own = logits.gather(1, classes)[:, 0]
    return own - logits.scatter(1, classes, -torch.inf).logsumexp(1)

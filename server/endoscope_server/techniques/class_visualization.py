"""Pictures of classes: argmax over I of S_c(I) - lambda ||I||^2 (Simonyan et al. 2014)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.errors import InvalidInput
from endoscope_server.images.encoding import ImageFormat, as_filed
from endoscope_server.techniques.classification import ClassScore, scores_of, strongest_classes
from endoscope_server.techniques.parts.ascent import ascend
from endoscope_server.techniques.parts.checks import check_number
from endoscope_server.techniques.parts.joining import Question
from endoscope_server.techniques.parts.maco import MacoParameterization, transparency
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.optimizers import Adam, Optimizer, Schedule
from endoscope_server.techniques.parts.parameterization import (
    FourierParameterization,
    Parameterization,
    PixelParameterization,
)
from endoscope_server.techniques.parts.regularizers import Regularizers
from endoscope_server.techniques.parts.steps import Step
from endoscope_server.techniques.parts.subject import Subject, to_8_bit, to_float
from endoscope_server.techniques.parts.transforms import LUCID, Jitter, Transform

DEFAULT_STEPS = 64
DEFAULT_L2_WEIGHT = 1e-3
MAX_CLASSES = 64
TOP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassVisualizationParameters:
    """What is wanted of VisualizeClass.

    Attributes:
        classes: Indices of classes, 1 to 64; they run as one batch.
        steps: 1 to 100000.
        seed: Of all random numbers.
        height: Rows of the picture, 8 to 4096; 0 for the model's.
        width: Columns of the picture, 8 to 4096; 0 for the model's.
        regularizers: Lambda is its ``l2_weight``.
        parameterization: How the picture is made.
        optimizer: How steps are made.
        transforms: Between the picture and the model.
        image_format: Of the files that the pictures are judged on.
        preview_every: Every how many steps the pictures are sent along; 0 for never.
    """

    classes: tuple[int, ...]
    steps: int = DEFAULT_STEPS
    seed: int = 0
    height: int = 0
    width: int = 0
    regularizers: Regularizers = field(default_factory=lambda: Regularizers(l2_weight=DEFAULT_L2_WEIGHT))
    parameterization: Parameterization = field(default_factory=PixelParameterization)
    optimizer: Optimizer = field(default_factory=Adam)
    transforms: tuple[Transform, ...] = ()
    image_format: ImageFormat = ImageFormat.PNG
    preview_every: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise InvalidInput(
                f"there are {len(self.classes)} classes, expected 1 to {MAX_CLASSES}", field="classes"
            )
        check_number("steps", self.steps, 1, 100_000)
        check_number("seed", self.seed, 0)
        for name in ("height", "width"):
            if getattr(self, name):
                check_number(name, getattr(self, name), 8, 4096)


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "smooth": {
        "regularizers": Regularizers(
            l2_weight=DEFAULT_L2_WEIGHT, total_variation_weight=5e-3, blur_every=4, blur_sigma=0.5
        ),
        "transforms": (Jitter(16),),
        # The last step is followed by no blur.
        "steps": 255,
    },
    "fourier": {
        "parameterization": FourierParameterization(),
        "regularizers": Regularizers(),
        "transforms": LUCID,
        "steps": 256,
    },
    "maco": {
        "parameterization": MacoParameterization(),
        "regularizers": Regularizers(),
        # Random crops, as in the paper, cost several passes a step; turned and scaled, some classes stay
        # unsure.
        "transforms": (Jitter(16),),
        "optimizer": Adam(learning_rate=0.2, schedule=Schedule.COSINE),
        "steps": 512,
    },
}
"""Named sets of parameters, after Simonyan (2014), Yosinski (2015), Olah (2017), Fel (2023) and others."""


@dataclass(frozen=True, slots=True)
class ClassVisualization:
    """The pictures of some classes.

    Attributes:
        pixels: batch x channels x height x width in [0, 1], before rounding.
        pictures: The same in 8 bits.
        scores: Of the class that was asked for, on the 8-bit picture, judged by ONNX Runtime.
        top: The strongest classes, likewise.
        transparency: batch x height x width in [0, 1], what mattered; None unless MACO made it.
    """

    pixels: NDArray[np.float32]
    pictures: NDArray[np.uint8]
    scores: tuple[ClassScore, ...]
    top: tuple[tuple[ClassScore, ...], ...]
    transparency: NDArray[np.float32] | None = None


def visualize_class(
    subject: Subject, parameters: ClassVisualizationParameters, memory: Memory | None = None
) -> Generator[Step | None, None, ClassVisualization]:
    """Pictures that raise the scores of classes before the softmax.

    Args:
        subject: The model.
        parameters: What is wanted.
        memory: To go on from; None to begin.

    Raises:
        InvalidInput: for a class that the model does not have.
        PreconditionFailed: if the model has no classes.
    """
    for index, wanted in enumerate(parameters.classes):
        subject.check_class(wanted, f"classes[{index}]")
    generator = torch.Generator().manual_seed(parameters.seed)
    height, width = parameters.height or subject.size[0], parameters.width or subject.size[1]
    shape = (len(parameters.classes), subject.preprocessing.channels, height, width)
    canvas = parameters.parameterization.start(shape, generator, subject.device)
    classes = torch.tensor(parameters.classes, device=subject.device)

    def terms(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits = subject.vectors(values[subject.graph.logits])
        # Transforms that crop make several of each picture.
        wanted = classes.repeat_interleave(len(logits) // len(classes))
        return {"logit": logits.gather(1, wanted[:, None]).sum()}

    question = Question(subject, (subject.graph.logits,), terms)
    images = yield from ascend(
        canvas,
        lambda images, _step: question(images),
        steps=parameters.steps,
        optimizer=parameters.optimizer,
        generator=generator,
        regularizers=parameters.regularizers,
        transforms=parameters.transforms,
        preview_every=parameters.preview_every,
        memory=memory,
        joinable=lambda _step: question,
    )
    pictures = to_8_bit(images)
    logits = subject.judged_logits(as_filed(pictures, parameters.image_format))
    return ClassVisualization(
        to_float(images),
        pictures,
        scores_of(logits, parameters.classes),
        strongest_classes(logits, TOP),
        transparency(canvas),
    )

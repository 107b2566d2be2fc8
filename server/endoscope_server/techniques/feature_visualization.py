"""Pictures of units, channels, layers and directions (Erhan et al. 2009; Olah et al. 2017)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.errors import InvalidInput
from endoscope_server.images.encoding import ImageFormat, as_filed
from endoscope_server.mirror import Mirror
from endoscope_server.techniques.parts.ascent import ascend
from endoscope_server.techniques.parts.checks import check_number
from endoscope_server.techniques.parts.joining import Question
from endoscope_server.techniques.parts.maco import transparency
from endoscope_server.techniques.parts.maps import feature_maps
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.objectives import Bound, DiversityObjective, Objective
from endoscope_server.techniques.parts.optimizers import Adam, Optimizer
from endoscope_server.techniques.parts.parameterization import FourierParameterization, Parameterization
from endoscope_server.techniques.parts.rectifiers import redirected, woken
from endoscope_server.techniques.parts.regularizers import Regularizers
from endoscope_server.techniques.parts.steps import Step
from endoscope_server.techniques.parts.subject import Subject, to_8_bit, to_float
from endoscope_server.techniques.parts.transforms import LUCID, Transform

MAX_OBJECTIVES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureVisualizationParameters:
    """What is wanted of VisualizeFeature.

    Attributes:
        objectives: What is made large, 1 to 64; they run as one batch, a picture each.
        negative: Whether it is made small instead.
        steps: 1 to 100000.
        seed: Of all random numbers.
        height: Rows of the picture, 8 to 4096.
        width: Columns of the picture, 8 to 4096.
        regularizers: What is subtracted.
        parameterization: How the picture is made.
        optimizer: How steps are made.
        transforms: Between the picture and the model.
        redirected_relu_steps: Steps at the start in which a picture that gets no gradient at all gets the one
            that rectifiers pass on where they are shut.
        diversity_weight: Of a diversity term on the first objective's first layer, 0 or more.
        image_format: Of the files that the values are measured on.
        preview_every: Every how many steps the pictures are sent along; 0 for never.
    """

    objectives: tuple[Objective, ...]
    height: int
    width: int
    negative: bool = False
    steps: int = 256
    seed: int = 0
    regularizers: Regularizers = field(default_factory=Regularizers)
    parameterization: Parameterization = field(default_factory=FourierParameterization)
    optimizer: Optimizer = field(default_factory=Adam)
    transforms: tuple[Transform, ...] = LUCID
    redirected_relu_steps: int = 16
    diversity_weight: float = 0.0
    image_format: ImageFormat = ImageFormat.PNG
    preview_every: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.objectives) <= MAX_OBJECTIVES:
            raise InvalidInput(
                f"there are {len(self.objectives)} objectives, expected 1 to {MAX_OBJECTIVES}",
                field="objectives",
            )
        check_number("steps", self.steps, 1, 100_000)
        check_number("seed", self.seed, 0)
        check_number("height", self.height, 8, 4096)
        check_number("width", self.width, 8, 4096)
        check_number("redirected_relu_steps", self.redirected_relu_steps, 0, 100_000)
        check_number("diversity_weight", self.diversity_weight, 0)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureVisualization:
    """The pictures of some features.

    Attributes:
        pixels: batch x channels x height x width in [0, 1], before rounding.
        pictures: The same in 8 bits.
        values: Each objective's value on its decoded picture, untransformed.
        transparency: batch x height x width in [0, 1], what mattered; None unless MACO made the pictures.
    """

    pixels: NDArray[np.float32]
    pictures: NDArray[np.uint8]
    values: tuple[float, ...]
    transparency: NDArray[np.float32] | None


def bind(subject: Subject, parameters: FeatureVisualizationParameters) -> tuple[Bound, ...]:
    """The objectives on a model.

    Raises:
        NotFound: for a layer that the model does not have.
        InvalidInput: for a channel, place or direction that the layer does not have.
    """
    return tuple(
        objective.bind(subject, f"objectives[{index}]")
        for index, objective in enumerate(parameters.objectives)
    )


def visualize_feature(
    subject: Subject,
    parameters: FeatureVisualizationParameters,
    bound: tuple[Bound, ...],
    memory: Memory | None = None,
) -> Generator[Step | None, None, FeatureVisualization]:
    """Pictures that raise (or lower) objectives.

    Args:
        subject: The model.
        parameters: What is wanted.
        bound: The objectives as :func:`bind` gives them.
        memory: To go on from; None to begin.
    """
    generator = torch.Generator().manual_seed(parameters.seed)
    shape = (len(bound), subject.preprocessing.channels, parameters.height, parameters.width)
    canvas = parameters.parameterization.start(shape, generator, subject.device)
    sign = -1.0 if parameters.negative else 1.0
    diversity = _diversity(subject, parameters, bound)
    needed = tuple(dict.fromkeys(name for item in (*bound, *diversity) for name in item.values))
    waking = redirected(subject.mirror) if parameters.redirected_relu_steps else subject.mirror

    def terms_of(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = {
            name: feature_maps(subject, name, value).split(len(value) // len(bound))
            for name, value in values.items()
        }
        scores = [item.score(maps, index) for index, item in enumerate(bound)]
        found = {"objective": sign * torch.stack(scores).sum()}
        for item in diversity:
            spread = torch.stack([item.score(maps, index) for index in range(len(bound))]).sum()
            found["diversity"] = parameters.diversity_weight * spread
        return found

    def terms(images: Tensor, mirror: Mirror) -> dict[str, Tensor]:
        return terms_of(subject.values(images, needed, mirror))

    question = Question(subject, needed, terms_of)

    def objectives(images: Tensor, step: int) -> dict[str, Tensor]:
        if step > parameters.redirected_relu_steps:
            return question(images)
        return woken(
            images, lambda leaves: terms(leaves, subject.mirror), lambda leaves: terms(leaves, waking)
        )

    images = yield from ascend(
        canvas,
        objectives,
        steps=parameters.steps,
        optimizer=parameters.optimizer,
        generator=generator,
        regularizers=parameters.regularizers,
        transforms=parameters.transforms,
        preview_every=parameters.preview_every,
        memory=memory,
        joinable=lambda step: question if step > parameters.redirected_relu_steps else None,
    )
    pictures = to_8_bit(images)
    values = measure(subject, bound, as_filed(pictures, parameters.image_format))
    return FeatureVisualization(to_float(images), pictures, values, transparency(canvas))


def measure(subject: Subject, bound: tuple[Bound, ...], pictures: NDArray[np.uint8]) -> tuple[float, ...]:
    """Each objective's value on its picture, by ONNX Runtime.

    Args:
        subject: The model.
        bound: The objectives.
        pictures: One for each objective, channels x height x width in 8 bits.
    """
    names = list(dict.fromkeys(name for item in bound for name in item.values))
    values = subject.judged_values(pictures, names)
    maps = {
        name: feature_maps(subject, name, torch.from_numpy(np.asarray(value, np.float32))).split(1)
        for name, value in values.items()
    }
    return tuple(float(item.score(maps, index)) for index, item in enumerate(bound))


def _diversity(
    subject: Subject, parameters: FeatureVisualizationParameters, bound: tuple[Bound, ...]
) -> tuple[Bound, ...]:
    if not parameters.diversity_weight:
        return ()
    return (DiversityObjective(bound[0].values[0]).bind(subject, "diversity_weight"),)

"""What in a picture spoke for a class: several methods, each with its scores."""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput
from endoscope_server.images.encoding import from_array
from endoscope_server.images.preprocessing import ChannelOrder
from endoscope_server.images.tiles import overlay
from endoscope_server.techniques.attribution.grad_cam import GRAD_CAM, is_map, last_with_positions
from endoscope_server.techniques.attribution.gradient import GRADIENT, GRADIENT_X_INPUT
from endoscope_server.techniques.attribution.integrated_gradients import INTEGRATED_GRADIENTS
from endoscope_server.techniques.attribution.occlusion import OCCLUSION
from endoscope_server.techniques.attribution.question import Answer, Question
from endoscope_server.techniques.attribution.question import Method as Way
from endoscope_server.techniques.attribution.rectified import DECONVNET, GUIDED_BACKPROPAGATION
from endoscope_server.techniques.attribution.scores import (
    CURVE_BATCHES,
    area,
    deletion_curve,
    insertion_curve,
)
from endoscope_server.techniques.attribution.smoothgrad import SMOOTHGRAD
from endoscope_server.techniques.classification import ClassScore, scores_of
from endoscope_server.techniques.parts.checks import check_number
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step, retold
from endoscope_server.techniques.parts.subject import Subject

_SATURATED = 0.995
"""The share of pixels below the value that is shown as the strongest."""


class Method(enum.Enum):
    """How a class's score is shared out over the picture."""

    GRADIENT = "gradient"
    GRADIENT_X_INPUT = "gradient_x_input"
    SMOOTHGRAD = "smoothgrad"
    INTEGRATED_GRADIENTS = "integrated_gradients"
    GUIDED_BACKPROPAGATION = "guided_backpropagation"
    DECONVNET = "deconvnet"
    GRAD_CAM = "grad_cam"
    OCCLUSION = "occlusion"


WAYS: Mapping[Method, Way] = {
    Method.GRADIENT: GRADIENT,
    Method.GRADIENT_X_INPUT: GRADIENT_X_INPUT,
    Method.SMOOTHGRAD: SMOOTHGRAD,
    Method.INTEGRATED_GRADIENTS: INTEGRATED_GRADIENTS,
    Method.GUIDED_BACKPROPAGATION: GUIDED_BACKPROPAGATION,
    Method.DECONVNET: DECONVNET,
    Method.GRAD_CAM: GRAD_CAM,
    Method.OCCLUSION: OCCLUSION,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttributionParameters:
    """What is wanted of Attribute.

    Attributes:
        image: The picture as the model sees it: channels x height x width in [0, 1].
        methods: Each at most once.
        class_index: The class; None for the one that the model sees.
        samples: Noisy copies, or steps of the path, 1 to 1000.
        noise: SmoothGrad's, as a share of the picture's range, positive.
        layer: Grad-CAM's, by ONNX name or alias; empty for the last with positions.
        window: Side of the occluded window, in pixels.
        stride: Pixels between two windows.
        baseline: The grey level that stands for nothing, in [0, 1]; None for the colour that becomes zero in
            the model's input, or mid-grey if there is none.
        seed: Of all random numbers.
        preview_every: 0 for no previews; else each method's heat map is sent along once it is there.
    """

    image: NDArray[np.float32]
    methods: tuple[Method, ...] = ()
    class_index: int | None = None
    samples: int = 50
    noise: float = 0.15
    layer: str = ""
    window: int = 32
    stride: int = 16
    baseline: float | None = None
    seed: int = 0
    preview_every: int = 0

    def __post_init__(self) -> None:
        if not self.methods:
            raise InvalidInput(
                f"no method is asked for, expected one or more of {', '.join(item.name for item in Method)}",
                field="methods",
            )
        for index, method in enumerate(self.methods):
            if method in self.methods[:index]:
                raise InvalidInput(
                    f"{method.name} is asked for twice, expected each method at most once",
                    field=f"methods[{index}]",
                )
        check_number("samples", self.samples, 1, 1000)
        check_number("noise", self.noise, above=0, maximum=10)
        check_number("window", self.window, 1, min(self.image.shape[1:]))
        check_number("stride", self.stride, 1, self.window)
        check_number("seed", self.seed, 0)
        if self.baseline is not None:
            check_number("baseline", self.baseline, 0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """The answer of one method.

    Attributes:
        method: The method.
        values: channels (or 1) x height x width.
        picture: The values as a heat map over the picture, 3 x height x width in 8 bits.
        completeness_error: Of integrated gradients; see :class:`Answer`.
        deletion_curve: The class's probability as important pixels are taken away.
        insertion_curve: The class's probability as important pixels are put back.
    """

    method: Method
    values: NDArray[np.float32]
    picture: NDArray[np.uint8]
    completeness_error: float | None
    deletion_curve: NDArray[np.float64]
    insertion_curve: NDArray[np.float64]

    @property
    def deletion(self) -> float:
        """The area under the deletion curve; lower is better."""
        return area(self.deletion_curve)

    @property
    def insertion(self) -> float:
        """The area under the insertion curve; higher is better."""
        return area(self.insertion_curve)


@dataclass(frozen=True, slots=True, eq=False)
class Attributions:
    """What Attribute gives.

    Attributes:
        items: One for each method.
        score: Of the class that was explained, by ONNX Runtime.
        original: The picture as the model saw it, channels x height x width in 8 bits.
    """

    items: tuple[Attribution, ...]
    score: ClassScore
    original: NDArray[np.uint8]


def with_defaults(subject: Subject, parameters: AttributionParameters) -> AttributionParameters:
    """The parameters with the model's own class and layer where none were given.

    Raises:
        InvalidInput: for a class that the model does not have, or a layer without positions.
        NotFound: for a layer that the model does not have.
    """
    chosen = parameters.class_index
    if chosen is None:
        chosen = int(subject.judged_logits(_eight_bit(parameters)).argmax())
    subject.check_class(chosen, "class_index")
    layer = parameters.layer
    if Method.GRAD_CAM in parameters.methods:
        layer = subject.resolve(layer, "layer") if layer else last_with_positions(subject)
        with torch.no_grad():
            if not layer or not is_map(subject, layer, torch.from_numpy(parameters.image)[None]):
                raise InvalidInput(
                    f"{layer or 'no layer of the model'} has rows and columns, expected a feature map for "
                    "Grad-CAM",
                    field="layer",
                )
    return replace(parameters, class_index=chosen, layer=layer)


def total_steps(subject: Subject, parameters: AttributionParameters) -> int:
    """How many batches all methods and their scores take."""
    question = question_of(subject, parameters)
    return sum(WAYS[method].batches(question) + 2 * CURVE_BATCHES for method in parameters.methods)


def attribute(
    subject: Subject, parameters: AttributionParameters, memory: Memory | None = None
) -> Generator[Step | None, None, Attributions]:
    """Share out a class's score over a picture, by each of the methods.

    Args:
        subject: The model.
        parameters: What is wanted, as :func:`with_defaults` gives it.
        memory: To go on from, at the beginning of a method; None to begin.

    Raises:
        InvalidInput: for a Grad-CAM layer that the score does not depend on.
        PreconditionFailed: for guided backpropagation or the deconvnet on a model without rectifiers.
    """
    memory = memory or Memory()
    question = question_of(subject, parameters)
    memory.generator("generator", question.generator)
    at = memory.variables("methods", index=0, items=[])
    memory.freeze()
    total = total_steps(subject, parameters)

    def teller(term: str, stage: str, shown: NDArray[np.float32] | None = None) -> Callable[[float], Step]:
        def tell(value: float) -> Step:
            at.index += 1
            return Step(at.index, total, {term: value}, shown, stage)

        return tell

    pixels = _eight_bit(parameters)[0]
    for method in parameters.methods[len(at.items) :]:
        work, name = WAYS[method].run(question), method.value.replace("_", " ")
        answer: Answer = yield from retold(work, teller("logit", name))
        picture = _heat(pixels, answer)
        curves = []
        for way, curve in (("deletion", deletion_curve), ("insertion", insertion_curve)):
            scoring = curve(question, answer.importance())
            shown = (picture[None] / 255).astype(np.float32) if parameters.preview_every else None
            tell = teller("probability", f"{name}: {way}", shown)
            curves.append((yield from retold(scoring, tell)))
        values = answer.values.detach().float().cpu().contiguous().numpy()
        at.items.append((values, picture, answer.completeness_error, *curves))
        memory.freeze()
    items = (Attribution(method, *item) for method, item in zip(parameters.methods, at.items, strict=True))
    (score_found,) = scores_of(subject.judged_logits(pixels[None]), [question.class_index])
    return Attributions(tuple(items), score_found, pixels)


def question_of(subject: Subject, parameters: AttributionParameters) -> Question:
    """What the methods are asked, of parameters as :func:`with_defaults` gives them."""
    image = torch.from_numpy(_eight_bit(parameters).astype(np.float32) / np.float32(255))
    return Question(
        subject,
        image.to(subject.device),
        parameters.class_index or 0,
        _baseline(subject, parameters.baseline),
        parameters.samples,
        parameters.noise,
        parameters.layer,
        parameters.window,
        parameters.stride,
        torch.Generator().manual_seed(parameters.seed),
    )


def _baseline(subject: Subject, level: float | None) -> torch.Tensor:
    settings = subject.preprocessing
    levels = [level] * settings.channels
    if level is None:
        zeros = [mean / settings.scale for mean in settings.mean]
        # Pictures are red first, whatever the model's own order is.
        zeros = zeros[::-1] if settings.channel_order is ChannelOrder.BGR else zeros
        levels = [zero if 0 <= zero <= 1 else 0.5 for zero in zeros]
    return torch.tensor(levels, dtype=torch.float32, device=subject.device).view(1, -1, 1, 1)


def _eight_bit(parameters: AttributionParameters) -> NDArray[np.uint8]:
    return np.rint(parameters.image[None] * 255).astype(np.uint8)


def _heat(pixels: NDArray[np.uint8], answer: Answer) -> NDArray[np.uint8]:
    importance = answer.importance().clamp(min=0).cpu().double().numpy()
    strongest = float(np.quantile(importance, _SATURATED)) or float(importance.max()) or 1.0
    picture = overlay(from_array(pixels), np.clip(importance / strongest, 0, 1))
    return np.asarray(picture).transpose(2, 0, 1)

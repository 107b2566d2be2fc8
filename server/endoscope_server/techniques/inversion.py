"""Pictures with a given representation, and what it leaks (Mahendran and Vedaldi 2015)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from endoscope_server.errors import InvalidInput, PreconditionFailed
from endoscope_server.graph import Graph, Layer
from endoscope_server.images.encoding import ImageFormat, as_filed
from endoscope_server.images.plots import Curve, plot_over_depth
from endoscope_server.techniques.parts.ascent import ascend
from endoscope_server.techniques.parts.checks import check_number
from endoscope_server.techniques.parts.joining import Question
from endoscope_server.techniques.parts.maps import feature_maps, relative_error
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.optimizers import Adam, Optimizer, Schedule
from endoscope_server.techniques.parts.parameterization import Parameterization, PixelParameterization
from endoscope_server.techniques.parts.regularizers import Regularizers
from endoscope_server.techniques.parts.steps import Step, retold
from endoscope_server.techniques.parts.subject import Subject, to_8_bit, to_float

ALL_LAYERS = "*"
MAX_REFERENCES = 64

_TOTAL_VARIATION = 6e-6
_ALPHA_NORM = 1e-8
_FULL_DEPTH = 0.1
"""From this share of the model's layers on the regularisers have their full weight."""
_PERCEPTUAL_LAYERS = 5


def _adam() -> Adam:
    # Low frequencies are felt weakly through a convolution: long memories add their gradients up.
    return Adam(learning_rate=0.1, beta1=0.98, beta2=0.98, schedule=Schedule.COSINE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InversionParameters:
    """What is wanted of InvertRepresentation.

    Attributes:
        image: The picture as the model sees it, channels x height x width in [0, 1].
        layers: By ONNX name or alias, each inverted by itself; ``*`` alone for each of the model's.
        steps: For each layer, 1 to 100000.
        seed: Of all random numbers; each layer starts from the same noise.
        regularizers: None for total variation and alpha-norm that grow with the layer's depth.
        parameterization: How the picture is made.
        optimizer: How steps are made.
        references: Other pictures, for ``reference_error``; at most 64.
        image_format: Of the files that the pictures are measured on.
        preview_every: Every how many steps the picture is sent along; 0 for never.
    """

    image: NDArray[np.float32]
    layers: tuple[str, ...]
    steps: int = 1200
    seed: int = 0
    regularizers: Regularizers | None = None
    parameterization: Parameterization = field(default_factory=PixelParameterization)
    optimizer: Optimizer = field(default_factory=_adam)
    references: tuple[NDArray[np.float32], ...] = ()
    image_format: ImageFormat = ImageFormat.PNG
    preview_every: int = 0

    def __post_init__(self) -> None:
        if not self.layers:
            raise InvalidInput("there are no layers, expected at least one, or '*'", field="layers")
        if len(self.references) > MAX_REFERENCES:
            raise InvalidInput(
                f"there are {len(self.references)} pictures, expected at most {MAX_REFERENCES}",
                field="references",
            )
        check_number("steps", self.steps, 1, 100_000)
        check_number("seed", self.seed, 0)


@dataclass(frozen=True, slots=True, eq=False)
class LayerInversion:
    """The inversion of one layer, measured on the decoded file.

    Attributes:
        layer: As it was asked for.
        value: Its ONNX name.
        picture: channels x height x width in 8 bits.
        pixels: The same in [0, 1] before rounding.
        feature_error: ||Phi(x) - Phi0||^2 / ||Phi0||^2, by ONNX Runtime.
        reference_error: The same distance over the mean squared distance of each two pictures' features;
            None without references.
        psnr: Peak signal-to-noise ratio, in decibels.
        ssim: Structural similarity, in [-1, 1] (Wang et al. 2004).
        perceptual_distance: Of the model's own normalised feature maps (after Zhang et al. 2018).
    """

    layer: str
    value: str
    picture: NDArray[np.uint8]
    pixels: NDArray[np.float32]
    feature_error: float
    reference_error: float | None
    psnr: float
    ssim: float
    perceptual_distance: float


@dataclass(frozen=True, slots=True, eq=False)
class Inversion:
    """The privacy curve of a model.

    Attributes:
        layers: In the order of computation.
        original: The picture as the model saw it, channels x height x width in 8 bits.
        curve: PSNR and feature error over depth.
    """

    layers: tuple[LayerInversion, ...]
    original: NDArray[np.uint8]
    curve: Image.Image


def with_defaults(subject: Subject, parameters: InversionParameters) -> InversionParameters:
    """The parameters with the layers spelled out, in the order of computation.

    Raises:
        NotFound: for a layer that the model does not have.
        PreconditionFailed: for a layer that the picture has no part in.
    """
    graph = subject.graph
    if parameters.layers == (ALL_LAYERS,):
        reached = tuple(layer.alias for layer in graph.layers if _is_float(graph, layer))
        return dataclasses.replace(parameters, layers=reached)
    depths = {name: position for position, name in enumerate(graph.values)}
    resolved = {
        layer: subject.resolve(layer, f"layers[{index}]") for index, layer in enumerate(parameters.layers)
    }
    ordered = sorted(resolved, key=lambda layer: depths[resolved[layer]])
    return dataclasses.replace(parameters, layers=tuple(ordered))


def invert_representation(
    subject: Subject, parameters: InversionParameters, memory: Memory | None = None
) -> Generator[Step | None, None, Inversion]:
    """Find, for each layer, a picture whose features are those of the given one, from noise.

    argmin over x of ||Phi(x) - Phi0||^2 / ||Phi0||^2 + lambda R(x).

    Args:
        subject: The model.
        parameters: What is wanted, as :func:`with_defaults` gives it.
        memory: To go on from; None to begin.

    Raises:
        PreconditionFailed: for a layer whose values don't depend on the picture, or are all zero.
    """
    original = torch.from_numpy(parameters.image.copy())[None].to(subject.device)
    filed = as_filed(to_8_bit(original), ImageFormat.PNG)
    count = len(parameters.layers)
    memory = memory or Memory()
    inverted = memory.variables("inverted", images=[]).images
    # What is measured on a picture is the same each time, and need not be remembered.
    found = [
        _measured(subject, parameters, layer, images, filed)
        for layer, images in zip(parameters.layers, inverted, strict=False)
    ]
    for position, layer in tuple(enumerate(parameters.layers))[len(found) :]:
        done, stage = position * parameters.steps, f"layer {position + 1} of {count}, {layer}"

        def tell(step: Step, done: int = done, stage: str = stage) -> Step:
            # Positive, as the formula has it: the loop makes its negative large.
            losses = {**step.losses, "feature_error": -step.losses["feature_error"]}
            return Step(done + step.index, count * parameters.steps, losses, step.images, stage)

        work = _invert(subject, parameters, layer, original, memory.part("ascent"))
        images = yield from retold(work, tell)
        inverted.append(images)
        found.append(_measured(subject, parameters, layer, images, filed))
    return Inversion(tuple(found), filed[0], _curve(found))


def _invert(
    subject: Subject, parameters: InversionParameters, layer: str, original: Tensor, memory: Memory
) -> Generator[Step | None, None, Tensor]:
    name = subject.graph.resolve(layer)
    with torch.no_grad():
        wanted = subject.values(original, [name])[name]
    if not wanted.is_floating_point() or not wanted.any():
        raise PreconditionFailed(
            f"the values of {layer!r} are {'all zero' if wanted.is_floating_point() else 'integers'}, "
            "expected ones that a picture can be fitted to",
            field="layers",
            reason="NO_REPRESENTATION",
        )
    scale = wanted.square().sum()

    def terms(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        value = values[name]
        if not value.requires_grad:
            raise PreconditionFailed(
                f"no gradient leads from {layer!r} to the picture", field="layers", reason="NO_GRADIENT"
            )
        return {"feature_error": -(value - wanted).square().sum() / scale}

    question = Question(subject, (name,), terms)
    generator = torch.Generator().manual_seed(parameters.seed)
    shape = (1, *original.shape[1:])
    return ascend(
        parameters.parameterization.start(shape, generator, subject.device),
        lambda images, _step: question(images),
        steps=parameters.steps,
        optimizer=parameters.optimizer,
        generator=generator,
        regularizers=parameters.regularizers or default_regularizers(subject.graph, name),
        preview_every=parameters.preview_every,
        memory=memory,
        joinable=lambda _step: question,
    )


def default_regularizers(graph: Graph, value: str) -> Regularizers:
    """Total variation and alpha-norm for a layer: none at the first, which says all of the picture."""
    order = {name: position for position, name in enumerate(graph.values)}
    depths = [order[layer.value] for layer in graph.layers if layer.receptive_field is not None]
    before = sum(depth < order[value] for depth in depths)
    share = min(1.0, before / max(1, _FULL_DEPTH * len(depths)))
    return Regularizers(
        total_variation_weight=_TOTAL_VARIATION * share,
        total_variation_beta=1.0,
        alpha_norm_weight=_ALPHA_NORM * share,
    )


def _measured(
    subject: Subject,
    parameters: InversionParameters,
    layer: str,
    images: Tensor,
    original: NDArray[np.uint8],
) -> LayerInversion:
    picture = as_filed(to_8_bit(images), parameters.image_format)
    name = subject.graph.resolve(layer)
    features, wanted = (
        torch.from_numpy(np.asarray(subject.judged_values(pixels, [name])[name], np.float32))
        for pixels in (picture, original)
    )
    ours, theirs = (pixels[0].transpose(1, 2, 0) / np.float64(255) for pixels in (picture, original))
    psnr, ssim = _likeness(theirs, ours)
    return LayerInversion(
        layer,
        name,
        picture[0],
        to_float(images)[0],
        float(relative_error(features, wanted)),
        _reference_error(subject, parameters, name, features, wanted),
        psnr,
        ssim,
        perceptual_distance(subject, picture, original),
    )


def _likeness(original: NDArray[np.float64], picture: NDArray[np.float64]) -> tuple[float, float]:
    """PSNR in decibels, where equal pictures are as near as 8 bits can tell, and SSIM."""
    # Importing it takes half a second, which a server that starts need not wait for.
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    side = min(picture.shape[:2])
    window = min(7, side - (side + 1) % 2)
    ssim = float(structural_similarity(original, picture, win_size=window, channel_axis=2, data_range=1))
    if np.array_equal(original, picture):
        return float(20 * np.log10(255 * np.sqrt(original.size))), ssim
    return float(peak_signal_noise_ratio(original, picture, data_range=1)), ssim


def _reference_error(
    subject: Subject, parameters: InversionParameters, name: str, features: Tensor, wanted: Tensor
) -> float | None:
    if not parameters.references:
        return None
    others = [
        np.asarray(subject.judged_values(to_8_bit(torch.from_numpy(image)[None]), [name])[name], np.float32)
        for image in parameters.references
    ]
    features_of = [wanted.flatten(), *(torch.from_numpy(other).flatten() for other in others)]
    distances = [float((a - b).square().sum()) for a, b in itertools.combinations(features_of, 2)]
    mean = sum(distances) / len(distances)
    if not mean:
        raise InvalidInput(
            "the pictures have all the same features, expected different ones", field="references"
        )
    return float((features - wanted).square().sum()) / mean


def perceptual_distance(subject: Subject, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """How unlike two pictures look to the model, 0 or more (after Zhang et al. 2018).

    At five layers spread over the depth the feature vectors of both are brought to length 1 at each
    position; their squared distances are averaged over the positions and summed over the layers.

    Args:
        subject: The model.
        first: 1 x channels x height x width in 8 bits.
        second: Likewise.
    """
    names = _spread(subject.graph)
    distance = 0.0
    ours, theirs = subject.judged_values(first, names), subject.judged_values(second, names)
    for name in names:
        unit = [
            torch.nn.functional.normalize(
                feature_maps(subject, name, torch.from_numpy(np.asarray(values[name], np.float32))), dim=1
            )
            for values in (ours, theirs)
        ]
        distance += float((unit[0] - unit[1]).square().sum(1).mean())
    return distance


def _spread(graph: Graph) -> list[str]:
    """The values of five layers with positions, evenly over the depth; fewer if there are not as many."""
    spatial = [
        layer.value
        for layer in graph.layers
        if layer.receptive_field is not None and not layer.receptive_field.whole and _is_float(graph, layer)
    ] or [layer.value for layer in graph.layers if _is_float(graph, layer)]
    places = np.linspace(0, len(spatial) - 1, min(_PERCEPTUAL_LAYERS, len(spatial))).round().astype(int)
    return [spatial[place] for place in places]


def _is_float(graph: Graph, layer: Layer) -> bool:
    return layer.receptive_field is not None and "float" in str(graph.values[layer.value].dtype)


def _curve(found: Sequence[LayerInversion]) -> Image.Image:
    return plot_over_depth(
        [item.layer for item in found],
        Curve("PSNR, decibels", [item.psnr for item in found]),
        Curve("feature error", [item.feature_error for item in found]),
    )

"""GradientService: pictures of what a model looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from endoscope.calls.call import Streaming
from endoscope.calls.options import Encoding, Parts, Pictures, PreprocessingLike, job_options
from endoscope.messages import encode
from endoscope.pictures import PictureLike
from endoscope.results.gradients import ClassVisualization, Dream, FeatureVisualization, Inversion
from endoscope.v1 import gradient_pb2, gradient_pb2_grpc, optimization_pb2

_STUB = gradient_pb2_grpc.GradientServiceStub

ObjectiveLike: TypeAlias = optimization_pb2.Objective | Mapping[str, Any]
"""What :mod:`endoscope.objectives` makes, or fields of the message."""

LayersLike: TypeAlias = str | Sequence[str] | Mapping[str, float]
"""Layers by ONNX name or alias, or their weights by name."""


def visualize_class(
    model: str,
    classes: int | Sequence[int],
    *,
    preset: Literal["plain", "smooth", "fourier", "maco"] | None = None,
    steps: int | None = None,
    seed: int = 0,
    height: int | None = None,
    width: int | None = None,
    regularizers: Parts | None = None,
    parameterization: Parts | None = None,
    optimizer: Parts | None = None,
    transforms: Sequence[Parts] | None = None,
    preprocessing: PreprocessingLike | None = None,
    image_format: Encoding | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[ClassVisualization]:
    """Pictures of classes: argmax over I of S_c(I) - lambda ||I||^2 (Simonyan et al. 2014).

    Args:
        model: ``models/{model}``, or the last part alone.
        classes: Indices of classes, at most 64; they run as one batch.
        preset: A named set of parameters to start from; what is given here wins. Default: the plain formula.
        steps: 1 to 100000. Default: 64.
        seed: Seed of all random numbers, 0 or more.
        height: Rows of the picture, in pixels, 8 to 4096. Default: the model's.
        width: Columns of the picture, in pixels, 8 to 4096. Default: the model's.
        regularizers: Such as ``{"l2_weight": 0.001, "total_variation_weight": 0.01}``.
        parameterization: ``{"pixel": {}}``, ``{"fourier": {}}`` or ``{"maco": {}}``. Default: pixel.
        optimizer: Such as ``{"adam": {"learning_rate": 0.05}, "schedule": "cosine"}``. Default: Adam.
        transforms: Such as ``[{"jitter": {"pixels": 8}}, {"rotate": {"degrees": 5}}]``. Default: none.
        preprocessing: Overrides the model's own, field by field.
        image_format: Of the result. Default: PNG.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never. Default: 10.
        priority: Batch jobs advance when no interactive one does.
    """
    request = encode(
        gradient_pb2.VisualizeClassRequest,
        model=model,
        classes=classes,
        preset=preset,
        steps=steps,
        seed=seed,
        height=height,
        width=width,
        regularizers=regularizers,
        parameterization=parameterization,
        optimizer=optimizer,
        transforms=transforms,
        preprocessing=preprocessing,
        image_format=image_format,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(_STUB, "VisualizeClass", request, ClassVisualization)


def visualize_feature(
    model: str,
    objectives: ObjectiveLike | Sequence[ObjectiveLike],
    *,
    negative: bool = False,
    steps: int | None = None,
    seed: int = 0,
    height: int | None = None,
    width: int | None = None,
    regularizers: Parts | None = None,
    parameterization: Parts | None = None,
    optimizer: Parts | None = None,
    transforms: Sequence[Parts] | None = None,
    redirected_relu_steps: int | None = None,
    diversity_weight: float = 0.0,
    preprocessing: PreprocessingLike | None = None,
    image_format: Encoding | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[FeatureVisualization]:
    """Pictures of units, channels, layers or directions (Olah et al. 2017).

    Args:
        model: ``models/{model}``, or the last part alone.
        objectives: What is made large, at most 64; see :mod:`endoscope.objectives`. They run as one batch.
        negative: True: made small instead.
        steps: 1 to 100000. Default: 256.
        seed: Seed of all random numbers, 0 or more.
        height: Rows of the picture, in pixels, 8 to 4096. Default: the model's.
        width: Columns of the picture, in pixels, 8 to 4096. Default: the model's.
        regularizers: Such as ``{"total_variation_weight": 0.01}``. Default: none.
        parameterization: ``{"pixel": {}}``, ``{"fourier": {}}`` or ``{"maco": {}}``. Default: Fourier.
        optimizer: Such as ``{"adam": {"learning_rate": 0.05}}``. Default: Adam.
        transforms: In order. Default: pad, jitter, scale, rotate, jitter; ``[]``: none.
        redirected_relu_steps: Steps at the start in which shut rectifiers pass gradients on. Default: 16.
        diversity_weight: Of a diversity term over the batch, 0 or more.
        preprocessing: Overrides the model's own, field by field.
        image_format: Of the result. Default: PNG.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never. Default: 10.
        priority: Batch jobs advance when no interactive one does.
    """
    request = encode(
        gradient_pb2.VisualizeFeatureRequest,
        model=model,
        objectives=objectives,
        negative=negative,
        steps=steps,
        seed=seed,
        height=height,
        width=width,
        regularizers=regularizers,
        parameterization=parameterization,
        optimizer=optimizer,
        transforms=transforms,
        redirected_relu_steps=redirected_relu_steps,
        diversity_weight=diversity_weight,
        preprocessing=preprocessing,
        image_format=image_format,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(_STUB, "VisualizeFeature", request, FeatureVisualization)


def invert_representation(
    model: str,
    image: PictureLike,
    layers: str | Sequence[str],
    *,
    references: Pictures | None = None,
    steps: int | None = None,
    seed: int = 0,
    regularizers: Parts | None = None,
    parameterization: Parts | None = None,
    optimizer: Parts | None = None,
    preprocessing: PreprocessingLike | None = None,
    image_format: Encoding | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[Inversion]:
    """What each layer still tells of a picture (Mahendran and Vedaldi 2015).

    Args:
        model: ``models/{model}``, or the last part alone.
        image: The picture.
        layers: Each is inverted by itself; ``*``: each layer of the model's listing.
        references: Other pictures, at most 64; the distances of their features normalise
            ``reference_error``.
        steps: For each layer, 1 to 100000. Default: 1200.
        seed: Seed of all random numbers, 0 or more.
        regularizers: Default: alpha-norm and total variation, none at the first layer, and their full weight
            from a tenth of the model's depth on.
        parameterization: Default: pixel.
        optimizer: Default: Adam of rate 0.1 with both decays 0.98, along half a cosine.
        preprocessing: Overrides the model's own, field by field.
        image_format: Of the results. Default: PNG.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never. Default: 10.
        priority: Batch jobs advance when no interactive one does.
    """
    request = encode(
        gradient_pb2.InvertRepresentationRequest,
        model=model,
        image=image,
        layers=layers,
        references=references,
        steps=steps,
        seed=seed,
        regularizers=regularizers,
        parameterization=parameterization,
        optimizer=optimizer,
        preprocessing=preprocessing,
        image_format=image_format,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(_STUB, "InvertRepresentation", request, Inversion)


def deep_dream(
    model: str,
    image: PictureLike,
    layers: LayersLike = (),
    *,
    steps: int | None = None,
    octaves: int | None = None,
    octave_scale: float | None = None,
    step_size: float | None = None,
    jitter: int | None = None,
    tile_size: int | None = None,
    guide: PictureLike | None = None,
    seed: int = 0,
    zoom_frames: int | None = None,
    zoom_factor: float | None = None,
    preprocessing: PreprocessingLike | None = None,
    image_format: Encoding | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[Dream]:
    """A picture in which a layer's own activations are amplified (Mordvintsev et al. 2015).

    Args:
        model: ``models/{model}``, or the last part alone.
        image: The picture to dream on, at most 16384 pixels a side; it keeps its size.
        layers: Layers, or their weights by name. Default: one in the middle, which the header tells.
        steps: In each octave, 1 to 10000. Default: 10.
        octaves: 1 to 20. Default: 4.
        octave_scale: Size of an octave over the one before, in (1, 4]. Default: 1.4.
        step_size: Over the mean absolute gradient, in 8-bit pixel units, positive. Default: 1.5.
        jitter: The largest random shift of each step, in pixels, 0 or more. Default: 32.
        tile_size: Larger pictures are taken in tiles of this side, in pixels, 64 to 4096. Default: 512.
        guide: A picture whose features are amplified instead of the layer's own.
        seed: Seed of all random numbers, 0 or more.
        zoom_frames: Frames of a zoom into the dream, each streamed as a step's preview. Default: none.
        zoom_factor: Enlargement from one frame to the next, in (1, 2]. Default: 1.05.
        preprocessing: Overrides the model's own, field by field.
        image_format: Of the result. Default: PNG.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never. Default: 10.
        priority: Batch jobs advance when no interactive one does.
    """
    zoom = None if zoom_frames is None else {"frames": zoom_frames, "factor": zoom_factor}
    request = encode(
        gradient_pb2.DeepDreamRequest,
        model=model,
        image=image,
        layers=_weighted(layers),
        steps=steps,
        octaves=octaves,
        octave_scale=octave_scale,
        step_size=step_size,
        jitter=jitter,
        tile_size=tile_size,
        guide=guide,
        seed=seed,
        zoom=zoom,
        preprocessing=preprocessing,
        image_format=image_format,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(_STUB, "DeepDream", request, Dream)


def _weighted(layers: LayersLike) -> list[dict[str, Any]]:
    if isinstance(layers, Mapping):
        return [{"layer": layer, "weight": weight} for layer, weight in layers.items()]
    return [{"layer": layer} for layer in ([layers] if isinstance(layers, str) else layers)]

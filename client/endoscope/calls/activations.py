"""ActivationService for pictures: filters, activations, classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from numpy.typing import ArrayLike

from endoscope.calls.call import Unary
from endoscope.calls.options import Encoding, Pictures, PreprocessingLike
from endoscope.messages import decode, encode
from endoscope.results.activations import Activations, Filters
from endoscope.results.classes import Classification
from endoscope.v1 import activation_pb2, activation_pb2_grpc

_STUB = activation_pb2_grpc.ActivationServiceStub


def get_filters(
    model: str,
    layer: str | None = None,
    *,
    order: Literal["index", "norm", "similarity"] = "index",
    tile_size: int | None = None,
    columns: int | None = None,
    image_format: Encoding | None = None,
) -> Unary[Filters]:
    """The filters of a convolution, raw and as a picture.

    Args:
        model: ``models/{model}``, or the last part alone.
        layer: A convolution. Default: the first.
        order: In what order they are shown.
        tile_size: Side of a filter's tile, in pixels, at most 512. Default: about 32.
        columns: Tiles in a row. Default: what makes the picture about square.
        image_format: Default: PNG.
    """
    request = encode(
        activation_pb2.GetFiltersRequest,
        model=model,
        layer=layer,
        order=order,
        tile_size=tile_size,
        columns=columns,
        image_format=image_format,
    )
    return Unary(_STUB, "GetFilters", request, lambda response: decode(response, Filters))


def get_activations(
    model: str,
    images: Pictures | None = None,
    layers: str | Sequence[str] = (),
    *,
    inputs: Mapping[str, ArrayLike] | None = None,
    preprocessing: PreprocessingLike | None = None,
    statistics: Literal["none", "spatial", "channel"] = "none",
    top_k: int | None = None,
    omit_tensors: bool = False,
    feature_map_pictures: bool = False,
    overlays: bool = False,
    overlay_channel: int | None = None,
    classify: bool = False,
    top_classes: int | None = None,
    image_format: Encoding | None = None,
) -> Unary[Activations]:
    """Any values of the graph for some pictures.

    Args:
        model: ``models/{model}``, or the last part alone.
        images: Pictures for the model's image input. Required unless ``inputs`` has it.
        layers: The values wanted, by ONNX name or alias. Default: the model's outputs.
        inputs: The model's inputs by ONNX name, given as they are.
        preprocessing: Overrides the model's own, field by field.
        statistics: Over the positions of each channel, or over the channels at each position.
        top_k: How many of the strongest units are listed, 0 to 1000. Default: 0.
        omit_tensors: True: the values themselves are left out.
        feature_map_pictures: True: each feature map's channels as tiles.
        overlays: True: a heat map of the activations' magnitude over each picture.
        overlay_channel: The one channel that overlays show. Default: the mean magnitude of all.
        classify: True: the strongest classes of each picture too.
        top_classes: How many of them, 1 to 1000. Default: 5.
        image_format: Of the pictures. Default: PNG.
    """
    named: list[dict[str, Any]] = [{"name": name, "tensor": value} for name, value in (inputs or {}).items()]
    request = encode(
        activation_pb2.GetActivationsRequest,
        model=model,
        images=images,
        inputs=named,
        layers=layers,
        preprocessing=preprocessing,
        statistics=statistics,
        top_k=top_k,
        omit_tensors=omit_tensors,
        feature_map_pictures=feature_map_pictures,
        overlays=overlays,
        overlay_channel=overlay_channel,
        classify=classify,
        top_classes=top_classes,
        image_format=image_format,
    )
    return Unary(_STUB, "GetActivations", request, lambda response: decode(response, Activations))


def classify(
    model: str,
    images: Pictures,
    *,
    top: int = 5,
    preprocessing: PreprocessingLike | None = None,
) -> Unary[tuple[Classification, ...]]:
    """The strongest classes of each picture, strongest first.

    Args:
        model: ``models/{model}``, or the last part alone.
        images: One picture or several.
        top: How many classes, 1 to 1000.
        preprocessing: Overrides the model's own, field by field.
    """
    call = get_activations(
        model, images, preprocessing=preprocessing, omit_tensors=True, classify=True, top_classes=top
    )
    return Unary(call.stub, call.method, call.request, lambda response: call.read(response).classifications)

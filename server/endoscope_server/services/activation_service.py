"""ActivationService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from PIL import Image

from endoscope.v1 import activation_pb2, activation_pb2_grpc
from endoscope_server.errors import InvalidInput
from endoscope_server.graph import run_inputs
from endoscope_server.images.preprocessing import ChannelOrder
from endoscope_server.jobs import JobManager, Start
from endoscope_server.models import Model, Repository
from endoscope_server.services import preprocessing, streaming
from endoscope_server.services.activation import embedding, neighbors, patches
from endoscope_server.services.activation.prepared import Prepared
from endoscope_server.services.calls import Workers, resource_id
from endoscope_server.services.classes import to_classification
from endoscope_server.services.scanning import Surveyor
from endoscope_server.services.status import Context
from endoscope_server.services.streaming import Methods, Ticket
from endoscope_server.services.tensors import image_format, to_array, to_image, to_picture, to_tensor
from endoscope_server.techniques.activations import (
    Activation,
    ActivationParameters,
    ActivationStatistics,
    Statistics,
    get_activations,
)
from endoscope_server.techniques.classification import strongest_classes
from endoscope_server.techniques.filters import FilterOrder, FilterParameters, get_filters

DEFAULT_TOP_CLASSES = 5

_STATISTICS = {
    activation_pb2.STATISTICS_UNSPECIFIED: Statistics.NONE,
    activation_pb2.STATISTICS_NONE: Statistics.NONE,
    activation_pb2.STATISTICS_SPATIAL: Statistics.SPATIAL,
    activation_pb2.STATISTICS_CHANNEL: Statistics.CHANNEL,
}
_ORDERS = {
    activation_pb2.FILTER_ORDER_UNSPECIFIED: FilterOrder.INDEX,
    activation_pb2.FILTER_ORDER_INDEX: FilterOrder.INDEX,
    activation_pb2.FILTER_ORDER_NORM: FilterOrder.NORM,
    activation_pb2.FILTER_ORDER_SIMILARITY: FilterOrder.SIMILARITY,
}


class ActivationService(activation_pb2_grpc.ActivationServiceServicer):
    """See ``activation.proto``."""

    def __init__(
        self,
        models: Repository,
        surveyor: Surveyor,
        jobs: JobManager,
        workers: Workers,
        approximate_above: int,
    ) -> None:
        self._models = models
        self._surveyor = surveyor
        self._jobs = jobs
        self._workers = workers
        self._indexes = neighbors.Indexes(approximate_above, surveyor.budget)
        self._methods = Methods(jobs, workers)
        self._add(embedding.TECHNIQUE, activation_pb2.EmbedFeaturesRequest, embedding.prepare)
        self._add(patches.TECHNIQUE, activation_pb2.FindActivatingPatchesRequest, patches.prepare)

    async def GetFilters(
        self, request: activation_pb2.GetFiltersRequest, context: Context
    ) -> activation_pb2.GetFiltersResponse:
        """A convolution's filters."""
        return await self._workers.run(lambda: self._get_filters(request))

    async def GetActivations(
        self, request: activation_pb2.GetActivationsRequest, context: Context
    ) -> activation_pb2.GetActivationsResponse:
        """Any values."""
        return await self._workers.run(lambda: self._get_activations(request))

    async def FindNeighbors(
        self, request: activation_pb2.FindNeighborsRequest, context: Context
    ) -> activation_pb2.FindNeighborsResponse:
        """The nearest items; a job of its own, because features may have to be extracted first."""
        prepared = await self._workers.run(lambda: neighbors.prepare(self._surveyor, self._indexes, request))
        return await streaming.complete(self._jobs, prepared.ticket, prepared.start)

    def EmbedFeatures(
        self, request: activation_pb2.EmbedFeaturesRequest, context: Context
    ) -> AsyncIterator[activation_pb2.EmbedFeaturesResponse]:
        """A layout of a dataset's features."""
        return self._methods.run(embedding.TECHNIQUE, request, activation_pb2.EmbedFeaturesResponse)

    def FindActivatingPatches(
        self, request: activation_pb2.FindActivatingPatchesRequest, context: Context
    ) -> AsyncIterator[activation_pb2.FindActivatingPatchesResponse]:
        """What activates channels most."""
        return self._methods.run(patches.TECHNIQUE, request, activation_pb2.FindActivatingPatchesResponse)

    def _add(
        self, technique: str, request: type[Message], prepare: Callable[[Surveyor, Any], Prepared]
    ) -> None:
        def checked(message: Any) -> tuple[Ticket, Start]:
            prepared = prepare(self._surveyor, message)
            return prepared.ticket, prepared.start

        self._methods.add(technique, request, checked)

    def _get_filters(self, request: activation_pb2.GetFiltersRequest) -> activation_pb2.GetFiltersResponse:
        parameters = FilterParameters(
            layer=request.layer,
            order=_choice(_ORDERS, request.order, "order"),
            tile_size=request.tile_size,
            columns=request.columns,
        )
        model = self._models.get(resource_id(request.model, "models", "model"))
        settings = model.card.preprocessing
        filters = get_filters(
            model.sessions, parameters, settings.channel_order if settings else ChannelOrder.RGB
        )
        return activation_pb2.GetFiltersResponse(
            layer=filters.layer,
            weights_name=filters.weights_name,
            weights=to_tensor(filters.weights),
            order=filters.order,
            picture=to_image(filters.picture, image_format(request.image_format)),
            columns=filters.columns,
        )

    def _get_activations(
        self, request: activation_pb2.GetActivationsRequest
    ) -> activation_pb2.GetActivationsResponse:
        parameters = ActivationParameters(
            layers=tuple(request.layers),
            statistics=_choice(_STATISTICS, request.statistics, "statistics"),
            top_k=request.top_k,
            feature_map_pictures=request.feature_map_pictures,
            overlays=request.overlays,
            overlay_channel=request.overlay_channel if request.HasField("overlay_channel") else None,
        )
        if not 0 <= request.top_classes <= 1000:
            raise InvalidInput(
                f"top_classes is {request.top_classes}, expected 1 to 1000", field="top_classes"
            )
        model = self._models.get(resource_id(request.model, "models", "model"))
        inputs, pictures = _inputs(model, request)
        response = activation_pb2.GetActivationsResponse()
        for activation in get_activations(model.sessions, inputs, parameters, pictures):
            response.activations.append(_to_message(activation, request))
        if request.classify:
            logits = run_inputs(model.sessions, inputs, [model.graph.logits])[model.graph.logits]
            count = request.top_classes or DEFAULT_TOP_CLASSES
            for scores in strongest_classes(logits, count):
                response.classifications.append(to_classification(scores, model.card))
        return response


def _inputs(
    model: Model, request: activation_pb2.GetActivationsRequest
) -> tuple[dict[str, NDArray[Any]], list[Image.Image]]:
    """The model's inputs, and the pictures as it sees them."""
    inputs = {
        item.name: to_array(item.tensor, f"inputs[{index}].tensor")
        for index, item in enumerate(request.inputs)
    }
    if not request.images:
        if model.card.image_input and model.card.image_input not in inputs:
            raise InvalidInput("there are no pictures, expected at least one", field="images")
        return inputs, []
    settings = preprocessing.resolve(model, request.preprocessing)
    pictures = [
        settings.fit(to_picture(image, f"images[{index}]")) for index, image in enumerate(request.images)
    ]
    batch = np.stack([settings.pixels(picture) for picture in pictures])
    inputs[model.card.image_input] = model.as_input(settings.normalize(batch))
    return inputs, pictures


def _to_message(
    activation: Activation, request: activation_pb2.GetActivationsRequest
) -> activation_pb2.Activation:
    encoding = image_format(request.image_format)
    message = activation_pb2.Activation(
        layer=activation.layer,
        value=activation.value,
        tensor=to_tensor(activation.tensor, with_data=not request.omit_tensors),
        feature_maps=[to_image(picture, encoding) for picture in activation.feature_maps],
        overlays=[to_image(picture, encoding) for picture in activation.overlays],
    )
    if activation.statistics is not None:
        message.statistics.CopyFrom(_to_statistics(activation.statistics))
    for units in activation.top_units:
        top = message.top_units.add()
        for unit in units:
            top.units.add(index=unit.index, activation=unit.activation)
    return message


def _to_statistics(statistics: ActivationStatistics) -> activation_pb2.ActivationStatistics:
    return activation_pb2.ActivationStatistics(
        mean=to_tensor(statistics.mean),
        std=to_tensor(statistics.std),
        minimum=to_tensor(statistics.minimum),
        maximum=to_tensor(statistics.maximum),
        sparsity=to_tensor(statistics.sparsity),
    )


def _choice(choices: dict[Any, Any], number: int, field: str) -> Any:
    if number not in choices:
        raise InvalidInput(
            f"{field} is {number}, expected one of {', '.join(map(str, choices))}", field=field
        )
    return choices[number]

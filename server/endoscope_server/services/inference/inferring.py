"""From a request to its answer: model, inputs, run, outputs."""

from __future__ import annotations

from collections.abc import Mapping

from endoscope_server.errors import InvalidInput, NotFound
from endoscope_server.models import Model
from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.services.calls import Workers
from endoscope_server.services.inference import classification, pictures, tensors
from endoscope_server.services.inference.availability import Availability
from endoscope_server.services.inference.metadata import VERSION
from endoscope_server.services.inference.regions import Part, part_of
from endoscope_server.services.inference.wire import InferRequest
from endoscope_server.serving import Answer, Batcher, SharedMemory

RAW_OUTPUTS = "binary_data_output"
"""The request's parameter that is false where outputs are wanted as typed contents."""

INLINE_BYTES = 2**20
"""Outputs below this size are put into the message on the event loop."""


class Inferring:
    """Answers inference requests.

    Args:
        availability: The models.
        batcher: Runs them.
        workers: Threads for what would hold up the event loop.
        shared: Where tensors may lie; None for messages alone.
    """

    def __init__(
        self,
        availability: Availability,
        batcher: Batcher,
        workers: Workers,
        shared: SharedMemory | None = None,
    ) -> None:
        self._availability = availability
        self._batcher = batcher
        self._workers = workers
        self._shared = shared

    async def answer(self, request: InferRequest) -> pb.ModelInferResponse:
        """The values that a request asks for.

        Raises:
            NotFound: for an unknown model or version.
            Unavailable: for a model that was unloaded.
            InvalidInput: for inputs that do not fit, and outputs that the graph does not have.
            Unsupported: for what only Triton has.
        """
        asked = request.message
        model = await self.model(asked.model_name, asked.model_version, "model_name")
        names, parts = self._outputs(model, asked)
        taking = pictures.input_of(model)
        if tensors.is_heavy(request) or pictures.take_long(model, taking, asked.inputs):
            inputs = await self._workers.run(lambda: self._inputs(model, taking, request))
        else:
            inputs = self._inputs(model, taking, request)
        found = await self._batcher.run(model, inputs, names)
        if sum(array.nbytes for array in found.values.values()) < INLINE_BYTES:
            return _response(model, asked, names, parts, found)
        return await self._workers.run(lambda: _response(model, asked, names, parts, found))

    def _inputs(self, model: Model, taking: str, request: InferRequest) -> dict[str, tensors.Array]:
        """The inputs by name; pictures for the one that takes them as numbers."""
        inputs = tensors.decode(request, self._shared, files=taking)
        if taking in inputs and pictures.are_pictures(inputs[taking]):
            inputs[taking] = pictures.as_numbers(model, inputs[taking], f"inputs[{taking[:140]}]")
        return inputs

    async def model(self, name: str, version: str, field: str) -> Model:
        """A model by name, in memory; raises as :meth:`Availability.get`."""
        model = self._availability.at_hand(name, version, field)
        if model is not None:
            return model
        return await self._workers.run(lambda: self._availability.get(name, version, field))

    def _outputs(self, model: Model, request: pb.ModelInferRequest) -> tuple[list[str], dict[str, Part]]:
        """The names of the values asked for, and where some of them go in shared memory.

        They are any of the graph, or without a word the model's outputs.
        """
        if not request.outputs:
            return [value.name for value in model.graph.outputs], {}
        parts = {}
        for output in request.outputs:
            field = f"outputs[{output.name[:140]}]"
            part = part_of(output, self._shared, field)
            if part is not None:
                parts[output.name] = part
            try:
                model.graph.resolve(output.name)
            except NotFound as error:
                raise InvalidInput(
                    error.message, field=field, reason=error.reason, metadata=error.metadata
                ) from None
            except InvalidInput as error:
                raise error.at(field) from None
        return [output.name for output in request.outputs], parts


def _response(
    model: Model,
    request: pb.ModelInferRequest,
    names: list[str],
    parts: Mapping[str, Part],
    found: Answer,
) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=model.name, model_version=VERSION, id=request.id)
    raw = RAW_OUTPUTS not in request.parameters or request.parameters[RAW_OUTPUTS].bool_param
    classes = {output.name: classification.wanted(output) for output in request.outputs}
    for name in names:
        array = found.values[name]
        if classes.get(name):
            array = classification.largest(array, classes[name], model.card.labels)
        tensors.add_output(response, name, array, raw=raw, part=parts.get(name))
    return response

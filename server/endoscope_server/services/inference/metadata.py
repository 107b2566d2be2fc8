"""What the protocol tells of a model: inputs, outputs, configuration."""

from __future__ import annotations

from endoscope_server.graph import Graph
from endoscope_server.graph.values import Value
from endoscope_server.models import Model
from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.services.inference import datatypes
from endoscope_server.serving import Batcher

VERSION = "1"
"""The one version that every model has."""

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


def metadata(model: Model) -> pb.ModelMetadataResponse:
    """Inputs and outputs of a model; any other value of the graph may be asked for too."""
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[VERSION],
        platform=PLATFORM,
        inputs=map(_tensor, model.graph.inputs),
        outputs=map(_tensor, model.graph.outputs),
    )


def configuration(model: Model, batcher: Batcher) -> pb.ModelConfig:
    """How a model is run; where its batch size is free, sizes are told without it, as Triton does."""
    graph = model.graph
    first = 1 if _batches(graph) else 0
    config = pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=BACKEND,
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        max_batch_size=batcher.max_rows if first else 0,
        default_model_filename=model.file.path.name,
    )
    for value in graph.inputs:
        config.input.add(name=value.name, data_type=_number(value), dims=_sizes(value)[first:])
    for value in graph.outputs:
        config.output.add(name=value.name, data_type=_number(value), dims=_sizes(value)[first:])
    if first:
        config.dynamic_batching.max_queue_delay_microseconds = round(batcher.max_delay * 1e6)
    return config


def _batches(graph: Graph) -> bool:
    """Whether all inputs and outputs have a first axis whose size is free."""
    return all(
        value.shape and not isinstance(value.shape[0], int) for value in (*graph.inputs, *graph.outputs)
    )


def _tensor(value: Value) -> pb.ModelMetadataResponse.TensorMetadata:
    known = datatypes.known(value.dtype)
    return pb.ModelMetadataResponse.TensorMetadata(
        name=value.name, datatype=known.name if known else "", shape=_sizes(value)
    )


def _sizes(value: Value) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in value.shape or ()]


def _number(value: Value) -> pb.DataType.ValueType:
    known = datatypes.known(value.dtype)
    return known.number if known else pb.TYPE_INVALID

"""Models as messages."""

from __future__ import annotations

from typing import Any

from endoscope.v1 import model_pb2
from endoscope_server.graph import AxisField, Layer, ReceptiveField, Shape, Value
from endoscope_server.mirror.certificate import Certificate
from endoscope_server.models import Model, ModelFile
from endoscope_server.services import preprocessing
from endoscope_server.services.tensors import data_type

PREFIX = "models/"


def describe_file(file: ModelFile) -> model_pb2.Model:
    """What is known of a model without loading it."""
    message = model_pb2.Model(
        name=PREFIX + file.name,
        title=str(file.facts.get("title", "")),
        state=model_pb2.MODEL_STATE_UNLOADED,
        size_bytes=file.path.stat().st_size,
    )
    message.create_time.FromNanoseconds(int(file.created * 1e9))
    return message


def describe(model: Model, *, full: bool) -> model_pb2.Model:
    """A model in memory.

    Args:
        model: The model.
        full: Whether its layers, nodes, values, labels and the certificate's values are told.
    """
    graph, card = model.graph, model.card
    message = describe_file(model.file)
    message.MergeFrom(
        model_pb2.Model(
            title=card.title,
            fingerprint=graph.fingerprint,
            ir_version=graph.ir_version,
            producer=graph.producer,
            opsets={domain or "ai.onnx": version for domain, version in graph.opsets.items()},
            inputs=map(_value(model), graph.inputs),
            outputs=map(_value(model), graph.outputs),
            image_input=card.image_input,
            preprocessing_assumed=card.assumed,
            logits=graph.logits,
            probabilities=graph.probabilities or "",
            class_count=graph.class_count or 0,
            source=card.source,
            license=card.license,
        )
    )
    message.state = model_pb2.MODEL_STATE_LOADED
    if card.preprocessing is not None:
        message.preprocessing.CopyFrom(preprocessing.to_message(card.preprocessing))
    certificate = model.certificate
    if certificate is not None:
        message.certificate.CopyFrom(to_certificate(certificate, full=full))
    if full:
        message.labels.extend(card.labels)
        message.layers.extend(map(_layer, graph.layers))
        message.values.extend(map(_value(model), graph.values.values()))
        for node in graph.nodes:
            message.nodes.add(
                name=node.name,
                op_type=node.op_type,
                domain=node.domain,
                inputs=node.input,
                outputs=node.output,
            )
        for mirrored in model.mirror.nodes:
            if mirrored.name in model.mirror.unsupported:
                message.unsupported_operators.add(
                    op_type=mirrored.op_type,
                    domain=mirrored.domain,
                    opset=mirrored.opset,
                    node=mirrored.name,
                )
    return message


def to_certificate(certificate: Certificate, *, full: bool = True) -> model_pb2.ParityCertificate:
    """A certificate as a message.

    Args:
        certificate: The certificate.
        full: Whether each value is told.
    """
    message = model_pb2.ParityCertificate(
        passed=certificate.passed,
        tolerance=certificate.tolerance,
        worst_absolute=certificate.worst_absolute,
        worst_relative=certificate.worst_relative,
        worst_value=certificate.worst_value or "",
        worst_op_type=certificate.worst_op_type or "",
        first_difference=certificate.first_difference or "",
        compared_count=len(certificate.values),
        notes=certificate.notes,
        versions=certificate.versions,
    )
    message.create_time.FromNanoseconds(int(certificate.created * 1e9))
    if full:
        for value in certificate.values:
            message.values.add(
                value=value.value, op_type=value.op_type, absolute=value.absolute, relative=value.relative
            )
    return message


def _shape(shape: Shape | None) -> list[str]:
    return ["?" if size is None else str(size) for size in shape or ()]


def _value(model: Model) -> Any:
    def convert(value: Value) -> model_pb2.Value:
        nodes = model.graph.skeleton.graph.node
        return model_pb2.Value(
            name=value.name,
            kind=model_pb2.ValueKind.Value(f"VALUE_KIND_{value.kind.name}"),
            data_type=data_type(value.dtype),
            shape=_shape(value.shape),
            unknown_rank=value.shape is None,
            producer="" if value.producer is None else nodes[value.producer].name,
        )

    return convert


def _layer(layer: Layer) -> model_pb2.Layer:
    message = model_pb2.Layer(
        alias=layer.alias,
        output=layer.value,
        op_type=layer.op_type,
        node=layer.node,
        shape=_shape(layer.shape),
        weight_shape=next(iter(layer.weight_shapes.values()), ()),
        parameter_count=layer.parameters,
        multiply_accumulates=layer.multiply_adds or 0,
    )
    if layer.receptive_field is not None:
        message.receptive_field.CopyFrom(_receptive_field(layer.receptive_field))
    return message


def _receptive_field(field: ReceptiveField) -> model_pb2.ReceptiveField:
    if field.whole:
        return model_pb2.ReceptiveField(whole_image=True)
    rows, columns = _axis(field.rows), _axis(field.columns)
    return model_pb2.ReceptiveField(
        size_height=rows[0],
        stride_height=rows[1],
        start_row=rows[2],
        size_width=columns[0],
        stride_width=columns[1],
        start_column=columns[2],
    )


def _axis(field: AxisField | None) -> tuple[int, float, float]:
    return (0, 0.0, 0.0) if field is None else (field.size, float(field.stride), float(field.low))

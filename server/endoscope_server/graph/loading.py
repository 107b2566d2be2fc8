"""ONNX files from disk: read, checked, normalised, fingerprinted.

Nothing is allocated on the word of a file: sizes are compared with the data that is there, and with
:class:`Limits`, first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from endoscope_server.errors import InvalidInput, LimitExceeded
from endoscope_server.graph import walking
from endoscope_server.graph.parsing import Places, parse
from endoscope_server.graph.values import type_of
from endoscope_server.graph.weights import PACKED_BITS, Array, read

# Smaller tensors stay in the skeleton: shape inference and ONNX Runtime read shapes and axes from them.
_STRIPPED_BYTES = 1024

PLACEHOLDER = "weights"
"""Where the skeleton's stripped tensors claim their data to be."""

# With IR version 4, initializers need no longer be listed as inputs.
_FIRST_IR_WITH_CONSTANTS = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model may ask of the machine.

    Attributes:
        tensor_bytes: The largest stored tensor or intermediate value of known shape, in bytes.
        nodes: The largest number of nodes.
    """

    tensor_bytes: int = 16 * 2**30
    nodes: int = 1_000_000


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checked model, with its weights beside it.

    Attributes:
        skeleton: The model without the data of its larger initializers, shapes inferred, local functions
            inlined, and large Constant nodes turned into initializers.
        weights: Every initializer of the main graph, read-only; external data is memory-mapped.
        stripped: The names of the initializers whose data is not in the skeleton.
        fingerprint: SHA-256 over the content, the same wherever and however the weights are stored.
        ir_version: As the file has it.
    """

    skeleton: onnx.ModelProto
    weights: Mapping[str, Array]
    stripped: frozenset[str]
    fingerprint: str
    ir_version: int


def load_file(path: Path, limits: Limits) -> LoadedModel:
    """Read and check a model from disk.

    Raises:
        InvalidInput: with a ``reason`` such as ``NOT_ONNX``, ``MISSING_INITIALIZER``,
            ``OPSET_TOO_NEW``, ``EXTERNAL_DATA_MISSING``, ``EXTERNAL_DATA_OUTSIDE``, ``INVALID_GRAPH``.
        LimitExceeded: for sizes above ``limits``.
    """
    try:
        model, places = parse(path)
    except OSError as error:
        raise _invalid("MODEL_UNREADABLE", f"can't read {path.name}: {error.strerror}") from error
    except DecodeError as error:
        raise _invalid("NOT_ONNX", f"{path.name} is not an ONNX file: it can't be parsed") from error
    return load_proto(model, path.parent, limits, places)


def load_proto(
    model: onnx.ModelProto, folder: Path | None, limits: Limits, places: Places | None = None
) -> LoadedModel:
    """Check a parsed model, taking it over: ``model`` is changed.

    Args:
        model: With its weights, or with external data in ``folder``.
        folder: Where external data lies.
        limits: What the model may ask of the machine.
        places: Raw data that was read apart, see :func:`parsing.parse`.

    Raises: as :func:`load_file`.
    """
    try:
        return _load(model, folder, limits, places or {})
    except UnicodeDecodeError as error:
        # Protobuf lets any bytes pass for a name.
        raise _invalid("INVALID_GRAPH", "a name in the model is no UTF-8") from error


def _load(model: onnx.ModelProto, folder: Path | None, limits: Limits, places: Places) -> LoadedModel:
    _check_header(model)
    if len(model.graph.node) > limits.nodes:
        raise LimitExceeded(
            f"the model has {len(model.graph.node)} nodes, expected at most {limits.nodes}",
            reason="TOO_MANY_NODES",
        )
    ir_version = model.ir_version
    digest = hashlib.sha256()
    stripped = _strip(model, folder, limits, digest, places)
    # A message holds on to the memory of what was taken out of it; its copy does not.
    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    model = slim
    digest.update(model.SerializeToString(deterministic=True))
    _check_names(model.graph)
    model = _normalise(model)
    model = _check_and_infer(model)
    _check_sizes(model.graph, limits)
    weights = {
        tensor.name: stripped[tensor.name]
        if tensor.name in stripped
        else read(tensor, None, limits.tensor_bytes)
        for tensor in model.graph.initializer
    }
    return LoadedModel(
        skeleton=model,
        weights=weights,
        stripped=frozenset(stripped),
        fingerprint=digest.hexdigest(),
        ir_version=ir_version,
    )


def _check_header(model: onnx.ModelProto) -> None:
    if not model.HasField("graph") or not model.opset_import or not model.graph.output:
        raise _invalid("NOT_ONNX", "this is not an ONNX model: expected a graph, an operator set and outputs")
    if model.ir_version > onnx.IR_VERSION:
        raise _invalid(
            "IR_VERSION_TOO_NEW", f"the IR version is {model.ir_version}, expected at most {onnx.IR_VERSION}"
        )
    for opset in model.opset_import:
        newest = onnx.defs.onnx_opset_version()
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise InvalidInput(
                f"the operator set is {opset.version}, expected 1 to {newest}",
                reason="OPSET_TOO_NEW" if opset.version > newest else "INVALID_GRAPH",
                metadata={"opset": str(opset.version), "newest": str(newest)},
            )


def _strip(
    model: onnx.ModelProto, folder: Path | None, limits: Limits, digest: hashlib._Hash, places: Places
) -> dict[str, Array]:
    """Take the larger initializers' data out of the model, into the digest; bring the rest inside."""
    main = {id(tensor): tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and len(node.output) == 1:
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.type == onnx.AttributeProto.TENSOR:
                    main[id(attribute.t)] = attribute.t
                    attribute.t.name = node.output[0]
    owners = [_tensor_at(model.graph, place) for place in places]
    apart = {id(owner): raw for owner, raw in zip(owners, places.values(), strict=True)}
    stripped: dict[str, Array] = {}
    for tensor in walking.tensors(model.graph):
        array = read(tensor, folder, limits.tensor_bytes, apart.get(id(tensor)))
        plain = array.dtype != np.object_ and tensor.data_type not in PACKED_BITS
        if id(tensor) in main and plain and array.nbytes >= _STRIPPED_BYTES:
            digest.update(repr((tensor.name, tensor.data_type, tuple(tensor.dims))).encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            stripped[tensor.name] = array
            mark_external(tensor)
        elif not tensor.HasField("raw_data") and array.dtype != np.object_:
            inline = onnx.numpy_helper.from_array(array, tensor.name)
            tensor.CopyFrom(inline)
    return stripped


def _tensor_at(graph: onnx.GraphProto, place: tuple[int, ...]) -> onnx.TensorProto:
    if len(place) == 1:
        return graph.initializer[place[0]]
    node, attribute = place
    return graph.node[node].attribute[attribute].t


def mark_external(tensor: onnx.TensorProto) -> None:
    """Leave of a tensor its name, type and sizes; its data is given to ONNX Runtime apart."""
    kept = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    kept.data_location = onnx.TensorProto.EXTERNAL
    kept.external_data.add(key="location", value=PLACEHOLDER)
    tensor.CopyFrom(kept)


def _check_names(graph: onnx.GraphProto, outer: frozenset[str] = frozenset()) -> None:
    known = set(outer) | {info.name for info in graph.input} | walking.initializer_names(graph)
    produced = {name for node in graph.node for name in node.output}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.input):
            if name not in known:
                _raise_unknown(name, node, index, name in produced)
        for inner in walking.subgraphs(node):
            _check_names(inner, frozenset(known))
        known |= set(node.output)
    for info in graph.output:
        if info.name not in known:
            raise InvalidInput(
                f"output {info.name!r} is made by no node",
                reason="INVALID_GRAPH",
                metadata={"value": info.name},
            )


def _raise_unknown(name: str, node: onnx.NodeProto, index: int, later: bool) -> None:
    where = f"node {node.name or index!r} ({node.op_type})"
    metadata = {"value": name, "node": node.name or str(index), "operator": node.op_type}
    if later:
        raise InvalidInput(
            f"{where} reads {name!r}, which a later node makes; expected nodes in topological order",
            reason="INVALID_GRAPH",
            metadata=metadata,
        )
    raise InvalidInput(
        f"{where} reads {name!r}, which is no input, no initializer and no node's output: "
        "an initializer is missing",
        reason="MISSING_INITIALIZER",
        metadata=metadata,
    )


def _normalise(model: onnx.ModelProto) -> onnx.ModelProto:
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph = model.graph
    kept = [node for node in graph.node if not _is_stripped_constant(node)]
    if len(kept) < len(graph.node):
        graph.initializer.extend(node.attribute[0].t for node in graph.node if _is_stripped_constant(node))
        slim = onnx.GraphProto(node=kept)
        del graph.node[:]
        graph.node.extend(slim.node)
    model.ir_version = max(model.ir_version, _FIRST_IR_WITH_CONSTANTS)
    held = walking.initializer_names(graph)
    for info in [info for info in graph.input if info.name in held]:
        graph.input.remove(info)
    return model


def _is_stripped_constant(node: onnx.NodeProto) -> bool:
    if node.op_type != "Constant" or len(node.attribute) != 1:
        return False
    return node.attribute[0].t.data_location == onnx.TensorProto.EXTERNAL


def _check_and_infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """The checked model with the value infos that inference found.

    ONNX's checker wants to see external files, so the stripped initializers stand as inputs meanwhile.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.initializer[:]
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            probe.graph.input.append(info)
        else:
            probe.graph.initializer.append(tensor)
    try:
        inferred = onnx.shape_inference.infer_shapes(probe, check_type=False, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError):
        # Shapes are a courtesy: models whose shapes can't be inferred still run.
        inferred = probe
    _check(inferred)
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    for mine, theirs in zip(model.graph.node, inferred.graph.node, strict=True):
        for own, found in zip(walking.subgraphs(mine), walking.subgraphs(theirs), strict=True):
            own.CopyFrom(found)
    for mine_output, found_output in zip(model.graph.output, inferred.graph.output, strict=True):
        if found_output.HasField("type"):
            mine_output.CopyFrom(found_output)
    return model


def _check(model: onnx.ModelProto) -> None:
    declared = onnx.ModelProto()
    declared.CopyFrom(model)
    for info in declared.graph.output:
        # The checker insists on what ONNX Runtime finds out for itself.
        if info.type.WhichOneof("value") in (None, "tensor_type"):
            info.type.tensor_type.shape.SetInParent()
            info.type.tensor_type.elem_type = info.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
    try:
        onnx.checker.check_model(declared)
    except onnx.checker.ValidationError as error:
        summary = str(error).split("\n\n==>")[0].replace("\n", " ")
        raise _invalid("INVALID_GRAPH", f"the ONNX checker refuses the model: {summary}") from error


def _check_sizes(graph: onnx.GraphProto, limits: Limits) -> None:
    for info in (*graph.input, *graph.value_info, *graph.output):
        dtype, shape = type_of(info)
        if dtype is None or shape is None or dtype == "string":
            continue
        fixed = math.prod(size for size in shape if isinstance(size, int))
        size = fixed * onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type).itemsize
        if size > limits.tensor_bytes:
            raise LimitExceeded(
                f"value {info.name!r} of shape {list(shape)} takes {size} bytes, "
                f"expected at most {limits.tensor_bytes}",
                reason="TENSOR_TOO_LARGE",
                metadata={"value": info.name},
            )


def _invalid(reason: str, message: str) -> InvalidInput:
    return InvalidInput(message, reason=reason)

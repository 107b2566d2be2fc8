"""Batches depth first: the first layers are run for one picture after another, the others for all at once.

Where a layer does little with each number, as a depthwise convolution does, its time is that of memory. ONNX
Runtime runs a layer for all pictures of a batch before the next layer, and what a layer leaves for several
pictures does not stay in a core's cache, as it does for one. The first layers have few weights, which cost
nothing to be read again for each picture; those of the last layers are many, and better read once for all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from endoscope_server.graph.graph import Graph
from endoscope_server.graph.sizes import value_bytes
from endoscope_server.graph.values import Value
from endoscope_server.graph.walking import dependencies
from endoscope_server.graph.weights import Array

INTENSITY = 25.0
"""Multiplications and additions for each byte that layers read and write, up to which memory is what they
wait for. Measured, as the time of a batch of eight over that without: 0.83 to 0.98 of nine networks that have
5 to 17, and 0.99 to 1.08 of three with 32 and more."""

LEAST = 4 * 10**6
"""Bytes that layers must read and write for a picture more than weights: what is less stays in the cache."""
_SIDE = 224
"""Of pictures, where the graph leaves it free: what most networks are trained with."""
_FIRST_OPSET = 9
"""The first with a Scan whose batch is not an axis of its own."""
_AXES_ARE_INPUTS = 13
"""The first operator set in which Squeeze and Unsqueeze read their axes."""
_RANK = 4
_OWN = "one picture: "

_ELEMENTWISE = frozenset(
    {
        "Abs",
        "Add",
        "Clip",
        "Div",
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Mish",
        "Mul",
        "PRelu",
        "Relu",
        "Sigmoid",
        "Softplus",
        "Sub",
        "Tanh",
    }
)
_SPATIAL = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Conv",
        "DepthToSpace",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "InstanceNormalization",
        "LRN",
        "MaxPool",
        "SpaceToDepth",
    }
)
_FUSED = _ELEMENTWISE | {"BatchNormalization"}
"""ONNX Runtime mostly does them while the numbers of the convolution before are still at hand."""


@dataclass(frozen=True, slots=True)
class Stem:
    """The layers that are run for one picture after another.

    Attributes:
        pictures: The input.
        value: What they give, and all that the others need of the pictures.
        places: Of their nodes among those that the outputs need.
        passing: What their nodes give but for the value, by name: there is one picture's at a time.
        constants: What their nodes read beside what depends on the pictures, by name.
    """

    pictures: Value
    value: Value
    places: frozenset[int]
    passing: frozenset[str]
    constants: Mapping[str, Array]


def find_stem(graph: Graph, outputs: Sequence[str]) -> Stem | None:
    """The layers that are better run for one picture after another, or None if none are.

    No operator of theirs mixes pictures, so that they give the same either way.

    Args:
        graph: The model.
        outputs: ONNX names of the values that are computed.
    """
    if not outputs or len(graph.inputs) != 1 or graph.opsets.get("", 0) < _FIRST_OPSET:
        return None
    [pictures] = graph.inputs
    if pictures.dtype != "float32" or not _is_batch(pictures):
        return None
    candidates = [found for found in _candidates(graph, outputs, pictures) if _is_batch(found[0].value)]
    # Of those that save as much, the last.
    stem, saved, intensity = max(reversed(candidates), key=lambda found: found[1], default=(None, 0, 0.0))
    return stem if saved >= LEAST and intensity <= INTENSITY else None


def depth_first(model: onnx.ModelProto, stem: Stem) -> onnx.ModelProto:
    """The model with its stem as the body of a Scan over the pictures.

    The stem's weights are stored in the body: ONNX Runtime packs none that the body only sees from outside.

    Args:
        model: The graph exposed over the outputs for which the stem was found; it is not changed.
        stem: Of the same graph.
    """
    opset = next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
    own = [model.graph.node[place] for place in sorted(stem.places)]
    rest = [node for place, node in enumerate(model.graph.node) if place not in stem.places]
    body = _body(own, stem, opset)
    scan = helper.make_node("Scan", [stem.pictures.name], [stem.value.name], body=body, num_scan_inputs=1)
    read = {name for node in rest for name in dependencies(node)} | {info.name for info in model.graph.output}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend([scan, *rest])
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    graph.value_info.extend(info for info in model.graph.value_info if info.name in read)
    return changed


def _body(nodes: Sequence[onnx.NodeProto], stem: Stem, opset: int) -> onnx.GraphProto:
    """The stem for one picture, which comes and goes without an axis of pictures."""

    def own(name: str) -> str:
        return _OWN + name if name else ""

    def along_pictures(operator: str, read: str, given: str) -> onnx.NodeProto:
        if opset >= _AXES_ARE_INPUTS:
            return helper.make_node(operator, [read, own("axes")], [given])
        return helper.make_node(operator, [read], [given], axes=[0])

    picture, found = own("picture"), own("found")
    constants = [numpy_helper.from_array(array, own(name)) for name, array in stem.constants.items()]
    if opset >= _AXES_ARE_INPUTS:
        constants.append(helper.make_tensor(own("axes"), TensorProto.INT64, [1], [0]))
    inner = [along_pictures("Unsqueeze", picture, own(stem.pictures.name))]
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:], copy.output[:]
        copy.input.extend(map(own, node.input))
        copy.output.extend(map(own, node.output))
        inner.append(copy)
    inner.append(along_pictures("Squeeze", own(stem.value.name), found))
    given, left = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (value.shape or ())[1:])
        for name, value in ((picture, stem.pictures), (found, stem.value))
    )
    return helper.make_graph(inner, "one_picture", [given], [left], constants)


def _candidates(graph: Graph, outputs: Sequence[str], pictures: Value) -> Iterator[tuple[Stem, int, float]]:
    """Stems, with the bytes of activations over those of weights, and operations for each of the former."""
    nodes = graph.expose([*outputs]).graph.node
    shape = [1, *(size if isinstance(size, int) else _SIDE for size in (pictures.shape or ())[1:])]
    sizes = value_bytes(graph, {pictures.name: shape})
    sizes[pictures.name] = 4 * math.prod(shape)
    known = _constants(graph, nodes)
    aside = _aside(nodes, pictures, known)
    main = {place: node for place, node in enumerate(nodes) if place not in aside}
    last = {name: place for place, node in main.items() for name in dependencies(node)}
    last.update(dict.fromkeys(outputs, len(nodes)))
    alive = {pictures.name}
    places: list[int] = []
    made: list[str] = []
    constants: dict[str, Array] = {}
    moved = weights = operations = 0
    for place, node in main.items():
        read = [name for name in node.input if name in alive]
        held = {name: known[name] for name in node.input if name in known}
        if not _is_row_wise(graph, node, read, held):
            return
        if node.op_type not in _FUSED:
            moved += sum(sizes.get(name, 0) for name in (*read, *node.output))
            weights += sum(array.nbytes for array in held.values())
        operations += _operations(node, sizes, held)
        constants.update(held)
        made += filter(None, node.output)
        places.append(place)
        alive = {name for name in (*alive, *node.output) if last.get(name, -1) > place}
        if len(alive) == 1:
            value = graph.values[next(iter(alive))]
            saved = moved - weights - sizes.get(value.name, 0)
            passing = frozenset(made) - {value.name}
            stem = Stem(pictures, value, frozenset(places), passing, dict(constants))
            yield stem, saved, operations / max(moved, 1)


def _aside(nodes: Sequence[onnx.NodeProto], pictures: Value, known: Collection[str]) -> set[int]:
    """The places of nodes that see at most how many pictures there are, and of what size."""
    places: set[int] = set()
    seen = set(known)
    for place, node in enumerate(nodes):
        read = dependencies(node)
        if read <= seen or (node.op_type == "Shape" and read == {pictures.name}):
            places.add(place)
            seen.update(node.output)
    return places


def _constants(graph: Graph, nodes: Sequence[onnx.NodeProto]) -> dict[str, Array]:
    """What does not depend on the inputs, by name: weights and plain Constant nodes."""
    found = dict(graph.weights)
    for node in nodes:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _operations(node: onnx.NodeProto, sizes: Mapping[str, int], held: Mapping[str, Array]) -> int:
    if node.op_type != "Conv":
        return 0
    return 2 * (sizes.get(node.output[0], 0) // 4) * math.prod(held[node.input[1]].shape[1:])


def _is_row_wise(graph: Graph, node: onnx.NodeProto, read: Sequence[str], held: Mapping[str, Array]) -> bool:
    """Whether each picture's part of what a node gives depends on that picture alone.

    Args:
        graph: The model.
        node: Of the main graph.
        read: What it reads that depends on the pictures.
        held: What else it reads, by name.
    """
    if node.domain not in ("", "ai.onnx") or set(filter(None, node.input)) - {*read, *held}:
        return False
    given = [name for name in node.output if name]
    # Where the largest number of a window is, MaxPool tells by its place in the whole batch.
    if not read or len(given) != 1:
        return False
    if any(len(graph.values[name].shape or ()) != _RANK for name in (*read, *given)):
        return False
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type in _ELEMENTWISE:
        return all(array.ndim < _RANK or len(array) == 1 for array in held.values())
    if node.op_type in _SPATIAL:
        # Weights that depend on the pictures would depend on all of them.
        return read == [node.input[0]] and not attributes.get("training_mode")
    if node.op_type == "Concat":
        return not held and int(attributes["axis"]) % _RANK != 0
    if node.op_type == "Pad":
        pads = attributes.get("pads") or [int(pad) for pad in next(iter(held.values()), np.zeros(0))]
        # A fourth input says which axes they are of.
        return len(pads) == 2 * _RANK and pads[0] == pads[_RANK] == 0 and len(node.input) < _RANK
    if node.op_type == "ReduceMean":
        axes = attributes.get("axes") or [axis for array in held.values() for axis in array.tolist()]
        return bool(axes) and all(int(axis) % _RANK != 0 for axis in axes)
    return False


def _is_batch(value: Value) -> bool:
    """Whether its first axis is free."""
    shape = value.shape or ()
    return len(shape) == _RANK and not isinstance(shape[0], int)

"""Graphs cut to what some of their values need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from endoscope_server.errors import InvalidInput
from endoscope_server.graph import walking


def expose(model: onnx.ModelProto, values: Sequence[str], *, cut: bool = True) -> onnx.ModelProto:
    """The model with ``values`` as its outputs.

    Stored tensors are copied as they stand in ``model``: external data stays where it is.

    Args:
        model: Any model; it is not changed. Types and shapes of the outputs are taken from its value
            infos where there are some, otherwise left for the runtime to infer.
        values: Names of values of the main graph, in the order of the outputs wanted.
        cut: Keep the nodes, inputs and initializers that the values need, and no others. Otherwise the
            whole graph stays, with its own outputs after the values.

    Raises:
        InvalidInput: for a name that the main graph doesn't have, or no name at all.
    """
    graph = model.graph
    producers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    sources = {info.name for info in graph.input} | walking.initializer_names(graph)
    for name in values:
        if name not in producers and name not in sources:
            raise InvalidInput(f"the graph has no value {name!r}", reason="UNKNOWN_VALUE")
    if not values:
        raise InvalidInput("no value was asked for, expected at least one", reason="NO_VALUES")
    own = [info.name for info in graph.output]
    wanted = list(dict.fromkeys([*values, *([] if cut else own)]))
    if not cut:
        return _assemble(model, graph.node, None, wanted)
    nodes, reached = _needed(graph, producers, wanted)
    return _assemble(model, nodes, reached, wanted)


def extract(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of the model that leads from ``inputs`` to ``outputs``.

    Args:
        model: Any model; it is not changed.
        inputs: Names of values that become graph inputs; what is before them is dropped.
        outputs: Names of values that become the outputs.

    Raises:
        InvalidInput: for unknown names, or if the outputs need an input that is not among ``inputs``.
    """
    graph = model.graph
    infos = _infos(graph)
    producers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    sources = {info.name for info in graph.input}
    for name in (*inputs, *outputs):
        if name not in producers and name not in sources:
            raise InvalidInput(f"the graph has no value {name!r}", reason="UNKNOWN_VALUE")
    nodes, reached = _needed(graph, producers, outputs, frozenset(inputs))
    for name in sorted(sources & reached - set(inputs) - walking.initializer_names(graph)):
        raise InvalidInput(
            f"the outputs also depend on the graph input {name!r}, expected it among the inputs",
            reason="INPUT_NEEDED",
        )
    result = _assemble(model, nodes, reached, outputs)
    del result.graph.input[:]
    result.graph.input.extend(infos.get(name, onnx.ValueInfoProto(name=name)) for name in inputs)
    return result


def _needed(
    graph: onnx.GraphProto,
    producers: dict[str, int],
    wanted: Iterable[str],
    boundary: frozenset[str] = frozenset(),
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes behind some values in graph order, and every name they touch."""
    indices: set[int] = set()
    reached: set[str] = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        reached.add(name)
        if name in boundary or name not in producers:
            continue
        index = producers[name]
        if index not in indices:
            indices.add(index)
            pending.extend(walking.dependencies(graph.node[index]))
    return [graph.node[index] for index in sorted(indices)], reached


def _infos(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    infos = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}
    for tensor in graph.initializer:
        if tensor.name not in infos:
            infos[tensor.name] = onnx.helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)
            )
    return infos


def _assemble(
    model: onnx.ModelProto,
    nodes: Iterable[onnx.NodeProto],
    reached: set[str] | None,
    outputs: Sequence[str],
) -> onnx.ModelProto:
    graph = model.graph
    infos = _infos(graph)
    kept = onnx.GraphProto(name=graph.name, doc_string=graph.doc_string)
    kept.node.extend(nodes)
    kept.input.extend(info for info in graph.input if reached is None or info.name in reached)
    kept.output.extend(infos.get(name, onnx.ValueInfoProto(name=name)) for name in outputs)
    ends = {info.name for info in kept.output}
    for tensor in graph.initializer:
        if reached is None or tensor.name in reached:
            kept.initializer.append(tensor)
    for sparse in graph.sparse_initializer:
        if reached is None or sparse.values.name in reached:
            kept.sparse_initializer.append(sparse)
    made = {name for node in kept.node for name in node.output}
    kept.value_info.extend(info for info in graph.value_info if info.name in made - ends)
    kept.value_info.extend(info for info in graph.output if info.name in made - ends)
    kept.quantization_annotation.extend(
        note for note in graph.quantization_annotation if reached is None or note.tensor_name in reached
    )
    return onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        functions=model.functions,
        metadata_props=model.metadata_props,
        graph=kept,
    )

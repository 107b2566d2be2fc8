"""Operators replaced by the function bodies that ONNX gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from endoscope_server.graph import walking
from endoscope_server.mirror import registry

MAX_DEPTH = 8
Opsets = Mapping[str, int]


def collect_types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """The types of all values of a graph and its subgraphs, by name."""
    types: dict[str, onnx.TypeProto] = {}
    for inner in walking.graphs(graph):
        for info in (*inner.value_info, *inner.output, *inner.input):
            if info.HasField("type"):
                types[info.name] = info.type
        for tensor in inner.initializer:
            types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    return types


def expand(
    graph: onnx.GraphProto, opsets: Opsets, node_opsets: dict[str, dict[str, int]]
) -> tuple[int, frozenset[str]]:
    """Expands, in place, every node without an implementation whose operator has a function body.

    Args:
        graph: The graph, with inferred types.
        opsets: The model's opset by domain.
        node_opsets: Filled in with the opsets of nodes that come from a body, by (unique) node name.

    Returns:
        How many nodes were expanded, and the names of the values that are new.
    """
    types = collect_types(graph)
    count = 0
    fresh: set[str] = set()
    for inner in list(walking.graphs(graph)):
        nodes: list[onnx.NodeProto] = []
        for node in inner.node:
            own = node_opsets.get(node.name, opsets)
            body = _body(node, own, types)
            if body is None:
                nodes.append(node)
                continue
            count += 1
            used = {item.domain: item.version for item in body.opset_import} or dict(own)
            prefix = f"{node.name or node.op_type}#{count}.{len(node_opsets)}"
            expanded = _instantiate(body, node, prefix)
            for position, item in enumerate(expanded):
                item.name = f"{prefix}/{item.op_type}_{position}"
                node_opsets[item.name] = {**own, **used}
            fresh.update(name for item in expanded for name in item.output)
            nodes.extend(expanded)
        if len(nodes) != len(inner.node) or count:
            del inner.node[:]
            inner.node.extend(nodes)
    return count, frozenset(fresh)


def _body(
    node: onnx.NodeProto, opsets: Opsets, types: Mapping[str, onnx.TypeProto]
) -> onnx.FunctionProto | None:
    domain = registry.canonical_domain(node.domain)
    opset = opsets.get(domain, opsets.get("ai.onnx", 1) if not domain else 1)
    if registry.find(node.op_type, domain, opset) is not None or not onnx.defs.has(node.op_type, domain):
        return None
    try:
        # onnx's stubs leave out what a schema knows of its function bodies.
        schema: Any = onnx.defs.get_schema(node.op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        data = schema.get_function_with_opset_version(opset) or schema.function_body.SerializeToString()
        return onnx.FunctionProto.FromString(data)
    if schema.has_context_dependent_function:
        inputs = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        for version in (opset, *reversed(schema.context_dependent_function_opset_versions)):
            try:
                data = schema.get_context_dependent_function_with_opset_version(
                    version, node.SerializeToString(), inputs
                )
            except RuntimeError:
                continue
            if data:
                return onnx.FunctionProto.FromString(data)
    return None


def _instantiate(body: onnx.FunctionProto, node: onnx.NodeProto, prefix: str) -> list[onnx.NodeProto]:
    attributes = {item.name: item for item in body.attribute_proto}
    attributes |= {item.name: item for item in node.attribute}
    if onnx.defs.has(node.op_type, node.domain):
        schema = onnx.defs.get_schema(node.op_type, node.domain)
        for name, attribute in schema.attributes.items():
            if name not in attributes and attribute.default_value.name:
                attributes[name] = attribute.default_value
    names = dict.fromkeys(body.input, "") | dict(zip(body.input, node.input, strict=False))
    names |= {inner: outer for inner, outer in zip(body.output, node.output, strict=False) if outer}
    return [_rename(item, names, attributes, prefix) for item in body.node]


def _rename(
    node: onnx.NodeProto,
    names: dict[str, str],
    attributes: Mapping[str, onnx.AttributeProto],
    prefix: str,
) -> onnx.NodeProto:
    copy = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=node.name)
    copy.input.extend(names.get(name, name) if name else "" for name in node.input)
    for item in node.attribute:
        if item.ref_attr_name:
            if (bound := attributes.get(item.ref_attr_name)) is not None:
                copy.attribute.add().CopyFrom(bound)
                copy.attribute[-1].name = item.name
            continue
        copy.attribute.add().CopyFrom(item)
        if item.type == onnx.AttributeProto.GRAPH:
            inner = copy.attribute[-1].g
            local = dict(names)
            for info in inner.input:
                local[info.name] = f"{prefix}/{info.name}"
                info.name = local[info.name]
            renamed = [_rename(child, local, attributes, prefix) for child in inner.node]
            del inner.node[:]
            inner.node.extend(renamed)
            for info in inner.output:
                info.name = local.get(info.name, info.name)
    for name in node.output:
        if name and name not in names:
            names[name] = f"{prefix}/{name}"
        copy.output.append(names[name] if name else "")
    return copy

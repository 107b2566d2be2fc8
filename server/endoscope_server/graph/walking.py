"""Walks over the protobuf tree of an ONNX model, subgraphs included."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of an If, Loop or Scan, one level down."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every subgraph in it, at any depth, outer before inner."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in the graph and its subgraphs: initializers and attributes."""
    for scope in graphs(graph):
        yield from scope.initializer
        for sparse in scope.sparse_initializer:
            yield sparse.values
            yield sparse.indices
        for node in scope.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    yield attribute.t
                elif attribute.type == onnx.AttributeProto.TENSORS:
                    yield from attribute.tensors


def initializer_names(graph: onnx.GraphProto) -> set[str]:
    """The names of the dense and sparse initializers of one graph."""
    dense = {tensor.name for tensor in graph.initializer}
    return dense | {sparse.values.name for sparse in graph.sparse_initializer}


def captured(node: onnx.NodeProto) -> set[str]:
    """The outer values that a node's subgraphs read besides the node's own inputs."""
    needed: set[str] = set()
    for inner in subgraphs(node):
        own = {value.name for value in inner.input} | initializer_names(inner)
        for nested in inner.node:
            needed |= {name for name in nested.input if name and name not in own}
            needed |= captured(nested) - own
            own |= set(nested.output)
        needed |= {value.name for value in inner.output} - own
    return needed


def dependencies(node: onnx.NodeProto) -> set[str]:
    """Every value that a node reads: its inputs and what its subgraphs capture."""
    return {name for name in node.input if name} | captured(node)

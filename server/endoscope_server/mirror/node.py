"""One node of the graph, as an operator's builder sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from torch import Tensor

from endoscope_server.errors import Unsupported
from endoscope_server.graph import walking
from endoscope_server.mirror.tensors import Value, from_numpy

if TYPE_CHECKING:
    from endoscope_server.mirror.subgraph import Subgraph

Function = Callable[..., Any]
SubgraphFactory = Callable[["Node", onnx.GraphProto], "Subgraph"]


@dataclass(frozen=True, eq=False)
class Node:
    """A node and what is known of its surroundings.

    Attributes:
        op_type: The operator.
        domain: Its domain, empty for ONNX's own.
        name: The node's name, made up from operator and position if the model gives none.
        opset: The opset version of the domain.
        inputs: Names of the inputs, empty for one omitted.
        outputs: Names of the outputs, empty for one not wanted.
        attributes: Attributes as Python values; graphs as ``GraphProto``.
        types: ONNX element types of all values, by name.
        constants: Values known at build time, by name; a superset of what the node needs.
    """

    op_type: str
    domain: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    types: Mapping[str, int] = field(repr=False)
    constants: Mapping[str, Value] = field(default_factory=dict, repr=False)
    make_subgraph: SubgraphFactory | None = field(default=None, repr=False)

    @classmethod
    def from_proto(cls, proto: onnx.NodeProto, index: int, opset: int, types: Mapping[str, int]) -> Node:
        """Reads a node; attributes are converted here, once."""
        return cls(
            op_type=proto.op_type,
            domain="" if proto.domain == "ai.onnx" else proto.domain,
            name=proto.name or f"{proto.op_type}_{index}",
            opset=opset,
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
            attributes={item.name: _attribute(item) for item in proto.attribute},
            types=types,
        )

    def with_constants(self, constants: Mapping[str, Value], make_subgraph: SubgraphFactory) -> Node:
        """The same node, ready for its builder."""
        return replace(self, constants=constants, make_subgraph=make_subgraph)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default."""
        return self.attributes.get(name, default)

    def given(self, index: int) -> bool:
        """Whether the input is there."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def known(self, index: int) -> Value:
        """The input's value if it is a constant, else None."""
        return self.constants.get(self.inputs[index]) if self.given(index) else None

    def ints(self, index: int) -> list[int] | None:
        """The input's values as Python ints if it is a constant, else None."""
        value = self.known(index)
        return [int(item) for item in value.reshape(-1).tolist()] if isinstance(value, Tensor) else None

    def input_type(self, index: int) -> int:
        """ONNX element type of an input (of its items, for a sequence), 0 if unknown."""
        return self.types.get(self.inputs[index], 0) if self.given(index) else 0

    def output_type(self, index: int = 0) -> int:
        """ONNX element type of an output, 0 if unknown."""
        return self.types.get(self.outputs[index], 0) if index < len(self.outputs) else 0

    def graphs(self) -> list[onnx.GraphProto]:
        """The graphs among the attributes."""
        return [value for value in self.attributes.values() if isinstance(value, onnx.GraphProto)]

    def captured(self) -> tuple[str, ...]:
        """Names that the subgraphs take from outside, constants left out; the order of ``outer``."""
        graphs = self.graphs()
        if not graphs:
            return ()
        probe = onnx.NodeProto()
        for graph in graphs:
            probe.attribute.append(onnx.AttributeProto(name="g", type=onnx.AttributeProto.GRAPH, g=graph))
        return tuple(sorted(name for name in walking.captured(probe) if name not in self.constants))

    def subgraph(self, name: str) -> Subgraph:
        """An attribute's graph as something to call; see :mod:`endoscope_server.mirror.registry`."""
        graph = self.attributes.get(name)
        if not isinstance(graph, onnx.GraphProto) or self.make_subgraph is None:
            raise self.unsupported(f"its attribute {name!r} is missing, expected a graph")
        return self.make_subgraph(self, graph)

    def unsupported(self, why: str = "") -> Unsupported:
        """The error that says that this node can't be mirrored."""
        label = f"{self.domain}::{self.op_type}" if self.domain else self.op_type
        return Unsupported(
            f"operator {label} (opset {self.opset}) of node {self.name!r} can't be mirrored in torch"
            + (f": {why}" if why else "; activations still work, gradients through it don't"),
            reason="OPERATOR_UNSUPPORTED",
            metadata={
                "operator": self.op_type,
                "domain": self.domain,
                "opset": str(self.opset),
                "node": self.name,
            },
        )


def _attribute(proto: onnx.AttributeProto) -> Any:
    if proto.type == onnx.AttributeProto.TENSOR:
        return from_numpy(onnx.numpy_helper.to_array(proto.t))
    if proto.type == onnx.AttributeProto.TENSORS:
        return [from_numpy(onnx.numpy_helper.to_array(item)) for item in proto.tensors]
    if proto.type == onnx.AttributeProto.SPARSE_TENSOR:
        return from_numpy(dense(proto.sparse_tensor))
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if proto.type == onnx.AttributeProto.STRINGS:
        return [item.decode("utf-8", "surrogateescape") for item in value]
    if proto.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return list(value)
    return value


def dense(sparse: onnx.SparseTensorProto) -> np.ndarray[Any, Any]:
    """A sparse tensor's values with the zeros filled in."""
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    result = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        result.reshape(-1)[indices] = values
    else:
        result[tuple(indices.T)] = values
    return result

"""Which values follow from the shapes of the inputs alone, so that a plan for fixed shapes can hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from onnx import TensorProto

from endoscope_server.mirror import registry
from endoscope_server.mirror.node import Node
from endoscope_server.mirror.tensors import Value

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
# Operators that read integers without letting them decide the output's shape.
_SHAPE_SAFE = frozenset(
    {
        *("Gather", "GatherND", "GatherElements", "Scatter", "ScatterND", "ScatterElements"),
        *("Where", "Cast", "CastLike", "Concat", "Identity", "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs"),
        *(
            "Equal",
            "Less",
            "LessOrEqual",
            "Greater",
            "GreaterOrEqual",
            "And",
            "Or",
            "Not",
            "Xor",
            "Min",
            "Max",
        ),
        *("DequantizeLinear", "QuantizeLinear", "ArgMax", "ArgMin", "Trilu", "Transpose", "Shape", "Size"),
    }
)


def determined(nodes: Sequence[Node], given: Set[str], constants: Mapping[str, Value]) -> set[str]:
    """Names of the values that depend on the shapes of ``given`` only, and are no constants yet.

    Args:
        nodes: Nodes in order.
        given: Values fed from outside: their contents vary, their shapes don't.
        constants: Values known already.
    """
    varying, reshaping, result = set(given), set[str](), set[str]()
    for node in nodes:
        inputs = [name for name in (*node.inputs, *node.captured()) if name]
        entry = registry.find(node.op_type, node.domain, node.opset)
        unsafe = entry is None or not entry.pure or entry.dynamic or bool(node.graphs())
        if node.op_type in ("Shape", "Size") and not node.domain:
            value_varies, shape_varies = inputs[0] in reshaping, False
        else:
            value_varies = unsafe or any(name in varying for name in inputs)
            shape_varies = (
                unsafe
                or any(name in reshaping for name in inputs)
                or (
                    node.op_type not in _SHAPE_SAFE
                    and any(name in varying and node.types.get(name, 0) not in _FLOATS for name in inputs[1:])
                )
            )
        for name in node.outputs:
            if not name or name in given or name in constants:
                continue
            if value_varies:
                varying.add(name)
            if shape_varies:
                reshaping.add(name)
            if not value_varies and not shape_varies:
                result.add(name)
    return result

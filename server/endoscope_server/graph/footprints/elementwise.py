"""Operators that make each unit of the units at its place."""

from __future__ import annotations

from endoscope_server.graph.footprints.footprint import WHOLE, Footprint, Step, Track
from endoscope_server.graph.footprints.registry import common, rule

# fmt: off
_POINTWISE = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "Bernoulli",
    "BitwiseNot", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear",
    "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "IsInf", "IsNaN", "LRN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "QuantizeLinear",
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Trunc",
)
# fmt: on
# fmt: off
_BROADCASTING = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu",
    "Pow", "Sub", "Sum", "Where", "Xor", "Expand", "QLinearAdd", "QLinearMul",
)
# fmt: on


@rule(*_POINTWISE)
def _pointwise(step: Step) -> Footprint:
    return step.source() if step.only_first_depends() else _broadcast(step)


@rule(*_BROADCASTING)
def _broadcast(step: Step) -> Footprint:
    target = step.shape(step.node.output[0])
    if target is None:
        return WHOLE
    found: dict[int, Track] | None = None
    for name in step.node.input:
        if name not in step.footprints:
            continue
        shape = step.shape(name)
        if shape is None:
            return WHOLE
        shift = len(target) - len(shape)
        aligned = {
            image: Track(track.axis + shift, track.field)
            for image, track in step.footprints[name].items()
            if _same_size(shape[track.axis], target[track.axis + shift])
        }
        found = aligned if found is None else common(found, aligned)
    return found or WHOLE


def _same_size(own: int | str | None, target: int | str | None) -> bool:
    return own == target or not (isinstance(own, int) and (own == 1 or isinstance(target, int)))

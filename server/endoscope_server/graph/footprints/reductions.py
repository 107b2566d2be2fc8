"""Operators that see all there is along some axes."""

from __future__ import annotations

from endoscope_server.graph.footprints.footprint import WHOLE, Footprint, Step
from endoscope_server.graph.footprints.registry import kept, rule, without

# fmt: off
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)
# fmt: on


@rule(*_REDUCTIONS)
def _reduce(step: Step) -> Footprint:
    rank = step.rank()
    axes = step.constants(1, "axes")
    if rank is None or axes is None:
        return WHOLE
    return without(step.source(), {axis % rank for axis in axes}, bool(step.integer("keepdims", 1)))


@rule("ArgMax", "ArgMin")
def _arg(step: Step) -> Footprint:
    rank = step.rank()
    if rank is None:
        return WHOLE
    return without(step.source(), {step.integer("axis", 0) % rank}, bool(step.integer("keepdims", 1)))


@rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(step: Step) -> Footprint:
    rank = step.rank()
    if rank is None:
        return WHOLE
    if step.opset >= 13:
        axis = step.integer("axis", -1) % rank
        return kept(step.source(), lambda own: own != axis)
    first = step.integer("axis", 1) % rank
    return kept(step.source(), lambda own: own < first)


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _layer_norm(step: Step) -> Footprint:
    rank = step.rank()
    if rank is None:
        return WHOLE
    first = step.integer("axis", -1) % rank
    return kept(step.source(), lambda own: own < first)


@rule("LpNormalization")
def _along_one(step: Step) -> Footprint:
    rank = step.rank()
    if rank is None:
        return WHOLE
    axis = step.integer("axis", -1) % rank
    return kept(step.source(), lambda own: own != axis)


@rule("MatMul", "MatMulInteger", "QLinearMatMul")
def _matmul(step: Step) -> Footprint:
    """Rows stay rows where the right operand is constant; anything else, attention included, sees all."""
    rank = step.rank()
    if rank is None or rank < 2 or not step.only_first_depends():
        return WHOLE
    target = step.shape(step.node.output[0])
    if target is None or len(target) != rank:
        return WHOLE
    return kept(step.source(), lambda own: own != rank - 1)

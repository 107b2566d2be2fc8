"""Activation functions, also where the graph spells them out in several nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from endoscope_server.mirror.fusion.cache import Cache
from endoscope_server.mirror.fusion.neighbours import Neighbours
from endoscope_server.mirror.kernels import activation as functions
from endoscope_server.mirror.kernels.activation import Activated, Activation
from endoscope_server.mirror.plan import Step

_SIMPLE = {
    "Relu": functions.relu,
    "Sigmoid": functions.sigmoid,
    "Tanh": functions.tanh,
    "HardSwish": functions.hardswish,
}


def join(neighbours: Neighbours, cache: Cache) -> None:
    """Turns activation functions into kernels."""
    for step in neighbours.steps:
        if neighbours.is_open(step, "Sigmoid", "HardSigmoid"):
            _gated(neighbours, cache, step)
        elif neighbours.is_open(step, "Erf"):
            _gelu(neighbours, cache, step)
    for step in neighbours.steps:
        if not isinstance(step.function, Activated) and neighbours.is_float(step):
            activation = _single(neighbours, step)
            if activation is not None:
                _join(neighbours, cache, [step], activation, step.inputs[0])


def _join(
    neighbours: Neighbours, cache: Cache, steps: Sequence[Step], activation: Activation, name: str
) -> None:
    if neighbours.constant(name) is not None:
        return
    nodes = [node for step in steps for node in step.nodes]
    constants = [
        neighbours.constants[name] for step in steps for name in step.inputs if name in neighbours.constants
    ]
    neighbours.join(steps, cache.get(nodes, constants, lambda: Activated(activation)), (name,))


def _single(neighbours: Neighbours, step: Step) -> Activation | None:
    """The activation function that one node is."""
    if not neighbours.is_open(step, *_SIMPLE, "Clip", "LeakyRelu", "Gelu", "Swish", "HardSigmoid"):
        return None
    node = neighbours.node(step)
    if (simple := _SIMPLE.get(node.op_type)) is not None:
        return simple
    if node.op_type == "Clip":
        return _clip(neighbours, step)
    if node.op_type == "LeakyRelu":
        slope = node.attribute("alpha", 0.01)
        return functions.leaky_relu(slope) if slope >= 0 else None
    if node.op_type == "Gelu":
        return functions.gelu(node.attribute("approximate", "none"))
    if node.op_type == "Swish":
        return functions.silu if node.attribute("alpha", 1.0) == 1 else None
    return (
        functions.hardsigmoid if _is_hard(node.attribute("alpha", 0.2), node.attribute("beta", 0.5)) else None
    )


def _is_hard(slope: float, offset: float) -> bool:
    return math.isclose(slope, 1 / 6, rel_tol=1e-6) and offset == 0.5


def _clip(neighbours: Neighbours, step: Step) -> Activation | None:
    node = neighbours.node(step)
    bounds: list[float | None] = [node.attribute("min", -math.inf), node.attribute("max", math.inf)]
    if node.opset >= 11:
        missing = (-math.inf, math.inf)
        bounds = [
            neighbours.scalar(node.inputs[index + 1]) if node.given(index + 1) else missing[index]
            for index in (0, 1)
        ]
    low, high = bounds
    if low is None or high is None or not low < high:
        return None
    return functions.clip(low, high)


def _gated(neighbours: Neighbours, cache: Cache, step: Step) -> None:
    """``x * sigmoid(x)`` and ``x * hardsigmoid(x)``."""
    product = neighbours.follower(step)
    if product is None or not neighbours.is_open(product, "Mul"):
        return
    if neighbours.other(product, step.outputs[0]) != step.inputs[0] or not neighbours.is_float(product):
        return
    activation = functions.silu
    if step.nodes[0].op_type == "HardSigmoid":
        node = step.nodes[0]
        if not _is_hard(node.attribute("alpha", 0.2), node.attribute("beta", 0.5)):
            return
        activation = functions.hardswish
    _join(neighbours, cache, [step, product], activation, step.inputs[0])


def _gelu(neighbours: Neighbours, cache: Cache, erf: Step) -> None:
    """``x * 0.5 * (1 + erf(x / sqrt(2)))``, the factors in any order."""
    scaling = neighbours.writer(erf.inputs[0])
    if scaling is None or neighbours.follower(scaling) is not erf or not neighbours.is_float(erf):
        return
    name = _scaled(neighbours, scaling, 1 / math.sqrt(2))
    more = neighbours.follower(erf)
    if name is None or more is None or _summand(neighbours, more, erf.outputs[0]) != 1:
        return
    steps, have_x, have_half = [scaling, erf, more], False, False
    while not (have_x and have_half):
        last = steps[-1]
        following = neighbours.follower(last)
        if following is None or not neighbours.is_open(following, "Mul", "Div"):
            return
        other = neighbours.other(following, last.outputs[0])
        if other == name and following.nodes[0].op_type == "Mul" and not have_x:
            have_x = True
        elif _scaled(neighbours, following, 0.5) == last.outputs[0] and not have_half:
            have_half = True
        elif other is not None and not (have_x or have_half) and following.nodes[0].op_type == "Mul":
            half = neighbours.writer(other)
            if half is None or neighbours.follower(half) is not following:
                return
            if _scaled(neighbours, half, 0.5) != name:
                return
            steps.append(half)
            have_x = have_half = True
        else:
            return
        steps.append(following)
    _join(neighbours, cache, steps, functions.gelu("none"), name)


def _scaled(neighbours: Neighbours, step: Step, factor: float) -> str | None:
    """What the step multiplies by ``factor``."""
    if not neighbours.is_open(step, "Mul", "Div"):
        return None
    for name in step.inputs:
        other = neighbours.other(step, name)
        scalar = neighbours.scalar(other) if other else None
        if scalar is None:
            continue
        if step.nodes[0].op_type == "Div":
            if other != step.inputs[1] or scalar == 0:
                continue
            scalar = 1 / scalar
        if math.isclose(scalar, factor, rel_tol=1e-5):
            return name
    return None


def _summand(neighbours: Neighbours, step: Step, name: str) -> float | None:
    """What the step adds to ``name``."""
    other = neighbours.other(step, name) if neighbours.is_open(step, "Add") else None
    return neighbours.scalar(other) if other else None

"""Convolutions and products with constant matrices, joined with what follows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from endoscope_server.mirror.fusion.cache import Cache
from endoscope_server.mirror.fusion.neighbours import Neighbours
from endoscope_server.mirror.kernels import Kernel
from endoscope_server.mirror.kernels.activation import Activated, Activation
from endoscope_server.mirror.kernels.convolution import Convolution
from endoscope_server.mirror.kernels.elementwise import Affine, Sum
from endoscope_server.mirror.kernels.linear import Linear
from endoscope_server.mirror.kernels.weights import Weights
from endoscope_server.mirror.operators.convolution import kernel_of
from endoscope_server.mirror.plan import Step
from endoscope_server.mirror.spatial import Window

_WEIGHTS = (torch.float32, torch.float64)


@dataclass
class _Chain:
    """Steps that follow one another, and what they amount to.

    Attributes:
        steps: In order.
        axes: How many axes follow that of the channels.
        channels: How many there are.
        scale: What each channel is multiplied by, in float64.
        shift: What is added to each channel after that, in float64.
        other: Name of a tensor that is added then.
        activation: What is applied last.
    """

    steps: list[Step]
    axes: int
    channels: int
    scale: Tensor | None = None
    shift: Tensor | None = None
    other: str | None = None
    activation: Activation | None = None
    constants: list[Any] = field(default_factory=list)

    @property
    def output(self) -> str:
        return self.steps[-1].outputs[0]

    def inputs(self, first: str) -> tuple[str, ...]:
        return (first,) if self.other is None else (first, self.other)

    def scale_channels(self, neighbours: Neighbours) -> None:
        """Takes in what scales and shifts channels by constants."""
        while self._affine(neighbours, neighbours.follower(self.steps[-1])):
            pass

    def add(self, neighbours: Neighbours) -> None:
        """Takes in the addition of another tensor."""
        following = neighbours.follower(self.steps[-1])
        if following is not None and neighbours.is_open(following, "Add"):
            other = neighbours.other(following, self.output)
            if other and other not in neighbours.constants and neighbours.is_float(following):
                self.other = other
                self.steps.append(following)

    def activate(self, neighbours: Neighbours) -> None:
        """Takes in an activation function that follows."""
        following = neighbours.follower(self.steps[-1])
        if following is not None and isinstance(following.function, Activated):
            self.activation = following.function.activation
            self.constants.append(following.function)
            self.steps.append(following)

    def _affine(self, neighbours: Neighbours, step: Step | None) -> bool:
        if step is None:
            return False
        found: tuple[Tensor | None, Tensor | None] | None = None
        if self.axes:
            found = normalisation(neighbours, step)
        if found is None:
            found = self._arithmetic(neighbours, step)
        if found is None:
            return False
        scale, shift = found
        if scale is not None:
            self.scale = scale if self.scale is None else self.scale * scale
            self.shift = None if self.shift is None else self.shift * scale
        if shift is not None:
            self.shift = shift if self.shift is None else self.shift + shift
        self.constants += [neighbours.constants[name] for name in step.inputs if name in neighbours.constants]
        self.steps.append(step)
        return True

    def _arithmetic(self, neighbours: Neighbours, step: Step) -> tuple[Tensor | None, Tensor | None] | None:
        if not neighbours.is_open(step, "Mul", "Add", "Sub", "Div"):
            return None
        other = neighbours.other(step, self.output)
        value = neighbours.constant(other) if other else None
        kind = step.nodes[0].op_type
        if value is None or (kind in ("Sub", "Div") and step.inputs[1] != other):
            return None
        # Along the channels and no other axis, and without adding axes of its own.
        if value.dim() > self.axes + 1 and any(size != 1 for size in value.shape[: -self.axes - 1]):
            return None
        if value.dim() > self.axes + 2 or value.numel() not in (1, self.channels):
            return None
        if value.numel() > 1 and value.shape[-self.axes - 1 :][:1] != (self.channels,):
            return None
        exact = value.double().reshape(-1).expand(self.channels)
        if kind in ("Mul", "Div"):
            return (exact if kind == "Mul" else 1 / exact), None
        return None, exact if kind == "Add" else -exact


def normalisation(neighbours: Neighbours, step: Step) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of a BatchNormalization of constants, in float64."""
    if not neighbours.is_open(step, "BatchNormalization"):
        return None
    node = neighbours.node(step)
    training = bool(node.attribute("training_mode", 0)) if node.opset >= 14 else len(node.outputs) > 1
    values = [node.known(index) for index in range(1, 5)]
    if (
        training
        or len(node.outputs) > 1
        or not all(isinstance(v, Tensor) and v.dtype in _WEIGHTS for v in values)
    ):
        return None
    gamma, beta, mean, variance = (value.double() for value in values)
    scale = gamma / torch.sqrt(variance + node.attribute("epsilon", 1e-5))
    return scale, beta - mean * scale


def join(neighbours: Neighbours, cache: Cache) -> None:
    """Turns convolutions, products with constant matrices, normalisations and sums into kernels."""
    gone: set[Step] = set()
    for kind, start in (("Conv", _convolution), ("Gemm", _gemm), ("MatMul", _product)):
        for step in neighbours.steps:
            if step not in gone and neighbours.is_open(step, kind):
                gone.update(start(neighbours, cache, step))
    for step in neighbours.steps:
        if step not in gone:
            gone.update(_rest(neighbours, cache, step))


def _finish(neighbours: Neighbours, cache: Cache, chain: _Chain, make: Any) -> list[Step]:
    name = chain.steps[0].inputs[0]
    nodes = [node for step in chain.steps for node in step.nodes]
    kernel: Kernel = cache.get(nodes, chain.constants, make)
    neighbours.join(chain.steps, kernel, chain.inputs(name))
    return chain.steps


def _convolution(neighbours: Neighbours, cache: Cache, step: Step) -> list[Step]:
    node = neighbours.node(step)
    weight, bias = node.known(1), node.known(2)
    if not _constant(weight) or (node.given(2) and not _constant(bias)) or not _varies(neighbours, step):
        return []
    kernel = kernel_of(node)
    assert kernel is not None
    window, groups = Window.from_node(node, kernel), node.attribute("group", 1)
    chain = _Chain([step], len(kernel), weight.shape[0], constants=[weight, bias])
    chain.scale_channels(neighbours)
    chain.add(neighbours)
    chain.activate(neighbours)

    def make() -> Convolution:
        weights = Weights(weight, bias, chain.scale, chain.shift)
        return Convolution(weights, window, groups, chain.activation)

    return _finish(neighbours, cache, chain, make)


def _gemm(neighbours: Neighbours, cache: Cache, step: Step) -> list[Step]:
    node = neighbours.node(step)
    matrix, bias = node.known(1), node.known(2)
    if not _constant(matrix) or (node.given(2) and not _constant(bias)) or not _varies(neighbours, step):
        return []
    plain = node.attribute("alpha", 1.0) == node.attribute("beta", 1.0) == 1 and not node.attribute(
        "transA", 0
    )
    out = matrix.shape[0 if node.attribute("transB", 0) else 1]
    if not plain or (bias is not None and bias.shape != (out,)):
        return []
    chain = _Chain([step], 0, out, constants=[matrix, bias])
    chain.activate(neighbours)
    turned = matrix if node.attribute("transB", 0) else matrix.t()
    return _finish(neighbours, cache, chain, lambda: Linear(turned, bias, chain.activation))


def _product(neighbours: Neighbours, cache: Cache, step: Step) -> list[Step]:
    matrix = neighbours.node(step).known(1)
    if not _constant(matrix) or matrix.dim() != 2 or not _varies(neighbours, step):
        return []
    chain = _Chain([step], 0, matrix.shape[1], constants=[matrix])
    following = neighbours.follower(step)
    bias = None
    if following is not None and neighbours.is_open(following, "Add"):
        other = neighbours.other(following, chain.output)
        bias = neighbours.constant(other) if other else None
        if bias is not None and bias.shape == (chain.channels,) and bias.dtype == matrix.dtype:
            chain.steps.append(following)
            chain.constants.append(bias)
        else:
            bias = None
    chain.add(neighbours)
    chain.activate(neighbours)
    return _finish(neighbours, cache, chain, lambda: Linear(matrix.t(), bias, chain.activation))


def _rest(neighbours: Neighbours, cache: Cache, step: Step) -> list[Step]:
    if neighbours.is_open(step, "Add") and neighbours.is_float(step):
        if len(step.inputs) != 2 or all(name in neighbours.constants for name in step.inputs):
            return []
        chain = _Chain([step], 0, 0)
        chain.activate(neighbours)
        nodes = [node for joined in chain.steps for node in joined.nodes]
        kernel = cache.get(nodes, chain.constants, lambda: Sum(chain.activation))
        neighbours.join(chain.steps, kernel, step.inputs)
        return chain.steps
    found = normalisation(neighbours, step)
    if found is None or not _varies(neighbours, step):
        return []
    values = [neighbours.constants[name] for name in step.inputs[1:]]
    dtype = values[0].dtype
    chain = _Chain([step], 0, 0, constants=values)
    chain.activate(neighbours)
    scale, shift = (value.to(dtype) for value in found)
    return _finish(neighbours, cache, chain, lambda: Affine(scale, shift, chain.activation))


def _constant(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in _WEIGHTS


def _varies(neighbours: Neighbours, step: Step) -> bool:
    return bool(step.inputs[0]) and step.inputs[0] not in neighbours.constants

"""Nodes that are kernels by themselves, so that regions need not end at them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from endoscope_server.mirror.fusion.cache import Cache
from endoscope_server.mirror.fusion.neighbours import Neighbours
from endoscope_server.mirror.kernels import Kernel
from endoscope_server.mirror.kernels.elementwise import Product
from endoscope_server.mirror.kernels.layout import Concatenation, Permutation, Reshaping, Selection
from endoscope_server.mirror.kernels.linear import MatrixProduct
from endoscope_server.mirror.kernels.normalization import LayerNormalization, Softmax
from endoscope_server.mirror.kernels.pooling import AveragePool, MaxPool, Mean
from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.plan import Step
from endoscope_server.mirror.spatial import Window, symmetric

_Make = Callable[[Node, Function], Kernel | None]


def join(neighbours: Neighbours, cache: Cache) -> None:
    """Turns nodes into kernels."""
    for step in neighbours.steps:
        if not neighbours.is_open(step, *_ALL) or not neighbours.is_float(step):
            continue
        if step.nodes[0].op_type == "Split":
            _split(neighbours, cache, step)
        elif step.nodes[0].op_type in _JOINING:
            _join_varying(neighbours, cache, step)
        else:
            _join_first(neighbours, cache, step)


def _join_first(neighbours: Neighbours, cache: Cache, step: Step) -> None:
    """Kernels of the first input, all others constant."""
    constants = [neighbours.constants.get(name) for name in step.inputs]
    known = all(value is not None for name, value in zip(step.inputs, constants, strict=True) if name)
    others = all(
        value is not None for name, value in zip(step.inputs[1:], constants[1:], strict=True) if name
    )
    if known or not others or len([name for name in step.outputs if name]) != 1:
        return
    made = _FIRST[step.nodes[0].op_type](neighbours.node(step), step.function)
    if made is not None:
        neighbours.join([step], cache.get(step.nodes, constants, lambda: made), step.inputs[:1])


def _join_varying(neighbours: Neighbours, cache: Cache, step: Step) -> None:
    """Kernels of several inputs."""
    if not all(step.inputs) or all(name in neighbours.constants for name in step.inputs):
        return
    made = _JOINING[step.nodes[0].op_type](neighbours.node(step), step.function)
    if made is not None:
        neighbours.join([step], cache.get(step.nodes, [], lambda: made), step.inputs)


def _split(neighbours: Neighbours, cache: Cache, step: Step) -> None:
    """A kernel for each part, so that each can go its own way."""
    rest = [neighbours.constants.get(name) for name in step.inputs[1:]]
    if step.inputs[0] in neighbours.constants or any(value is None for value in rest):
        return

    def part(index: int) -> Selection:
        return Selection(lambda x: step.function(x, *rest)[index])

    parts = {
        name: cache.get(step.nodes, [step.function, *rest], functools.partial(part, index), index)
        for index, name in enumerate(step.outputs)
        if name and neighbours.readings(name)
    }
    neighbours.divide(step, parts, step.inputs[0])


def _max_pool(node: Node, _: Function) -> Kernel | None:
    window = _window(node)
    if window is None:
        return None
    kernel, strides, padding, dilations, ceil = window
    return MaxPool(kernel, strides, padding, dilations, ceil)


def _average_pool(node: Node, _: Function) -> Kernel | None:
    window = _window(node)
    if window is None or set(window[3]) != {1}:
        return None
    kernel, strides, padding, _dilations, ceil = window
    return AveragePool(kernel, strides, padding, ceil, bool(node.attribute("count_include_pad", 0)))


def _window(node: Node) -> tuple[Any, ...] | None:
    """Kernel, strides, padding, dilations and mode, if torch pools in such windows over two axes."""
    window = Window.from_node(node, node.attribute("kernel_shape"))
    padding = symmetric(window.padding(())) if window.fixed and len(window.kernel) == 2 else None
    if padding is None or any(pad > size // 2 for pad, size in zip(padding, window.kernel, strict=True)):
        return None
    return window.kernel, window.strides, padding, window.dilations, window.ceil


def _global_average(_: Node, __: Function) -> Kernel | None:
    return Mean(None, keep=True)


def _mean(node: Node, _: Function) -> Kernel | None:
    axes = node.attribute("axes") or node.ints(1)
    return Mean(axes, bool(node.attribute("keepdims", 1))) if axes else None


def _reshaping(node: Node, function: Function) -> Kernel | None:
    rest = [node.known(index) for index in range(1, len(node.inputs))]

    def reshape(x: Tensor) -> Tensor:
        result = function(x, *rest)
        return result[0] if isinstance(result, tuple) else result

    return Reshaping(reshape)


def _transpose(node: Node, _: Function) -> Kernel | None:
    axes = node.attribute("perm")
    return Permutation(axes) if axes else None


def _slice(node: Node, function: Function) -> Kernel | None:
    steps = node.ints(4)
    if steps is not None and min(steps) < 0:
        return None
    rest = [node.known(index) for index in range(1, len(node.inputs))]
    return Selection(lambda x: function(x, *rest))


def _gather(node: Node, _: Function) -> Kernel | None:
    index, axis = node.known(1), node.attribute("axis", 0)
    if not isinstance(index, Tensor) or index.dim() != 0:
        return None
    return Selection(functools.partial(torch.select, dim=axis, index=int(index)))


def _softmax(node: Node, _: Function) -> Kernel | None:
    axis = node.attribute("axis", -1 if node.opset >= 13 else 1)
    # Before opset 13 it goes over all axes from this one on.
    return Softmax(axis) if node.opset >= 13 or axis == -1 else None


def _layer_normalization(node: Node, _: Function) -> Kernel | None:
    scale, bias = node.known(1), node.known(2)
    if node.attribute("axis", -1) != -1 or not isinstance(scale, Tensor) or scale.dim() != 1:
        return None
    if bias is not None and (bias.shape != scale.shape or bias.dtype != scale.dtype):
        return None
    return LayerNormalization(scale, bias, node.attribute("epsilon", 1e-5))


def _concatenation(node: Node, _: Function) -> Kernel | None:
    return Concatenation(node.attribute("axis", 1))


_FIRST: dict[str, _Make] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "ReduceMean": _mean,
    "Flatten": _reshaping,
    "Reshape": _reshaping,
    "Squeeze": _reshaping,
    "Unsqueeze": _reshaping,
    "Identity": _reshaping,
    "Transpose": _transpose,
    "Slice": _slice,
    "Gather": _gather,
    "Softmax": _softmax,
    "LayerNormalization": _layer_normalization,
}
_JOINING: dict[str, _Make] = {
    "Concat": _concatenation,
    "Mul": lambda _, __: Product(),
    "MatMul": lambda _, __: MatrixProduct(),
}
_ALL = (*_FIRST, *_JOINING, "Split")

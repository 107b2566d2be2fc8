"""Pooling over windows and over whole feature maps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.spatial import Pads, Window, for_pad, symmetric

_MAX: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE: dict[int, Any] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_CONVOLVE: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def _complete(window: Window, sizes: tuple[int, ...]) -> Pads:
    """The padding with which exactly the counted windows fit."""
    pads = []
    for size, count, (before, _), stride, extent in zip(
        sizes, window.output_sizes(sizes), window.padding(sizes), window.strides, window.extents, strict=True
    ):
        pads.append((before, (count - 1) * stride + extent - size - before))
    return tuple(pads)


def _native(window: Window) -> tuple[int, ...] | None:
    """The padding, if torch's own pooling takes it."""
    padding = symmetric(window.padding(())) if window.fixed else None
    if padding is None or any(pad > size // 2 for pad, size in zip(padding, window.kernel, strict=True)):
        return None
    return padding


@operator("MaxPool")
def _max_pool(node: Node) -> Function:
    window = Window.from_node(node, node.attribute("kernel_shape"))
    rank, indices = len(window.kernel), len(node.outputs) > 1 and bool(node.outputs[1])
    columns_first = bool(node.attribute("storage_order", 0))
    pool, padding = _MAX[rank], _native(window)
    strides, dilations = window.strides, window.dilations

    def fixed(x: Tensor) -> Any:
        return pool(x, window.kernel, strides, padding, dilations, window.ceil)

    def padded(x: Tensor) -> Any:
        sizes = tuple(x.shape[2:])
        pads = _complete(window, sizes)
        wide = functional.pad(x, for_pad(pads), value=-math.inf)
        if not indices:
            return pool(wide, window.kernel, strides, 0, dilations)
        values, places = pool(wide, window.kernel, strides, 0, dilations, return_indices=True)
        flat = torch.zeros_like(places)
        weight = 1 if columns_first else math.prod(sizes)
        for axis in range(rank):
            inner = math.prod(wide.shape[3 + axis :])
            place = places // inner % wide.shape[2 + axis] - pads[axis][0]
            if not columns_first:
                weight //= sizes[axis]
            flat = flat + place * weight
            if columns_first:
                weight *= sizes[axis]
        channels = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *[1] * rank)
        return values, flat + channels.to(flat.device) * math.prod(sizes)

    function = fixed if padding is not None and not indices else padded

    def apply(x: Tensor) -> Any:
        if x.is_floating_point():
            return function(x)
        result = function(x.to(torch.float32))
        return (result[0].to(x.dtype), result[1]) if indices else result.to(x.dtype)

    return apply


@operator("MaxUnpool")
def _max_unpool(node: Node) -> Function:
    window = Window.from_node(node, node.attribute("kernel_shape"))

    def apply(x: Tensor, indices: Tensor, shape: Tensor | None = None) -> Tensor:
        sizes = list(x.shape[:2])
        for size, stride, kernel, pads in zip(
            x.shape[2:], window.strides, window.kernel, window.pads, strict=True
        ):
            sizes.append((size - 1) * stride + kernel - sum(pads))
        # The indices are those of the shape that follows from the attributes, whatever shape is asked for.
        flat = x.new_zeros(math.prod(sizes)).scatter(0, indices.reshape(-1), x.reshape(-1))
        result = flat.reshape(sizes)
        if shape is None:
            return result
        wanted = shape.tolist()
        return functional.pad(result, for_pad(tuple((0, a - b) for a, b in zip(wanted, sizes, strict=True))))

    return apply


@operator("AveragePool")
def _average_pool(node: Node) -> Function:
    window = Window.from_node(node, node.attribute("kernel_shape"))
    include, padding = bool(node.attribute("count_include_pad", 0)), _native(window)
    rank = len(window.kernel)
    if padding is not None and set(window.dilations) == {1}:
        pool = _AVERAGE[rank]
        return lambda x: pool(x, window.kernel, window.strides, padding, window.ceil, include)

    def apply(x: Tensor) -> Tensor:
        counts: Tensor = x.new_ones((1,) * (2 + rank))
        sizes = x.shape[2:]
        for axis, (size, (before, after)) in enumerate(zip(sizes, window.padding(sizes), strict=True)):
            low, high = (-before, size + after) if include else (0, size)
            starts = torch.arange(window.output_sizes(sizes)[axis]) * window.strides[axis] - before
            places = starts[:, None] + torch.arange(window.kernel[axis]) * window.dilations[axis]
            count = ((places >= low) & (places < high)).sum(1).to(x)
            counts = counts * count.reshape(-1, *[1] * (rank - 1 - axis))
        return _window_sums(x, window) / counts

    return apply


def _window_sums(x: Tensor, window: Window) -> Tensor:
    rank, sizes = len(window.kernel), tuple(x.shape[2:])
    wide = functional.pad(x, for_pad(_complete(window, sizes)))
    ones = x.new_ones((1, 1, *window.kernel))
    sums = _CONVOLVE[rank](
        wide.reshape(-1, 1, *wide.shape[2:]), ones, None, window.strides, 0, window.dilations
    )
    return sums.reshape(x.shape[0], x.shape[1], *sums.shape[2:])


def _root(sums: Tensor, power: int) -> Tensor:
    """The root, with gradient zero where the sum is zero."""
    safe = torch.where(sums > 0, sums, torch.ones_like(sums))
    return torch.where(sums > 0, safe.pow(1 / power), torch.zeros_like(sums))


@operator("LpPool")
def _lp_pool(node: Node) -> Function:
    window, power = Window.from_node(node, node.attribute("kernel_shape")), node.attribute("p", 2)
    return lambda x: _root(_window_sums(x.abs().pow(power), window), power)


@operator("GlobalAveragePool")
def _global_average(_: Node) -> Function:
    return lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def _global_max(_: Node) -> Function:
    return lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def _global_lp(node: Node) -> Function:
    power = node.attribute("p", 2)
    return lambda x: _root(x.abs().pow(power).sum(tuple(range(2, x.ndim)), keepdim=True), power)

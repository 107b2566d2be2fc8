"""Resize and Upsample, one axis after the other: each output element is a weighted sum of a few inputs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator

Coordinates = NDArray[np.float32]


@dataclass(frozen=True)
class Scheme:
    """How elements are placed and weighted.

    Attributes:
        mode: ``nearest``, ``linear`` or ``cubic``.
        transformation: How an output's place becomes a place in the input, as ONNX names it.
        rounding: For ``nearest``, which neighbour is taken.
        antialias: Whether shrinking widens the filter.
        exclude: Whether weights beyond the edge are dropped, instead of counting for the edge.
        coefficient: Of the cubic filter.
    """

    mode: str
    transformation: str
    rounding: str = "round_prefer_floor"
    antialias: bool = False
    exclude: bool = False
    coefficient: float = -0.75


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor to resize: sizes, scale, and the part of it that counts."""

    index: int
    size: int
    target: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def _places(axis: Axis, scheme: Scheme) -> Coordinates:
    """Where each output element lies in the input; in float32 throughout, as in ONNX Runtime."""
    one = np.float32
    x, scale = np.arange(axis.target, dtype=one), one(axis.scale)
    half = one(0.5)
    if scheme.transformation == "asymmetric":
        return x / scale
    if scheme.transformation == "align_corners":
        return x * one(axis.size - 1) / one(axis.target - 1) if axis.target > 1 else x * 0
    if scheme.transformation == "tf_half_pixel_for_nn":
        return (x + half) / scale
    if scheme.transformation == "pytorch_half_pixel" and axis.target == 1:
        return x * 0
    if scheme.transformation == "half_pixel_symmetric":
        whole = one(axis.size) / 2
        offset = whole * (1 - one(axis.target) / (scale * one(axis.size)))
        return np.asarray(offset + (x + half) / scale - half, one)
    if scheme.transformation == "tf_crop_and_resize":
        first, last = one(axis.start) * one(axis.size - 1), one(axis.end) * one(axis.size - 1)
        if axis.target == 1:
            return np.asarray([(first + last) / 2], one)
        return np.asarray(first + x * (last - first) / one(axis.target - 1), one)
    return (x + half) / scale - half


def _nearest(axis: Axis, scheme: Scheme) -> NDArray[np.int64]:
    places = _places(axis, scheme)
    if scheme.rounding == "simple":
        chosen = np.ceil(places) if axis.scale < 1 else np.floor(places)
    elif scheme.rounding == "round_prefer_floor":
        chosen = np.ceil(places - np.float32(0.5))
    elif scheme.rounding == "round_prefer_ceil":
        chosen = np.floor(places + np.float32(0.5))
    else:
        chosen = np.floor(places) if scheme.rounding == "floor" else np.ceil(places)
    return np.clip(chosen, 0, axis.size - 1).astype(np.int64)


def _triangle(distance: NDArray[np.float64], _: float) -> NDArray[np.float64]:
    return np.clip(1 - np.abs(distance), 0, None)


def _cubic(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    d = np.abs(distance)
    inner = (a + 2) * d**3 - (a + 3) * d**2 + 1
    outer = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0))


_FILTERS: dict[str, tuple[Callable[[NDArray[np.float64], float], NDArray[np.float64]], int]] = {
    "linear": (_triangle, 1),
    "cubic": (_cubic, 2),
}


def _weights(axis: Axis, scheme: Scheme) -> NDArray[np.float64]:
    """The matrix, outputs by inputs, that resizes the axis."""
    kernel, reach = _FILTERS[scheme.mode]
    places = _places(axis, scheme).astype(np.float64)
    if scheme.mode == "linear" and not scheme.antialias:
        places = np.clip(places, 0, axis.size - 1)
    squeeze = min(axis.scale, 1.0) if scheme.antialias else 1.0
    radius = math.ceil(reach / squeeze)
    offsets = np.arange(-radius, radius + 2)
    taps = np.floor(places)[:, None] + offsets
    weights = kernel((taps - places[:, None]) * squeeze, scheme.coefficient)
    if scheme.exclude:
        weights = np.where((taps >= 0) & (taps < axis.size), weights, 0)
    if scheme.exclude or scheme.antialias:
        total = weights.sum(1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
    matrix = np.zeros((axis.target, axis.size))
    columns = np.clip(taps, 0, axis.size - 1).astype(np.int64)
    np.add.at(matrix, (np.arange(axis.target)[:, None], columns), weights)
    return matrix


@functools.lru_cache(maxsize=256)
def _chosen(axis: Axis, scheme: Scheme) -> Tensor:
    return torch.from_numpy(_nearest(axis, scheme))


@functools.lru_cache(maxsize=256)
def _matrix(axis: Axis, scheme: Scheme) -> Tensor:
    return torch.from_numpy(_weights(axis, scheme))


def _native(x: Tensor, axes: Sequence[Axis], scheme: Scheme) -> Tensor | None:
    """Interpolation by torch itself, where it does the same."""
    if x.ndim != 4 or not x.is_floating_point() or not all(axis.index >= 2 for axis in axes):
        return None
    sizes = [2, *x.shape[2:]]
    for axis in axes:
        sizes[axis.index - 1] = axis.target
    if scheme.mode == "nearest":
        for axis in axes:
            usual = torch.arange(axis.target) * axis.size // axis.target
            if axis.target % axis.size or not torch.equal(_chosen(axis, scheme), usual):
                return None
        return functional.interpolate(x, sizes[1:], mode="nearest")
    corners = scheme.transformation == "align_corners"
    plain = corners or scheme.transformation in ("half_pixel", "pytorch_half_pixel")
    if scheme.mode != "linear" or scheme.antialias or scheme.exclude or not plain:
        return None
    if any(axis.target == 1 or not math.isclose(axis.scale * axis.size, axis.target) for axis in axes):
        return None
    return functional.interpolate(x, sizes[1:], mode="bilinear", align_corners=corners)


def resize(x: Tensor, axes: Sequence[Axis], scheme: Scheme, outside: float = 0.0) -> Tensor:
    """Resizes a tensor.

    Args:
        x: Any shape and element type; whole numbers are rounded towards zero.
        axes: What to do along which axes; axes that don't change are left out.
        scheme: How.
        outside: What lies beyond the input, with ``tf_crop_and_resize``.
    """
    crops = scheme.transformation == "tf_crop_and_resize"
    axes = [axis for axis in axes if crops or axis.target != axis.size or axis.scale != 1]
    result = _native(x, axes, scheme)
    if result is None:
        result = x
        for axis in axes:
            if scheme.mode == "nearest":
                result = result.index_select(axis.index, _chosen(axis, scheme).to(x.device))
            else:
                wide = result if result.is_floating_point() else result.to(torch.float32)
                matrix = _matrix(axis, scheme).to(device=x.device, dtype=wide.dtype)
                result = torch.matmul(wide.movedim(axis.index, -1), matrix.t()).movedim(-1, axis.index)
        result = result.to(x.dtype)
    if crops:
        for axis in axes:
            places = _places(axis, scheme)
            beyond = torch.from_numpy((places < 0) | (places > axis.size - 1)).to(x.device)
            shape = [-1 if index == axis.index else 1 for index in range(x.ndim)]
            result = result.masked_fill(beyond.reshape(shape), outside)
    return result


def _plan(
    shape: Sequence[int],
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    along: Sequence[int],
    policy: str,
    regions: Sequence[float] | None = None,
) -> list[Axis]:
    if scales is not None and len(scales):
        targets = [
            math.floor(np.float32(shape[axis]) * np.float32(scale))
            for axis, scale in zip(along, scales, strict=True)
        ]
    else:
        targets = list(sizes or ())
        scales = [
            float(np.float32(size) / np.float32(shape[axis]))
            for axis, size in zip(along, targets, strict=True)
        ]
        if policy != "stretch":
            common = min(scales) if policy == "not_larger" else max(scales)
            scales = [common] * len(targets)
            targets = [math.floor(common * shape[axis] + 0.5) for axis in along]
    ends = list(regions) if regions is not None and len(regions) else [0.0] * len(along) + [1.0] * len(along)
    return [
        Axis(axis, shape[axis], target, scale, ends[place], ends[place + len(along)])
        for place, (axis, target, scale) in enumerate(zip(along, targets, scales, strict=True))
    ]


@operator("Resize", since=11)
def _resize(node: Node) -> Function:
    scheme = Scheme(
        node.attribute("mode", "nearest"),
        node.attribute("coordinate_transformation_mode", "half_pixel"),
        node.attribute("nearest_mode", "round_prefer_floor"),
        bool(node.attribute("antialias", 0)),
        bool(node.attribute("exclude_outside", 0)),
        node.attribute("cubic_coeff_a", -0.75),
    )
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    outside, axes = node.attribute("extrapolation_value", 0.0), node.attribute("axes")

    def apply(
        x: Tensor, regions: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
    ) -> Tensor:
        along = range(x.ndim) if axes is None else [axis % x.ndim for axis in axes]
        lists = [None if item is None else item.tolist() for item in (scales, sizes, regions)]
        return resize(x, _plan(x.shape, lists[0], lists[1], along, policy, lists[2]), scheme, outside)

    return apply


def _upsampler(node: Node, known: Sequence[float] | None) -> Function:
    mode = node.attribute("mode", "nearest")
    scheme = Scheme("linear" if mode in ("linear", "bilinear") else mode, "asymmetric", "simple")

    def apply(x: Tensor, scales: Tensor | None = None) -> Tensor:
        factors = known if scales is None else scales.tolist()
        return resize(x, _plan(x.shape, factors, None, range(x.ndim), "stretch"), scheme)

    return apply


@operator("Upsample")
def _upsample_attribute(node: Node) -> Function:
    scales = node.attribute("scales")
    if scales is None:
        scales = [1.0, 1.0, node.attribute("height_scale", 1.0), node.attribute("width_scale", 1.0)]
    return _upsampler(node, scales)


@operator("Upsample", since=9)
@operator("Resize", since=10)
def _upsample_input(node: Node) -> Function:
    return _upsampler(node, None)

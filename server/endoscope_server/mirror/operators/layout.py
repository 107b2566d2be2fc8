"""The same elements in another shape or order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator


@operator("Identity")
def _identity(_: Node) -> Function:
    return lambda x: x


@operator("Reshape", since=5)
def _reshape(node: Node) -> Function:
    keep_zero = bool(node.attribute("allowzero", 0))
    known = node.ints(1)

    def resolve(x: Tensor, shape: Sequence[int]) -> list[int]:
        return [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]

    if known is not None:
        if keep_zero or 0 not in known:
            return lambda x, _: x.reshape(known)
        return lambda x, _: x.reshape(resolve(x, known))
    if keep_zero:
        return lambda x, shape: x.reshape(shape.tolist())
    return lambda x, shape: x.reshape(resolve(x, shape.tolist()))


@operator("Transpose")
def _transpose(node: Node) -> Function:
    order = node.attribute("perm")
    if order is None:
        return lambda x: x.permute(*reversed(range(x.ndim)))
    return lambda x: x.permute(order)


@operator("Flatten")
def _flatten(node: Node) -> Function:
    axis = node.attribute("axis", 1)

    def apply(x: Tensor) -> Tensor:
        rows = 1
        for size in x.shape[: axis if axis >= 0 else axis + x.ndim]:
            rows *= size
        return x.reshape(rows, -1) if x.numel() else x.reshape(rows, x.numel() // max(rows, 1))

    return apply


def _squeeze(x: Tensor, axes: Sequence[int] | None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operator("Squeeze")
def _squeeze_attribute(node: Node) -> Function:
    axes = node.attribute("axes")
    return lambda x: _squeeze(x, axes)


@operator("Squeeze", since=13)
def _squeeze_input(node: Node) -> Function:
    known = node.ints(1)
    if known is not None or not node.given(1):
        return lambda x, _=None: _squeeze(x, known)
    return lambda x, axes: _squeeze(x, axes.tolist())


def _unsqueeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Unsqueeze")
def _unsqueeze_attribute(node: Node) -> Function:
    axes = node.attribute("axes")
    return lambda x: _unsqueeze(x, axes)


@operator("Unsqueeze", since=13)
def _unsqueeze_input(node: Node) -> Function:
    known = node.ints(1)
    if known is not None:
        return lambda x, _: _unsqueeze(x, known)
    return lambda x, axes: _unsqueeze(x, axes.reshape(-1).tolist())


@operator("Expand")
def _expand(node: Node) -> Function:
    known = node.ints(1)

    def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))

    if known is not None:
        return lambda x, _: expand(x, known)
    return lambda x, shape: expand(x, shape.tolist())


@operator("DepthToSpace")
def _depth_to_space(node: Node) -> Function:
    block, columns_first = node.attribute("blocksize"), node.attribute("mode", "DCR") == "CRD"

    def apply(x: Tensor) -> Any:
        batch, depth, height, width = x.shape
        if columns_first:
            parts = x.reshape(batch, depth // block**2, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
        else:
            parts = x.reshape(batch, block, block, depth // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(batch, depth // block**2, height * block, width * block)

    return apply


@operator("SpaceToDepth")
def _space_to_depth(node: Node) -> Function:
    block, columns_first = node.attribute("blocksize"), node.attribute("mode", "DCR") == "CRD"
    order = (0, 1, 3, 5, 2, 4) if columns_first else (0, 3, 5, 1, 2, 4)

    def apply(x: Tensor) -> Any:
        batch, depth, height, width = x.shape
        parts = x.reshape(batch, depth, height // block, block, width // block, block)
        return parts.permute(order).reshape(batch, depth * block**2, height // block, width // block)

    return apply

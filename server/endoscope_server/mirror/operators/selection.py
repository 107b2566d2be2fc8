"""Searching and ordering: extremes' places, the largest elements, what is not zero, one-hot vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import UNSIGNED, to_numpy


@operator("ArgMax", "ArgMin")
def _extreme_place(node: Node) -> Function:
    axis, keep = node.attribute("axis", 0), bool(node.attribute("keepdims", 1))
    last = bool(node.attribute("select_last_index", 0))
    sign = 1 if node.op_type == "ArgMax" else -1

    def apply(x: Tensor) -> Tensor:
        ordered = x if x.is_floating_point() else x.to(torch.int64)
        values = ordered.flip(axis) if last else ordered
        # torch promises no order among equals, except through max with its first index on the CPU.
        extreme = values.amax(axis, keepdim=True) if sign > 0 else values.amin(axis, keepdim=True)
        place = (values == extreme).to(torch.uint8).argmax(axis, keepdim=keep)
        return x.shape[axis] - 1 - place if last else place

    return apply


def _top(x: Tensor, count: int, axis: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The first ones in a stable order, so that of equals the one with the lower index comes first."""
    key = x.to(torch.int64) if x.dtype in UNSIGNED else x
    places = torch.sort(key.detach(), dim=axis, descending=largest, stable=True)[1]
    places = places.narrow(axis, 0, count)
    if x.dtype in UNSIGNED:
        return torch.gather(key, axis, places).to(x.dtype), places
    return torch.gather(x, axis, places), places


@operator("TopK")
def _top_attribute(node: Node) -> Function:
    axis, count = node.attribute("axis", -1), node.attribute("k")
    return lambda x: _top(x, count, axis, largest=True)


@operator("TopK", since=10)
def _top_input(node: Node) -> Function:
    axis, largest = node.attribute("axis", -1), bool(node.attribute("largest", 1))
    return lambda x, count: _top(x, int(count), axis, largest)


@operator("NonZero", dynamic=True)
def _non_zero(_: Node) -> Function:
    # A scalar counts as a vector of one element, as in numpy.
    return lambda x: torch.nonzero(x if x.ndim else x.reshape(1)).t().contiguous()


@operator("Unique", dynamic=True)
def _unique(node: Node) -> Function:
    axis, ordered = node.attribute("axis"), bool(node.attribute("sorted", 1))

    def apply(x: Tensor) -> Any:
        along = 0 if axis is None else axis
        values = x.reshape(-1) if axis is None else x
        array = to_numpy(values)
        _, first, inverse, counts = np.unique(
            array, return_index=True, return_inverse=True, return_counts=True, axis=along
        )
        inverse = inverse.reshape(-1)
        if not ordered:
            order = np.argsort(first)
            rank = np.empty_like(order)
            rank[order] = np.arange(len(order))
            first, inverse, counts = first[order], rank[inverse], counts[order]
        indices = [torch.from_numpy(item.astype(np.int64)).to(x.device) for item in (first, inverse, counts)]
        return values.index_select(along, indices[0]), *indices

    return apply


@operator("OneHot")
def _one_hot(node: Node) -> Function:
    axis = node.attribute("axis", -1)

    def apply(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        count = int(depth.reshape(()))
        places = indices.to(torch.int64)
        # Those out of [-depth, depth) have no one at all.
        places = torch.where(places < 0, places + count, places)
        position = axis if axis >= 0 else axis + indices.ndim + 1
        shape = [1] * (indices.ndim + 1)
        shape[position] = count
        hot = places.unsqueeze(position) == torch.arange(count, device=places.device).reshape(shape)
        off, on = values
        return torch.where(hot, on, off)

    return apply


def _cumulative(node: Node, function: Function, neutral: int) -> Function:
    exclusive, reverse = bool(node.attribute("exclusive", 0)), bool(node.attribute("reverse", 0))

    def apply(x: Tensor, axis: Tensor) -> Tensor:
        along = int(axis)
        if reverse:
            x = x.flip(along)
        result: Tensor = function(x, along, dtype=x.dtype)
        if exclusive:
            first = torch.full_like(x.narrow(along, 0, 1), neutral)
            result = torch.cat([first, result.narrow(along, 0, x.shape[along] - 1)], along)
        return result.flip(along) if reverse else result

    return apply


@operator("CumSum")
def _cumulative_sum(node: Node) -> Function:
    return _cumulative(node, torch.cumsum, 0)


@operator("CumProd")
def _cumulative_product(node: Node) -> Function:
    return _cumulative(node, torch.cumprod, 1)

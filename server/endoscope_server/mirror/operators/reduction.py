"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.sum(axes, keep, dtype=x.dtype)


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.mean(axes, keep) if x.is_floating_point() else x.to(torch.float64).mean(axes, keep).to(x.dtype)


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


def _log_sum_exp(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.logsumexp(x, axes, keep)
    return torch.logsumexp(x.to(torch.float64), axes, keep).to(x.dtype)


def _l2(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    wide = x if x.is_floating_point() else x.to(torch.float64)
    return torch.linalg.vector_norm(wide, 2, axes, keep).to(x.dtype)


def _extreme(largest: bool) -> Reduction:
    def reduce(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
        if any(x.shape[axis] == 0 for axis in axes):
            limits = torch.finfo(x.dtype) if x.is_floating_point() else None
            if x.dtype == torch.bool:
                fill: Any = not largest
            elif limits is not None:
                fill = float("-inf" if largest else "inf")
            else:
                fill = torch.iinfo(x.dtype).min if largest else torch.iinfo(x.dtype).max
            gone = {axis % x.ndim for axis in axes}
            shape = [1 if axis in gone else size for axis, size in enumerate(x.shape)]
            kept = shape if keep else [size for axis, size in enumerate(x.shape) if axis not in gone]
            return x.new_full(kept, fill)
        return x.amax(axes, keep) if largest else x.amin(axes, keep)

    return reduce


# For each operator what happens to each element first, and the reduction.
_REDUCTIONS: dict[str, tuple[Function | None, Reduction]] = {
    "ReduceSum": (None, _sum),
    "ReduceMean": (None, _mean),
    "ReduceMax": (None, _extreme(largest=True)),
    "ReduceMin": (None, _extreme(largest=False)),
    "ReduceProd": (None, _product),
    "ReduceL1": (torch.abs, _sum),
    "ReduceL2": (None, _l2),
    "ReduceLogSum": (None, lambda x, axes, keep: torch.log(_sum(x, axes, keep)).to(x.dtype)),
    "ReduceLogSumExp": (None, _log_sum_exp),
    "ReduceSumSquare": (torch.square, _sum),
}
# What is left of each when there are no axes and noop_with_empty_axes says to leave the shape alone.
_ALONE: dict[str, Function] = {
    "ReduceL1": torch.abs,
    "ReduceL2": torch.abs,
    "ReduceLogSum": torch.log,
    "ReduceSumSquare": torch.square,
}


def _reducer(node: Node) -> Callable[[Tensor, Sequence[int] | None], Tensor]:
    before, reduction = _REDUCTIONS[node.op_type]
    keep = bool(node.attribute("keepdims", 1))
    leave = bool(node.attribute("noop_with_empty_axes", 0))
    alone = _ALONE.get(node.op_type, torch.clone)

    def apply(x: Tensor, axes: Sequence[int] | None) -> Tensor:
        if not axes:
            if leave:
                return alone(x).to(x.dtype)
            axes = range(x.ndim)
        if x.ndim == 0:
            return reduction((before(x) if before else x).reshape(1), (0,), False)
        return reduction(before(x) if before else x, tuple(axes), keep)

    return apply


def _reduce_attribute(node: Node) -> Function:
    reduce, axes = _reducer(node), node.attribute("axes")
    return lambda x: reduce(x, axes)


def _reduce_input(node: Node) -> Function:
    reduce, known = _reducer(node), node.ints(1)
    if known is not None or not node.given(1):
        return lambda x, _=None: reduce(x, known)
    return lambda x, axes: reduce(x, axes.reshape(-1).tolist())


operator(*_REDUCTIONS)(_reduce_attribute)
operator("ReduceSum", since=13)(_reduce_input)
operator(*(name for name in _REDUCTIONS if name != "ReduceSum"), since=18)(_reduce_input)

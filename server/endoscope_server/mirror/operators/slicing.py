"""Taking tensors apart, putting them together, padding and repeating them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator


def _slice(
    x: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None,
    steps: Sequence[int] | None,
) -> Tensor:
    for index, start in enumerate(starts):
        axis = (axes[index] if axes is not None else index) % x.ndim
        step = steps[index] if steps is not None else 1
        size, end = x.shape[axis], ends[index]
        if step > 0:
            first, last, _ = slice(start, end, step).indices(size)
            x = (
                x.narrow(axis, first, max(last - first, 0))
                if step == 1
                else _strided(x, axis, first, last, step)
            )
        else:
            if end < -size:
                end = -size - 1
            places = range(*slice(start, end, step).indices(size))
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
    return x


def _strided(x: Tensor, axis: int, first: int, last: int, step: int) -> Tensor:
    return x[(slice(None),) * axis + (slice(first, max(last, first), step),)]


@operator("Slice")
def _slice_attributes(node: Node) -> Function:
    starts, ends, axes = node.attribute("starts"), node.attribute("ends"), node.attribute("axes")
    return lambda x: _slice(x, starts, ends, axes, None)


@operator("Slice", since=10)
def _slice_inputs(node: Node) -> Function:
    known = [node.ints(index) for index in range(1, 5)]
    if all(value is not None or not node.given(index) for index, value in enumerate(known, 1)):
        starts, ends, axes, steps = known
        return lambda x, *_: _slice(x, starts or [], ends or [], axes, steps)

    def apply(x: Tensor, *bounds: Tensor | None) -> Tensor:
        lists = [None if item is None else item.reshape(-1).tolist() for item in bounds]
        starts, ends, axes, steps = lists + [None] * (4 - len(lists))
        return _slice(x, starts or [], ends or [], axes, steps)

    return apply


@operator("Split")
def _split_attribute(node: Node) -> Function:
    return _splitter(node, node.attribute("split"))


@operator("Split", since=13)
def _split_input(node: Node) -> Function:
    known = node.ints(1)
    if known is not None or not node.given(1):
        return _splitter(node, known)
    axis = node.attribute("axis", 0)
    return lambda x, sizes: torch.split(x, sizes.tolist(), axis)


def _splitter(node: Node, sizes: list[int] | None) -> Function:
    axis, count = node.attribute("axis", 0), node.attribute("num_outputs") or len(node.outputs)

    def apply(x: Tensor, _: Any = None) -> Any:
        if sizes is not None:
            return torch.split(x, sizes, axis)
        size = x.shape[axis]
        chunk = -(-size // count)
        return torch.split(x, [max(min(chunk, size - index * chunk), 0) for index in range(count)], axis)

    return apply


@operator("Concat")
def _concat(node: Node) -> Function:
    axis = node.attribute("axis", 1)
    return lambda *values: torch.cat(values, axis)


@operator("Tile", since=6)
def _tile(node: Node) -> Function:
    known = node.ints(1)
    if known is not None:
        return lambda x, _: x.repeat(known)
    return lambda x, repeats: x.repeat(repeats.tolist())


def _place(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """One axis padded by copies of its own elements."""
    size = x.shape[axis]
    places = torch.arange(-before, size + after, device=x.device)
    if mode == "edge":
        places = places.clamp(0, size - 1)
    elif mode == "wrap":
        places = places % size
    else:
        period = max(2 * (size - 1), 1)
        places = places % period
        places = torch.where(places >= size, period - places, places)
    return x.index_select(axis, places)


def _pad(x: Tensor, pads: Sequence[int], axes: Sequence[int] | None, mode: str, value: Any) -> Tensor:
    count = len(pads) // 2
    pairs = [(0, 0)] * x.ndim
    for index in range(count):
        axis = (axes[index] if axes is not None else index) % x.ndim
        pairs[axis] = (pads[index], pads[index + count])
    if mode == "constant":
        return functional.pad(x, [item for pair in reversed(pairs) for item in pair], value=value)
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            x = _place(x, axis, before, after, mode)
    return x


@operator("Pad")
def _pad_attributes(node: Node) -> Function:
    pads, mode, value = (
        node.attribute("pads"),
        node.attribute("mode", "constant"),
        node.attribute("value", 0.0),
    )
    return lambda x: _pad(x, pads, None, mode, value)


@operator("Pad", since=11)
def _pad_inputs(node: Node) -> Function:
    mode, pads, axes, value = node.attribute("mode", "constant"), node.ints(1), node.ints(3), node.known(2)

    def scalar(fill: Any) -> Any:
        return 0 if fill is None or fill.numel() == 0 else fill.item()

    if (
        pads is not None
        and (axes is not None or not node.given(3))
        and (value is not None or not node.given(2))
    ):
        fill = scalar(value)
        return lambda x, *_: _pad(x, pads, axes, mode, fill)

    def apply(x: Tensor, amounts: Tensor, fill: Tensor | None = None, along: Tensor | None = None) -> Tensor:
        return _pad(x, amounts.tolist(), None if along is None else along.tolist(), mode, scalar(fill))

    return apply


@operator("Trilu")
def _triangle(node: Node) -> Function:
    cut = torch.triu if node.attribute("upper", 1) else torch.tril
    return lambda x, k=None: cut(x, 0 if k is None else int(k))

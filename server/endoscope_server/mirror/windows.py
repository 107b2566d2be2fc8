"""Windows over spatial axes: what ONNX's auto_pad, pads and ceil_mode mean, shared by conv and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from endoscope_server.mirror.node import Node


def spatial(node: Node, name: str, rank: int, default: int = 1) -> tuple[int, ...]:
    """An attribute with a number for each spatial axis."""
    value = node.attribute(name)
    return tuple(value) if value else (default,) * rank


def padding(
    node: Node,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The padding before and after each spatial axis.

    Args:
        node: A node with ``auto_pad`` or ``pads``.
        size: The input's spatial size.
        kernel: Kernel size.
        strides: Strides.
        dilations: Dilations.
    """
    mode, rank = node.attribute("auto_pad", "NOTSET"), len(kernel)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for length, width, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
            total = max((math.ceil(length / stride) - 1) * stride + (width - 1) * dilation + 1 - length, 0)
            small = total // 2
            before.append(small if mode == "SAME_UPPER" else total - small)
            after.append(total - before[-1])
        return tuple(before), tuple(after)
    pads = node.attribute("pads") if mode == "NOTSET" else None
    pads = pads or [0] * (2 * rank)
    return tuple(pads[:rank]), tuple(pads[rank:])


def torch_pads(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """The same as ``torch.nn.functional.pad`` wants it: last axis first, pairs."""
    return [item for pair in zip(reversed(before), reversed(after), strict=True) for item in pair]

"""Convolutions: plain, transposed, deformable."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.spatial import Window, for_pad, symmetric

_CONVOLUTIONS: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Any] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def kernel_of(node: Node, index: int = 1) -> tuple[int, ...] | None:
    """The kernel's spatial sizes, from the attribute or else the weight; None if neither is known yet.

    Raises:
        Unsupported: if the kernel has more than three axes.
    """
    weight = node.known(index)
    kernel = node.attribute("kernel_shape") or (
        list(weight.shape[2:]) if isinstance(weight, Tensor) else None
    )
    if kernel is None:
        return None
    if not 1 <= len(kernel) <= 3:
        raise node.unsupported(f"its kernel has {len(kernel)} axes, expected 1 to 3")
    return tuple(kernel)


def with_window(node: Node, make: Callable[[Window], Function], index: int = 1) -> Function:
    """What ``make`` makes of the node's window: now if the kernel is known, else when the weight comes.

    Args:
        node: The node.
        make: Makes the callable.
        index: The input that is the weight.
    """
    kernel = kernel_of(node, index)
    if kernel is not None:
        return make(Window.from_node(node, kernel))
    by_kernel = functools.cache(lambda sizes: make(Window.from_node(node, sizes)))
    return lambda *values: by_kernel(tuple(values[index].shape[2:]))(*values)


@operator("Conv")
def _convolution(node: Node) -> Function:
    return with_window(node, lambda window: convolution(window, node.attribute("group", 1)))


def convolution(window: Window, groups: int) -> Function:
    """A function of input, weight and bias; see the ONNX operator Conv."""
    convolve = _CONVOLUTIONS[len(window.kernel)]
    strides, dilations = window.strides, window.dilations
    if window.fixed and (padding := symmetric(window.padding(()))) is not None:

        def fixed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
            return convolve(x, weight, bias, strides, padding, dilations, groups)

        return fixed

    def padded(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        pads = window.padding(x.shape[2:])
        equal = symmetric(pads)
        if equal is None:
            x, equal = functional.pad(x, for_pad(pads)), (0,) * len(pads)
        return convolve(x, weight, bias, strides, equal, dilations, groups)

    return padded


@operator("ConvTranspose")
def _transposed(node: Node) -> Function:
    return with_window(node, lambda window: _transposed_convolution(node, window))


def _transposed_convolution(node: Node, window: Window) -> Function:
    rank, groups = len(window.kernel), node.attribute("group", 1)
    convolve = _TRANSPOSED[rank]
    extra = tuple(node.attribute("output_padding") or [0] * rank)
    wanted = node.attribute("output_shape")
    strides, dilations = window.strides, window.dilations
    padding = symmetric(window.padding(())) if window.fixed and not wanted else None
    if padding is not None and all(
        more < max(a, b) for more, a, b in zip(extra, strides, dilations, strict=True)
    ):

        def fixed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
            return convolve(x, weight, bias, strides, padding, extra, groups, dilations)

        return fixed

    def cropped(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        full = convolve(x, weight, None, strides, 0, 0, groups, dilations)
        pads = []
        for axis, size in enumerate(x.shape[2:]):
            before, after = window.pads[axis]
            if wanted or not window.fixed:
                target = wanted[-rank + axis] if wanted else size * strides[axis]
                total = full.shape[2 + axis] + extra[axis] - target
                before = total // 2 if window.auto_pad != "SAME_LOWER" else total - total // 2
                if total < 0:
                    before = 0
                after = total - before
            pads.append((-before, extra[axis] - after))
        result = functional.pad(full, for_pad(tuple(pads)))
        return result if bias is None else result + bias.reshape(-1, *[1] * rank)

    return cropped


@operator("DeformConv")
def _deformable(node: Node) -> Function:
    return with_window(node, lambda window: _deformable_convolution(node, window))


def _deformable_convolution(node: Node, window: Window) -> Function:
    if len(window.kernel) != 2:
        raise node.unsupported(f"its kernel has {len(window.kernel)} axes, expected 2")
    groups, offset_groups = node.attribute("group", 1), node.attribute("offset_group", 1)
    (height, width), (row_step, column_step) = window.kernel, window.strides
    taps = height * width
    rows = torch.arange(height).mul(window.dilations[0]).repeat_interleave(width)
    columns = torch.arange(width).mul(window.dilations[1]).repeat(height)

    def apply(
        x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        (top, _), (left, _) = window.padding(x.shape[2:])
        batch, channels, input_height, input_width = x.shape
        out_height, out_width = offset.shape[2:]
        shifts = offset.reshape(batch * offset_groups, taps, 2, out_height, out_width)
        options: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
        first = torch.arange(out_height, **options).mul(row_step).sub(top).view(1, 1, -1, 1)
        across = torch.arange(out_width, **options).mul(column_step).sub(left).view(1, 1, 1, -1)
        vertical = shifts[:, :, 0] + first + rows.to(**options).view(1, -1, 1, 1)
        horizontal = shifts[:, :, 1] + across + columns.to(**options).view(1, -1, 1, 1)
        grid = torch.stack(
            [(2 * horizontal + 1) / input_width - 1, (2 * vertical + 1) / input_height - 1], dim=-1
        ).flatten(1, 2)
        sampled = functional.grid_sample(
            x.reshape(batch * offset_groups, -1, input_height, input_width), grid, align_corners=False
        ).unflatten(2, (taps, out_height))
        if mask is not None:
            sampled = sampled * mask.reshape(batch * offset_groups, 1, taps, out_height, out_width)
        patches = sampled.reshape(batch, groups, channels // groups * taps, out_height * out_width)
        kernels = weight.reshape(groups, weight.shape[0] // groups, -1)
        result = torch.matmul(kernels, patches).reshape(batch, -1, out_height, out_width)
        return result if bias is None else result + bias.view(-1, 1, 1)

    return apply

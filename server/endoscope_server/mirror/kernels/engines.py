"""Ways to compute a convolution with frozen weights and the gradient of its input.

In float32 on a CPU, oneDNN computes them channels last, from weights packed once for each direction: the
gradient is a convolution too, with the kernel turned round. Everywhere else torch's own operators compute the
same.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.kernels import onednn
from endoscope_server.mirror.kernels.base import added
from endoscope_server.mirror.kernels.weights import Weights
from endoscope_server.mirror.spatial import Window, for_pad, symmetric

_LAST = torch.channels_last
_CONVOLUTIONS: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
# With fewer channels most lanes of oneDNN's transposed convolution are idle.
_FEW_CHANNELS = 4


def fastest(weights: Weights, window: Window, groups: int) -> Engine | None:
    """The engine for float32 on a CPU; None if there is none of its own."""
    if len(window.kernel) != 2 or weights.dtype != torch.float32 or not onednn.available:
        return None
    if groups == 1 and window.kernel == (1, 1) and not any(map(any, window.padding((1, 1)))):
        return Pointwise(weights, window, groups)
    return Packed(weights, window, groups)


class Engine:
    """Convolutions by torch's own operators: of any rank, type and device.

    Args:
        weights: Weights and bias.
        window: Strides, dilations and padding.
        groups: In how many groups the channels fall.
    """

    def __init__(self, weights: Weights, window: Window, groups: int) -> None:
        self.weights, self.window, self.groups = weights, window, groups

    def forward(self, x: Tensor, other: Tensor | None, post: onednn.Post | None) -> tuple[Tensor, bool]:
        """The convolution.

        Args:
            x: The input.
            other: What is added to the result.
            post: The function that follows.

        Returns:
            The result in memory of its own, and whether ``post`` has been applied.
        """
        del post
        x, padding = self._padded(x)
        y = _CONVOLUTIONS[len(padding)](
            x,
            self.weights.folded,
            self.weights.bias,
            self.window.strides,
            padding,
            self.window.dilations,
            self.groups,
        )
        return added(y, other), False

    def backward(self, gradient: Tensor, shape: Sequence[int], partial: Tensor | None) -> Tensor:
        """The gradient of the input, in memory of its own.

        Args:
            gradient: Of the result; only read.
            shape: Of the input.
            partial: What the gradient is added to; may be written into.
        """
        pads = self.window.padding(shape[2:])
        padding = symmetric(pads)
        if padding is not None:
            return self._backward(gradient, shape, padding, partial)
        sizes = [size + sum(pair) for size, pair in zip(shape[2:], pads, strict=True)]
        result = self._backward(gradient, [*shape[:2], *sizes], (0,) * len(pads), None)
        for axis, (before, _) in enumerate(pads):
            result = result.narrow(2 + axis, before, shape[2 + axis])
        return added(result, partial)

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The input, padded where its ends differ, and the padding that is left to the convolution."""
        pads = self.window.padding(x.shape[2:])
        padding = symmetric(pads)
        if padding is not None:
            return x, padding
        return functional.pad(x, for_pad(pads)), (0,) * len(pads)

    def _backward(
        self, gradient: Tensor, shape: Sequence[int], padding: tuple[int, ...], partial: Tensor | None
    ) -> Tensor:
        """The gradient of an input that is padded alike at both ends."""
        result: Tensor = torch.ops.aten.convolution_backward(
            gradient,
            gradient.new_empty(1).expand(shape),  # of the input only the shape counts
            self.weights.folded,
            None,
            self.window.strides,
            padding,
            self.window.dilations,
            False,
            [0] * len(padding),
            self.groups,
            [True, False, False],
        )[0]
        return added(result, partial)


class Pointwise(Engine):
    """1x1 convolutions as products of matrices: one copy of the weights serves both directions."""

    def __init__(self, weights: Weights, window: Window, groups: int) -> None:
        super().__init__(weights, window, groups)
        self._steps = None if window.strides == (1, 1) else window.strides

    @functools.cached_property
    def _matrix(self) -> Tensor:
        return self.weights.folded.flatten(1)

    @functools.cached_property
    def _turned(self) -> Tensor:
        return self._matrix.t()

    def forward(self, x: Tensor, other: Tensor | None, post: onednn.Post | None) -> tuple[Tensor, bool]:
        """See :meth:`Engine.forward`."""
        if self._steps is not None:
            x = x[:, :, :: self._steps[0], :: self._steps[1]]
        rows = x.contiguous(memory_format=_LAST).permute(0, 2, 3, 1)
        if other is None:
            y = onednn.linear(rows, self._matrix, self.weights.bias, *(post or onednn.NOTHING))
            return y.permute(0, 3, 1, 2), post is not None
        if other.shape[1] == self.weights.shape[0] and other.shape[2:] == x.shape[2:]:
            other = other.permute(0, 2, 3, 1)
            if other.is_contiguous() and other.shape[0] == x.shape[0]:
                y = onednn.linear_binary(rows, other, self._matrix, self.weights.bias, "add")
                return y.permute(0, 3, 1, 2), False
            other = other.permute(0, 3, 1, 2)
        y = onednn.linear(rows, self._matrix, self.weights.bias, *onednn.NOTHING)
        return added(y.permute(0, 3, 1, 2), other), False

    def backward(self, gradient: Tensor, shape: Sequence[int], partial: Tensor | None) -> Tensor:
        """See :meth:`Engine.backward`."""
        rows = gradient.contiguous(memory_format=_LAST).permute(0, 2, 3, 1)
        if self._steps is None and partial is not None:
            into = partial.permute(0, 2, 3, 1)
            if into.is_contiguous():
                y: Tensor = onednn.linear_binary(rows, into, self._turned, None, "add")
                return y.permute(0, 3, 1, 2)
        y = onednn.linear(rows, self._turned, None, *onednn.NOTHING).permute(0, 3, 1, 2)
        if self._steps is None:
            return added(y, partial)
        if partial is None:
            partial = torch.empty(tuple(shape), dtype=y.dtype, memory_format=_LAST).zero_()
        partial[:, :, :: self._steps[0], :: self._steps[1]].add_(y)
        return partial


class Packed(Engine):
    """Convolutions over two axes in oneDNN."""

    def __init__(self, weights: Weights, window: Window, groups: int) -> None:
        super().__init__(weights, window, groups)
        self._weight: Tensor | None = None
        self._turned: tuple[Any, ...] | None = None

    def forward(self, x: Tensor, other: Tensor | None, post: onednn.Post | None) -> tuple[Tensor, bool]:
        """See :meth:`Engine.forward`."""
        x, padding = self._padded(x)
        window, groups, bias = self.window, self.groups, self.weights.bias
        weight = self._weight
        if weight is None:
            weight = self._weight = onednn.pack(
                self.weights.fold(), padding, window.strides, window.dilations, groups, list(x.shape)
            )
        options = (weight, bias, padding, window.strides, window.dilations, groups)
        if other is None:
            return onednn.convolution(x, *options, *(post or onednn.NOTHING)), post is not None
        if other.is_contiguous(memory_format=_LAST) and self._fits(other, x, padding):
            rectify = post is not None and post[0] == "relu"
            y = onednn.convolution_binary(
                x, other, *options, "add", 1.0, "relu" if rectify else None, [], None
            )
            return y, rectify
        return added(onednn.convolution(x, *options, *onednn.NOTHING), other), False

    def _fits(self, other: Tensor, x: Tensor, padding: tuple[int, ...]) -> bool:
        """Whether ``other`` has the result's shape."""
        sizes = [
            (size + 2 * pad - extent) // stride + 1
            for size, pad, extent, stride in zip(
                x.shape[2:], padding, self.window.extents, self.window.strides, strict=True
            )
        ]
        return other.shape == (x.shape[0], self.weights.shape[0], *sizes)

    def _backward(
        self, gradient: Tensor, shape: Sequence[int], padding: tuple[int, ...], partial: Tensor | None
    ) -> Tensor:
        window = self.window
        rest = [extent - 1 - pad for extent, pad in zip(window.extents, padding, strict=True)]
        if window.strides == (1, 1) and min(rest) >= 0:
            return self._by_convolution(gradient, rest, partial)
        stride = window.strides[0]
        if (
            self.groups == 1
            and self.weights.shape[1] <= _FEW_CHANNELS
            and window.strides == (stride, stride)
            and window.dilations == (1, 1)
        ):
            return added(self._by_phases(gradient, shape, padding, stride), partial)
        return added(self._by_transposition(gradient, shape, padding), partial)

    def _by_convolution(self, gradient: Tensor, padding: list[int], partial: Tensor | None) -> Tensor:
        """Stride 1: the gradient convolved with the kernel turned round."""
        window, groups = self.window, self.groups
        if self._turned is None:
            out, into, *kernel = self.weights.shape
            weight = self.weights.fold().flip(2, 3)
            weight = weight.view(groups, out // groups, into, *kernel).transpose(1, 2)
            weight = weight.reshape(groups * into, out // groups, *kernel)
            packed = onednn.pack(weight, padding, (1, 1), window.dilations, groups, list(gradient.shape))
            self._turned = (packed,)
        options = (self._turned[0], None, padding, (1, 1), window.dilations, groups)
        if partial is not None and partial.is_contiguous(memory_format=_LAST):
            onednn.convolution_binary_(partial, gradient, *options, "add", 1.0, None, [], None)
            return partial
        return added(onednn.convolution(gradient, *options, *onednn.NOTHING), partial)

    def _by_transposition(self, gradient: Tensor, shape: Sequence[int], padding: tuple[int, ...]) -> Tensor:
        window = self.window
        extra = [
            size - ((count - 1) * stride - 2 * pad + extent)
            for size, count, stride, pad, extent in zip(
                shape[2:], gradient.shape[2:], window.strides, padding, window.extents, strict=True
            )
        ]
        if self._turned is None:
            packed = onednn.pack_transposed(
                self.weights.fold(),
                padding,
                extra,
                window.strides,
                window.dilations,
                self.groups,
                list(gradient.shape),
            )
            self._turned = (packed,)
        return onednn.transposed(
            gradient,
            self._turned[0],
            None,
            padding,
            extra,
            window.strides,
            window.dilations,
            self.groups,
            *onednn.NOTHING,
        )

    def _by_phases(
        self, gradient: Tensor, shape: Sequence[int], padding: tuple[int, ...], stride: int
    ) -> Tensor:
        """One convolution for all phases, which are the places of the input modulo the stride.

        Row ``stride * i + a`` of the input meets row ``i + m`` of the gradient through row
        ``a + padding - stride * m`` of the kernel: for all ``a`` together that is a convolution without
        stride, to ``stride`` times ``stride`` as many channels.
        """
        if self._turned is None:
            self._turned = self._pack_phases(gradient, padding, stride)
        packed, firsts, kernel = self._turned
        counts = [-(-size // stride) for size in shape[2:]]
        pads = [
            (-first, count - size + first + extent - 1)
            for first, count, size, extent in zip(firsts, counts, gradient.shape[2:], kernel, strict=True)
        ]
        around = [max(0, *pair) for pair in pads]
        y = onednn.convolution(gradient, packed, None, around, (1, 1), (1, 1), 1, *onednn.NOTHING)
        for axis, count in enumerate(counts):
            y = y.narrow(2 + axis, around[axis] - pads[axis][0], count)
        return functional.pixel_shuffle(y, stride)[:, :, : shape[2], : shape[3]]

    def _pack_phases(
        self, gradient: Tensor, padding: tuple[int, ...], stride: int
    ) -> tuple[Tensor, list[int], tuple[int, ...]]:
        """The weight of :meth:`_by_phases`, its first ``m`` on each axis, and its kernel's size."""
        firsts, places = [], []
        for size, pad in zip(self.window.kernel, padding, strict=True):
            first, last = -((size - 1 - pad) // stride), (stride - 1 + pad) // stride
            steps = torch.arange(first, last + 1)
            places.append(torch.arange(stride).view(-1, 1) + pad - stride * steps)  # phase x step
            firsts.append(first)
        rows, columns = places[0][:, :, None, None], places[1]
        height, width = self.window.kernel
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        weight = self.weights.fold()[:, :, rows.clamp(0, height - 1), columns.clamp(0, width - 1)] * inside
        # output channel, channel, phase, step, phase, step
        weight = weight.permute(1, 2, 4, 0, 3, 5).flatten(0, 2).contiguous()
        packed = onednn.pack(weight, (0, 0), (1, 1), (1, 1), 1, list(gradient.shape))
        return packed, firsts, tuple(weight.shape[2:])

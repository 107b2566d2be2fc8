"""Pooling over windows of two axes, and means over whole axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from endoscope_server.mirror.kernels.base import NOTHING, Gradient, Kernel, Saved

_aten = torch.ops.aten


def _like(gradient: Tensor, layout: Tensor, shape: Sequence[int]) -> Tensor:
    """Stands for an input of which only shape and layout are read."""
    batch, channels, height, width = shape
    strides = (channels * height * width, height * width, width, 1)
    if layout.is_contiguous(memory_format=torch.channels_last):
        strides = (channels * height * width, 1, width * channels, channels)
    return gradient.new_empty_strided((batch, channels, height, width), strides)


class MaxPool(Kernel):
    """The largest element of each window; of equal ones the first gets the gradient."""

    def __init__(
        self,
        kernel: Sequence[int],
        strides: Sequence[int],
        padding: Sequence[int],
        dilations: Sequence[int],
        ceil: bool,
    ) -> None:
        self.kernel, self.strides, self.padding, self.dilations = kernel, strides, padding, dilations
        self._options = (list(kernel), list(strides), list(padding), list(dilations), ceil)

    def result(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The result's shape for an input's."""
        y, _ = _aten.max_pool2d_with_indices(torch.empty(tuple(shape), device="meta"), *self._options)
        return tuple(y.shape)

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        x = inputs[0]
        y, indices = _aten.max_pool2d_with_indices(x, *self._options)
        return y, ((indices,), x.shape) if needs[0] else NOTHING

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del needs, partial
        (indices,), shape = saved
        like = _like(gradient[0], indices, shape)
        return ((_aten.max_pool2d_with_indices_backward(gradient[0], like, *self._options, indices), True),)


class AveragePool(Kernel):
    """The mean of each window."""

    def __init__(
        self,
        kernel: Sequence[int],
        strides: Sequence[int],
        padding: Sequence[int],
        ceil: bool,
        include_padding: bool,
    ) -> None:
        self._options = (list(kernel), list(strides), list(padding), ceil, include_padding, None)

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        x = inputs[0]
        return _aten.avg_pool2d(x, *self._options), ((), x.shape) if needs[0] else NOTHING

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del needs, partial
        like = _like(gradient[0], gradient[0], saved[1])
        return ((_aten.avg_pool2d_backward(gradient[0], like, *self._options), True),)


class Mean(Kernel):
    """The mean over some axes.

    Args:
        axes: Which; all from the third on if None.
        keep: Whether they stay, with size 1.
    """

    def __init__(self, axes: Sequence[int] | None, keep: bool) -> None:
        self.axes, self.keep = axes, keep

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        x = inputs[0]
        axes = range(2, x.dim()) if self.axes is None else self.axes
        y = x.mean(tuple(axes), keepdim=self.keep)
        return y, ((), (x.shape, {axis % x.dim() for axis in axes})) if needs[0] else NOTHING

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del needs, partial
        shape, axes = saved[1]
        kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
        tensor = gradient[0].reshape(kept) / math.prod(shape[axis] for axis in axes)
        return ((tensor.expand(shape), False),)

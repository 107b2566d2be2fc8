"""Tensors joined and reshaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from endoscope_server.mirror.kernels.base import NOTHING, Gradient, Kernel, Saved


class Concatenation(Kernel):
    """Tensors joined along an axis."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        y = torch.cat(list(inputs), self.axis)
        if True not in needs:
            return y, NOTHING
        return y, ((), [value.shape[self.axis] for value in inputs])

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del partial
        parts = gradient[0].split(saved[1], self.axis)
        return [(part, False) if need else None for part, need in zip(parts, needs, strict=True)]


class Reshaping(Kernel):
    """The same elements in another shape.

    Args:
        reshape: Makes the result of the input; differs from it in the shape only.
    """

    def __init__(self, reshape: Callable[[Tensor], Tensor]) -> None:
        self.reshape = reshape

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        x = inputs[0]
        return self.reshape(x), ((), x.shape) if needs[0] else NOTHING

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del needs, partial
        return ((gradient[0].reshape(saved[1]), gradient[1]),)


class Permutation(Kernel):
    """The axes in another order."""

    def __init__(self, axes: Sequence[int]) -> None:
        self.axes = tuple(axes)
        self._back = tuple(self.axes.index(axis) for axis in range(len(self.axes)))

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        del needs
        return inputs[0].permute(self.axes), NOTHING

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del saved, needs, partial
        return ((gradient[0].permute(self._back), gradient[1]),)


class Selection(Kernel):
    """Some of the elements, none of them twice.

    Args:
        select: Makes a view of the input.
    """

    accumulates = True

    def __init__(self, select: Callable[[Tensor], Tensor]) -> None:
        self.select = select

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        x = inputs[0]
        return self.select(x), ((), (x.shape, _strides(x))) if needs[0] else NOTHING

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del needs
        tensor, (shape, strides) = gradient[0], saved[1]
        if partial is None:
            # Ordered as the input is, so that it goes back through views as it came.
            partial = torch.empty_strided(shape, strides, dtype=tensor.dtype, device=tensor.device).zero_()
            self.select(partial).copy_(tensor)
        else:
            self.select(partial).add_(tensor)
        return ((partial, True),)


def _strides(x: Tensor) -> Sequence[int]:
    """Those of a tensor without gaps whose axes lie in the same order."""
    strides, size = [0] * x.dim(), 1
    for axis in sorted(range(x.dim()), key=lambda axis: (x.stride(axis), -axis)):
        strides[axis] = size
        size *= max(1, x.shape[axis])
    return strides

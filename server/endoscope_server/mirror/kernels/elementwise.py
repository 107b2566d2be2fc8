"""Sums and products, with numpy's broadcasting, and what shifts and scales channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from endoscope_server.mirror.kernels.activation import Activation
from endoscope_server.mirror.kernels.base import NOTHING, Gradient, Kernel, Saved, summed_to


class Sum(Kernel):
    """The sum of two tensors, then perhaps an activation function."""

    def __init__(self, activation: Activation | None = None) -> None:
        self.activation = activation

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        a, b = inputs
        y = a + b
        kept: tuple[Tensor, ...] = ()
        if self.activation is not None:
            y, kept = self.activation.after(y)
        return y, (kept, (a.shape, b.shape)) if True in needs else NOTHING

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del partial
        kept, (first, second) = saved
        if self.activation is not None:
            gradient = self.activation.backward(gradient, kept[0])
        if not needs[1]:
            return summed_to(gradient, first), None
        if not needs[0]:
            return None, summed_to(gradient, second)
        # Both may get the same tensor, and then neither may write into it.
        shared = gradient[0], False
        return summed_to(shared, first), summed_to(shared, second)


class Product(Kernel):
    """The product of two tensors."""

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        a, b = inputs
        y = a * b
        if True not in needs:
            return y, NOTHING
        kept = tuple(value for value, other in ((a, needs[1]), (b, needs[0])) if other)
        return y, (kept, (a.shape, b.shape))

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del partial
        kept, shapes = saved
        tensor, _ = gradient
        results: list[Gradient | None] = [None, None]
        for index, other in ((0, -1), (1, 0)):
            if needs[index]:
                results[index] = summed_to((tensor * kept[other], True), shapes[index])
        return results


class Affine(Kernel):
    """Each channel scaled and shifted, then perhaps an activation function.

    Args:
        scale: One for each channel.
        shift: One for each channel.
        activation: What follows.
    """

    def __init__(self, scale: Tensor, shift: Tensor, activation: Activation | None = None) -> None:
        self.scale, self.shift, self.activation = scale, shift, activation

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        x = inputs[0]
        across = (-1, *[1] * (x.dim() - 2))
        y = torch.addcmul(self.shift.view(across), x, self.scale.view(across))
        kept: tuple[Tensor, ...] = ()
        if self.activation is not None:
            y, kept = self.activation.after(y)
        return y, (kept, across) if True in needs else NOTHING

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del needs, partial
        kept, across = saved
        if self.activation is not None:
            gradient = self.activation.backward(gradient, kept[0])
        tensor, owned = gradient
        scale = self.scale.view(across)
        return ((tensor.mul_(scale) if owned else tensor * scale, True),)

"""Softmax and layer normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from endoscope_server.mirror.kernels.base import NOTHING, Gradient, Kernel, Saved

_aten = torch.ops.aten
_softmax_backward = _aten._softmax_backward_data.default  # noqa: SLF001


class Softmax(Kernel):
    """Softmax along an axis."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        y = torch.softmax(inputs[0], self.axis)
        return y, ((y,), None) if needs[0] else NOTHING

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del needs, partial
        y = saved[0][0]
        return ((_softmax_backward(gradient[0], y, self.axis, y.dtype), True),)


class LayerNormalization(Kernel):
    """Layer normalisation over the last axes.

    Args:
        scale: Of the shape of the last axes.
        bias: Of the same shape, or None.
        epsilon: Added to the variance.
    """

    def __init__(self, scale: Tensor, bias: Tensor | None, epsilon: float) -> None:
        self.scale, self.bias, self.epsilon = scale, bias, epsilon

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        x = inputs[0]
        y, mean, inverse = _aten.native_layer_norm(x, self.scale.shape, self.scale, self.bias, self.epsilon)
        return y, ((x, mean, inverse), None) if needs[0] else NOTHING

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del needs, partial
        (x, mean, inverse), _ = saved
        result = _aten.native_layer_norm_backward(
            gradient[0], x, self.scale.shape, mean, inverse, self.scale, self.bias, [True, False, False]
        )
        return ((result[0], True),)

"""Convolutions with what follows them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from endoscope_server.mirror.kernels.activation import Activation
from endoscope_server.mirror.kernels.base import NOTHING, Gradient, Kernel, Saved, summed_to
from endoscope_server.mirror.kernels.engines import Engine, fastest
from endoscope_server.mirror.kernels.weights import Weights
from endoscope_server.mirror.spatial import Window


class Convolution(Kernel):
    """A convolution, then perhaps the addition of another tensor, then perhaps an activation function.

    Inputs: the tensor to convolve, and the one to add if there is one.
    """

    accumulates = True

    def __init__(
        self, weights: Weights, window: Window, groups: int, activation: Activation | None = None
    ) -> None:
        self.weights, self.window, self.groups, self.activation = weights, window, groups, activation
        self._post = activation.post if activation is not None and activation.from_output else None
        self._engine = Engine(weights, window, groups)
        self._fast = fastest(weights, window, groups)

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        x, other = inputs[0], inputs[1] if len(inputs) > 1 else None
        engine, activation = self._engine, self.activation
        fast = x.dtype == torch.float32 and x.device.type == "cpu" and x.dim() == 4 and x.numel() > 0
        if self._fast is not None and fast:
            engine = self._fast
        y, done = engine.forward(x, other, self._post)
        kept: tuple[Tensor, ...] = ()
        if done:
            kept = (y,)
        elif activation is not None:
            y, kept = activation.after(y)
        if True not in needs:
            return y, NOTHING
        return y, (kept, (engine, x.shape, None if other is None else other.shape))

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        kept, (engine, shape, other_shape) = saved
        if self.activation is not None:
            gradient = self.activation.backward(gradient, kept[0])
        first = None
        if needs[0]:
            own = gradient if other_shape is None else summed_to(gradient, engine.form(shape).result)
            first = engine.backward(own[0], shape, partial), True
        if other_shape is None:
            return (first,)
        return first, summed_to(gradient, other_shape) if needs[1] else None

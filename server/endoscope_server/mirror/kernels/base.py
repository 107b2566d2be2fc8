"""What a kernel is.

A kernel knows that weights are constants: its backward pass computes the gradients of its inputs and nothing
else, and keeps of the forward pass only what those need. Kernels are joined to regions
(:mod:`endoscope_server.mirror.fusion.region`), which call them without autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

Saved = tuple[tuple[Tensor, ...], Any]
"""What a backward pass needs: tensors, and facts that are no tensors."""

Gradient = tuple[Tensor, bool]
"""A gradient and whether its memory is the receiver's to write into."""

NOTHING: Saved = ((), None)


class Kernel:
    """One computation with one result, and the gradients of its inputs.

    Attributes:
        accumulates: Whether the backward pass can add to a partial gradient of the first input.
    """

    accumulates = False

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """The result, and what the backward pass needs.

        Args:
            inputs: The values of the inputs, not to be written to.
            needs: For each input, whether its gradient will be asked for; if none is, nothing is saved.
        """
        raise NotImplementedError

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """The gradients of the inputs.

        Args:
            gradient: That of the result; if it is owned, its memory may be written into and handed on.
            saved: What ``forward`` returned; not to be written to.
            needs: For each input, whether its gradient is wanted.
            partial: What the first input's gradient has to be added to, for kernels that accumulate; it may
                be written into. The first gradient returned then is the sum.

        Returns:
            A gradient for each input, None where none is needed. No memory is owned twice.
        """
        raise NotImplementedError

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The result alone."""
        return self.forward(inputs, (False,) * len(inputs))[0]


def summed_to(gradient: Gradient, shape: Sequence[int]) -> Gradient:
    """The gradient of what was broadcast from ``shape``."""
    tensor, owned = gradient
    if tensor.shape == shape:
        return gradient
    return tensor.sum_to_size(tuple(shape)), owned


def added(y: Tensor, other: Tensor | None) -> Tensor:
    """The sum, in the memory of ``y`` if it fits there."""
    if other is None:
        return y
    return y.add_(other) if other.shape == y.shape else y + other

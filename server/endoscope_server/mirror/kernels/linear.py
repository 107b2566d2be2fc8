"""Products of matrices."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.kernels import onednn, rows
from endoscope_server.mirror.kernels.activation import Activation
from endoscope_server.mirror.kernels.base import NOTHING, Gradient, Kernel, Saved, added, summed_to

_MANY_ROWS = 16
# A matrix of so many numbers is turned once, so that a single row, much of which may be zero, needs not all.
_LARGE = 1 << 22


class Linear(Kernel):
    """The product with a constant matrix, then perhaps another tensor added, then perhaps an activation.

    Inputs: the tensor to multiply, and the one to add if there is one. In float32 on a CPU oneDNN computes
    it. The matrix is packed, once for each direction, when many rows are multiplied; for few it is read in
    place.

    Args:
        matrix: Outputs x inputs.
        bias: One for each output, or None.
        activation: What follows.
    """

    accumulates = True

    def __init__(self, matrix: Tensor, bias: Tensor | None, activation: Activation | None = None) -> None:
        self.matrix, self.bias, self.activation = matrix, bias, activation
        self._turned = matrix.t()
        self._packed: Tensor | None = None
        self._packed_turned: Tensor | None = None
        self._post = activation.post if activation is not None and activation.from_output else None
        self._fast = matrix.dtype == torch.float32 and onednn.available

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        x, other = inputs[0], inputs[1] if len(inputs) > 1 else None
        fast = self._fast and x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0
        fits = (
            other is not None
            and other.shape == (*x.shape[:-1], self.matrix.shape[0])
            and other.is_contiguous()
        )
        matrix = self._forward_matrix(x) if fast else self.matrix
        kept: tuple[Tensor, ...] = ()
        done = None
        if fast and _against_the_grain(matrix):
            fits = False
            y = _few_rows(x, matrix.t())
            y = y if self.bias is None else y.add_(self.bias)
        elif fast and fits:
            y = onednn.linear_binary(x, other, matrix, self.bias, "add")
        elif fast:
            done = self._post if other is None else None
            y = onednn.linear(x, matrix, self.bias, *(done or onednn.NOTHING))
        else:
            y = functional.linear(x, matrix, self.bias)
        shape = y.shape
        if other is not None and not (fast and fits):
            y = added(y, other)
        if done:
            kept = (y,)
        elif self.activation is not None:
            y, kept = self.activation.after(y)
        if True not in needs:
            return y, NOTHING
        return y, (kept, (fast, shape, None if other is None else other.shape))

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        kept, (fast, shape, other_shape) = saved
        if self.activation is not None:
            gradient = self.activation.backward(gradient, kept[0])
        first = None
        if needs[0]:
            first = self._backward(summed_to(gradient, shape)[0], fast, partial), True
        if other_shape is None:
            return (first,)
        return first, summed_to(gradient, other_shape) if needs[1] else None

    def _forward_matrix(self, x: Tensor) -> Tensor:
        count = x.numel() // x.shape[-1]
        if count == 1 and self.matrix.numel() >= _LARGE and rows.fits(x.reshape(1, -1), self._turned_whole):
            # Turned back, it is what it was.
            return self._turned_whole.t()
        if count < _MANY_ROWS:
            return self.matrix
        if self._packed is None:
            self._packed = onednn.pack_matrix(self.matrix.contiguous(), count)
        return self._packed

    @functools.cached_property
    def _turned_whole(self) -> Tensor:
        """Inputs x outputs, in memory of its own if it isn't so already."""
        return self._turned.contiguous()

    def _backward_matrix(self, gradient: Tensor) -> Tensor:
        count = gradient.numel() // gradient.shape[-1]
        if count < _MANY_ROWS:
            return self._turned
        if self._packed_turned is None:
            self._packed_turned = onednn.pack_matrix(self._turned.contiguous(), count)
        return self._packed_turned

    def _backward(self, gradient: Tensor, fast: bool, partial: Tensor | None) -> Tensor:
        if not fast:
            return added(torch.matmul(gradient, self.matrix), partial)
        matrix = self._backward_matrix(gradient)
        if _against_the_grain(matrix):
            return added(_few_rows(gradient, self.matrix), partial)
        if partial is not None and partial.is_contiguous():
            result: Tensor = onednn.linear_binary(gradient, partial, matrix, None, "add")
            return result
        return added(onednn.linear(gradient, matrix, None, *onednn.NOTHING), partial)


def _against_the_grain(matrix: Tensor) -> bool:
    """Whether oneDNN, which multiplies by the rows of a matrix, would have to gather them."""
    return not matrix.is_mkldnn and not matrix.is_contiguous() and matrix.t().is_contiguous()


def _few_rows(x: Tensor, matrix: Tensor) -> Tensor:
    """The product with a matrix of inputs x outputs, in memory of its own."""
    flat = x.reshape(-1, len(matrix))
    if not rows.fits(flat, matrix):
        return torch.matmul(x, matrix)
    found: Tensor = rows.product(flat, matrix)
    return found.view(*x.shape[:-1], matrix.shape[1])


class MatrixProduct(Kernel):
    """The product of two matrices, vectors, or stacks of matrices."""

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        a, b = inputs
        if True not in needs:
            return torch.matmul(a, b), NOTHING
        return torch.matmul(a, b), ((a, b), None)

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del partial
        (a, b), _ = saved
        tensor = gradient[0]
        # A vector is a row on the left and a column on the right.
        left, right = a if a.ndim > 1 else a.unsqueeze(0), b if b.ndim > 1 else b.unsqueeze(1)
        tensor = tensor if b.ndim > 1 else tensor.unsqueeze(-1)
        tensor = tensor if a.ndim > 1 else tensor.unsqueeze(-2)
        first = second = None
        if needs[0]:
            whole, _ = summed_to((torch.matmul(tensor, right.mT), True), left.shape)
            first = (whole.reshape(a.shape), True)
        if needs[1]:
            whole, _ = summed_to((torch.matmul(left.mT, tensor), True), right.shape)
            second = (whole.reshape(b.shape), True)
        return first, second

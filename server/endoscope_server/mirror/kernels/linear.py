"""Products of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.kernels import onednn
from endoscope_server.mirror.kernels.activation import Activation
from endoscope_server.mirror.kernels.base import NOTHING, Gradient, Kernel, Saved, added, summed_to

_MANY_ROWS = 16
# Up to so many rows a product is as fast as the matrix is read, and MKL leaves that to one thread.
_VERY_FEW_ROWS = 2
_PARTS = 8


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
            y = _few_rows(x, self._turned)
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
        rows = x.numel() // x.shape[-1]
        if rows < _MANY_ROWS:
            return self.matrix
        if self._packed is None:
            self._packed = onednn.pack_matrix(self.matrix.contiguous(), rows)
        return self._packed

    def _backward_matrix(self, gradient: Tensor) -> Tensor:
        rows = gradient.numel() // gradient.shape[-1]
        if rows < _MANY_ROWS:
            return self._turned
        if self._packed_turned is None:
            self._packed_turned = onednn.pack_matrix(self._turned.contiguous(), rows)
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
    inputs, outputs = matrix.shape
    rows = x.numel() // inputs
    if rows == 1:
        return _one_row(x.reshape(inputs), matrix).view(*x.shape[:-1], outputs)
    if rows > _VERY_FEW_ROWS or inputs % _PARTS:
        return torch.matmul(x, matrix)
    parts = x.reshape(rows, _PARTS, inputs // _PARTS).transpose(0, 1)
    sums = torch.bmm(parts, matrix.view(_PARTS, inputs // _PARTS, outputs))
    return sums.sum(0).view(*x.shape[:-1], outputs)


def _one_row(x: Tensor, matrix: Tensor) -> Tensor:
    """The sum of the matrix's rows, weighted, which reads only those whose weight isn't zero.

    Behind a ReLU most are, and so are most gradients before one.
    """
    read = x.nonzero().squeeze(1)
    firsts = torch.arange(_PARTS) * -(-len(x) // _PARTS)
    starts = torch.searchsorted(read, firsts)
    return functional.embedding_bag(read, matrix, starts, mode="sum", per_sample_weights=x[read]).sum(0)


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

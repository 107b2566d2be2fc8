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
from endoscope_server.mirror.tiles import product

_MANY_ROWS = 16
# A matrix of so many numbers is turned once, so that a single row, much of which may be zero, needs not all.
_LARGE = 1 << 22


class Linear(Kernel):
    """The product with a constant matrix, then perhaps another tensor added, then perhaps an activation.

    Inputs: the tensor to multiply, and the one to add if there is one.

    Args:
        matrix: Outputs x inputs.
        bias: One for each output, or None.
        activation: What follows.
    """

    accumulates = True

    def __init__(self, matrix: Tensor, bias: Tensor | None, activation: Activation | None = None) -> None:
        self.matrix, self.bias, self.activation = matrix, bias, activation
        self._forth, self._back = _Factor(matrix), _Factor(matrix.t())
        self._fast = matrix.dtype == torch.float32 and onednn.available

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        x, other = inputs[0], inputs[1] if len(inputs) > 1 else None
        fast = self._fast and x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0
        kept: tuple[Tensor, ...] | None = None
        joined = False
        if fast:
            alike = other is not None and other.shape == (*x.shape[:-1], self.matrix.shape[0])
            own = other if other is not None and alike and other.is_contiguous() else None
            end = self.activation if other is own else None
            y, joined, kept = self._forth.times(x, self.bias, own, end)
        else:
            y = functional.linear(x, self.matrix, self.bias)
        shape = y.shape
        if other is not None and not joined:
            y = added(y, other)
        if kept is None:
            y, kept = (y, ()) if self.activation is None else self.activation.after(y)
        if True not in needs:
            return y, NOTHING
        return y, (kept, (fast, shape, None if other is None else other.shape))

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        kept, (fast, shape, other_shape) = saved
        before = None
        if self.activation is not None:
            if fast and other_shape is None and self.activation.is_gelu and self._back.in_tiles(gradient[0]):
                before = kept[0]
            else:
                gradient = self.activation.backward(gradient, kept[0])
        first = None
        if needs[0]:
            first = self._backward(summed_to(gradient, shape)[0], before, fast, partial), True
        if other_shape is None:
            return (first,)
        return first, summed_to(gradient, other_shape) if needs[1] else None

    def _backward(
        self, gradient: Tensor, before: Tensor | None, fast: bool, partial: Tensor | None
    ) -> Tensor:
        if not fast:
            return added(torch.matmul(gradient, self.matrix), partial)
        own = partial if partial is not None and partial.is_contiguous() else None
        y, joined, _ = self._back.times(gradient, None, own, before=before)
        return y if joined else added(y, partial)


class _Factor:
    """A constant matrix, multiplied as is best for so many rows.

    Many rows are multiplied in the processor's tiles, or where there are none by oneDNN; the matrix is packed
    for it when it is first needed. For few it is read in place; a large one is turned for a single row.

    Args:
        matrix: Outputs x inputs, float32, of any strides.
    """

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix
        self._packed: Tensor | None = None

    def times(
        self,
        x: Tensor,
        bias: Tensor | None,
        other: Tensor | None,
        end: Activation | None = None,
        before: Tensor | None = None,
    ) -> tuple[Tensor, bool, tuple[Tensor, ...] | None]:
        """The product with each row of ``x``, in memory of its own.

        Args:
            x: Any axes x inputs.
            bias: One for each output, or None.
            other: What may be added, of the result's shape and contiguous.
            end: What may follow.
            before: What GELU was applied to, if ``x`` is a gradient of what it gave; only in tiles.

        Returns:
            The result, whether it has what may be added, and if it has what may follow, what that one's
            gradient needs.
        """
        count = x.numel() // x.shape[-1]
        if count < _MANY_ROWS and (turned := self._few(count)) is not None:
            y = _few_rows(x, turned)
            return (y if bias is None else y.add_(bias)), False, None
        if self.in_tiles(x):
            y, kept = self._tiled(x, bias, other, end, before)
            return y, other is not None, kept
        matrix = self._matrix if count < _MANY_ROWS else self._pack(count)
        if other is not None:
            return onednn.linear_binary(x, other, matrix, bias, "add"), True, None
        post = end.post if end is not None and end.from_output else None
        y = onednn.linear(x, matrix, bias, *(post or onednn.NOTHING))
        return y, False, (y,) if post is not None else None

    def in_tiles(self, x: Tensor) -> bool:
        """Whether ``x`` is multiplied in tiles."""
        return x.numel() // x.shape[-1] >= _MANY_ROWS and self._digits is not None

    def _tiled(
        self,
        x: Tensor,
        bias: Tensor | None,
        other: Tensor | None,
        end: Activation | None,
        before: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        assert self._digits is not None
        shape = (*x.shape[:-1], len(self._matrix))
        summand = None if other is None else _flat(other)
        if end is not None and end.is_gelu:
            y, plain = product.product_gelu(_flat(x), self._matrix, self._digits, bias, summand)
            return y.view(shape), (plain.view(shape),)
        bounds = end.bounds if end is not None else None
        earlier = None if before is None else _flat(before)
        y = product.product(
            _flat(x), self._matrix, self._digits, bias, summand, bounds or product.NO_BOUNDS, earlier
        ).view(shape)
        return y, (y,) if bounds is not None else None

    @functools.cached_property
    def _digits(self) -> product.Packed | None:
        """The matrix packed for tiles; None if it can't be."""
        return product.pack(self._matrix) if product.fits(self._matrix) else None

    def _few(self, count: int) -> Tensor | None:
        """The matrix as inputs x outputs, if it should be read so for few rows."""
        turned = self._matrix.t()
        if turned.is_contiguous():
            # oneDNN, which multiplies by the rows of a matrix, would have to gather them.
            return turned
        if count == 1 and turned.numel() >= _LARGE and rows.takes(turned.shape[1]):
            return self._turned
        return None

    @functools.cached_property
    def _turned(self) -> Tensor:
        return self._matrix.t().contiguous()

    def _pack(self, count: int) -> Tensor:
        if self._packed is None:
            self._packed = onednn.pack_matrix(self._matrix.contiguous(), count)
        return self._packed


def _flat(x: Tensor) -> Tensor:
    """The rows of a tensor, contiguous."""
    return x.reshape(-1, x.shape[-1]).contiguous()


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

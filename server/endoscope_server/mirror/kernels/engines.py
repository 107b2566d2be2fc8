"""Ways to compute a convolution with frozen weights and the gradient of its input.

In float32 on a CPU, oneDNN computes them channels last, from weights packed once for each direction: the
gradient is a convolution too, with the kernel turned round. Everywhere else torch's own operators compute the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
_FORMS = 64


def fastest(weights: Weights, window: Window, groups: int) -> Engine | None:
    """The engine for float32 on a CPU; None if there is none of its own."""
    if len(window.kernel) != 2 or weights.dtype != torch.float32 or not onednn.available:
        return None
    if groups == 1 and window.kernel == (1, 1) and not any(map(any, window.padding((1, 1)))):
        return Pointwise(weights, window, groups)
    stride = window.strides[0]
    few = groups == 1 and weights.shape[1] <= _FEW_CHANNELS
    if few and window.strides == (stride, stride) != (1, 1) and window.dilations == (1, 1):
        return Phased(weights, window, groups)
    return Packed(weights, window, groups)


@dataclass(frozen=True, slots=True)
class _Form:
    """What follows from the shape of an input.

    Attributes:
        shape: Of the input, padded where its two ends differ.
        pads: What is padded, as torch takes it; empty for nothing.
        starts: Where the input begins on each spatial axis of the padded one.
        padding: What is left to the convolution, on both sides of each axis.
        result: The result's shape.
    """

    shape: tuple[int, ...]
    pads: list[int]
    starts: tuple[int, ...]
    padding: tuple[int, ...]
    result: tuple[int, ...]


class Engine:
    """Convolutions by torch's own operators: of any rank, type and device.

    Args:
        weights: Weights and bias.
        window: Strides, dilations and padding.
        groups: In how many groups the channels fall.
    """

    def __init__(self, weights: Weights, window: Window, groups: int) -> None:
        self.weights, self.window, self.groups = weights, window, groups
        self._forms: dict[torch.Size, _Form] = {}

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
        form = self.form(x.shape)
        window = self.window
        y = _CONVOLUTIONS[len(form.padding)](
            functional.pad(x, form.pads) if form.pads else x,
            self.weights.folded,
            self.weights.bias,
            window.strides,
            form.padding,
            window.dilations,
            self.groups,
        )
        return added(y, other), False

    def backward(self, gradient: Tensor, shape: torch.Size, partial: Tensor | None) -> Tensor:
        """The gradient of the input, in memory of its own.

        Args:
            gradient: Of the result; only read.
            shape: Of the input.
            partial: What the gradient is added to; may be written into.
        """
        form = self.form(shape)
        if not form.pads:
            return self._backward(gradient, form, partial)
        result = self._backward(gradient, form, None)
        for axis, start in enumerate(form.starts, 2):
            result = result.narrow(axis, start, shape[axis])
        return added(result, partial)

    def form(self, shape: torch.Size) -> _Form:
        """What follows from the shape of an input."""
        form = self._forms.get(shape)
        if form is None:
            if len(self._forms) >= _FORMS:
                self._forms.clear()
            form = self._forms[shape] = self._make_form(shape)
        return form

    def _make_form(self, shape: torch.Size) -> _Form:
        window, sizes = self.window, list(shape[2:])
        pads = window.padding(sizes)
        padding = symmetric(pads)
        if padding is None:
            sizes = [size + before + after for size, (before, after) in zip(sizes, pads, strict=True)]
            uneven, starts, padding = for_pad(pads), tuple(before for before, _ in pads), (0,) * len(pads)
        else:
            uneven, starts = [], (0,) * len(pads)
        result = [
            (size + 2 * pad - extent) // stride + 1
            for size, pad, extent, stride in zip(sizes, padding, window.extents, window.strides, strict=True)
        ]
        whole = (*shape[:2], *sizes)
        return _Form(whole, uneven, starts, padding, (shape[0], self.weights.shape[0], *result))

    def _backward(self, gradient: Tensor, form: _Form, partial: Tensor | None) -> Tensor:
        """The gradient of the padded input."""
        window = self.window
        result: Tensor = torch.ops.aten.convolution_backward(
            gradient,
            gradient.new_empty(1).expand(form.shape),  # of the input only the shape counts
            self.weights.folded,
            None,
            window.strides,
            form.padding,
            window.dilations,
            False,
            [0] * len(form.padding),
            self.groups,
            [True, False, False],
        )[0]
        return added(result, partial)


class Pointwise(Engine):
    """1x1 convolutions as products of matrices."""

    def __init__(self, weights: Weights, window: Window, groups: int) -> None:
        super().__init__(weights, window, groups)
        self._steps = None if window.strides == (1, 1) else window.strides
        self._matrix: Tensor | None = None
        self._turned: Tensor | None = None

    def forward(self, x: Tensor, other: Tensor | None, post: onednn.Post | None) -> tuple[Tensor, bool]:
        """See :meth:`Engine.forward`."""
        if self._steps is not None:
            x = x[:, :, :: self._steps[0], :: self._steps[1]]
        rows = x.contiguous(memory_format=_LAST).permute(0, 2, 3, 1)
        matrix = self._matrix
        if matrix is None:
            matrix = self._matrix = self._pack(self.weights.fold().flatten(1), rows)
        if other is None:
            y = onednn.linear(rows, matrix, self.weights.bias, *(post or onednn.NOTHING))
            return y.permute(0, 3, 1, 2), post is not None
        fits = other.dim() == 4 and other.shape[1] == self.weights.shape[0]
        if fits and other.shape[0] == x.shape[0] and other.shape[2:] == x.shape[2:]:
            added_rows = other.permute(0, 2, 3, 1)
            if added_rows.is_contiguous():
                y = onednn.linear_binary(rows, added_rows, matrix, self.weights.bias, "add")
                return y.permute(0, 3, 1, 2), False
        y = onednn.linear(rows, matrix, self.weights.bias, *onednn.NOTHING)
        return added(y.permute(0, 3, 1, 2), other), False

    def backward(self, gradient: Tensor, shape: torch.Size, partial: Tensor | None) -> Tensor:
        """See :meth:`Engine.backward`."""
        rows = gradient.contiguous(memory_format=_LAST).permute(0, 2, 3, 1)
        turned = self._turned
        if turned is None:
            turned = self._turned = self._pack(self.weights.fold().flatten(1).t(), rows)
        if self._steps is None and partial is not None:
            into = partial.permute(0, 2, 3, 1)
            if into.is_contiguous():
                y: Tensor = onednn.linear_binary(rows, into, turned, None, "add")
                return y.permute(0, 3, 1, 2)
        y = onednn.linear(rows, turned, None, *onednn.NOTHING).permute(0, 3, 1, 2)
        if self._steps is None:
            return added(y, partial)
        if partial is None:
            partial = torch.empty(shape, dtype=y.dtype, memory_format=_LAST).zero_()
        partial[:, :, :: self._steps[0], :: self._steps[1]].add_(y)
        return partial

    @staticmethod
    def _pack(matrix: Tensor, rows: Tensor) -> Tensor:
        """The matrix in the order in which oneDNN reads it, when it multiplies about as many rows."""
        packed: Tensor = onednn.pack_matrix(matrix.contiguous(), rows.numel() // rows.shape[-1])
        return packed


class Packed(Engine):
    """Convolutions over two axes in oneDNN."""

    def __init__(self, weights: Weights, window: Window, groups: int) -> None:
        super().__init__(weights, window, groups)
        self._options = (window.strides, window.dilations, groups)
        self._weight: Tensor | None = None
        self._turned: Tensor | None = None
        self._unstrided = window.strides == (1, 1)
        self._lasts = [extent - 1 for extent in window.extents]
        self._evened: dict[tuple[int, ...], Packed | None] = {}

    def forward(self, x: Tensor, other: Tensor | None, post: onednn.Post | None) -> tuple[Tensor, bool]:
        """See :meth:`Engine.forward`."""
        form = self.form(x.shape)
        padding, bias, options = form.padding, self.weights.bias, self._options
        if form.pads:
            even = self._even(form)
            if even is not None:
                return even.forward(x, other, post)
            x = functional.pad(x, form.pads)
        weight = self._weight
        if weight is None:
            weight = self._weight = onednn.pack(self.weights.fold(), padding, *options, form.shape)
        if other is None:
            return onednn.convolution(
                x, weight, bias, padding, *options, *(post or onednn.NOTHING)
            ), post is not None
        if other.shape == form.result and other.is_contiguous(memory_format=_LAST):
            end = "relu" if post is not None and post[0] == "relu" else None
            y = onednn.convolution_binary(
                x, other, weight, bias, padding, *options, "add", 1.0, end, [], None
            )
            return y, end is not None
        y = onednn.convolution(x, weight, bias, padding, *options, *onednn.NOTHING)
        return added(y, other), False

    def backward(self, gradient: Tensor, shape: torch.Size, partial: Tensor | None) -> Tensor:
        """See :meth:`Engine.backward`."""
        form = self.form(shape)
        even = self._even(form) if form.pads else None
        if even is not None:
            return even.backward(gradient, shape, partial)
        return super().backward(gradient, shape, partial)

    def _even(self, form: _Form) -> Packed | None:
        """The same convolution with a kernel larger by zeros, and padding that is the same on both ends.

        It spares copying the input; None if the zeros would cost more, or can't make it even.
        """
        key = tuple(form.pads)
        if key not in self._evened:
            self._evened[key] = self._make_even([(key[2], key[3]), (key[0], key[1])])
        return self._evened[key]

    def _make_even(self, pads: Sequence[tuple[int, int]]) -> Packed | None:
        window = self.window
        zeros = []
        for (before, after), step in zip(pads, window.dilations, strict=True):
            if (after - before) % step:
                return None
            zeros.append((max(after - before, 0) // step, max(before - after, 0) // step))
        if self.weights.shape[1] > _FEW_CHANNELS:
            return None
        even = replace(
            window,
            kernel=tuple(size + sum(more) for size, more in zip(window.kernel, zeros, strict=True)),
            pads=tuple((max(pair), max(pair)) for pair in pads),
            auto_pad="NOTSET",
        )
        return Packed(self.weights.surrounded(zeros), even, self.groups)

    def _backward(self, gradient: Tensor, form: _Form, partial: Tensor | None) -> Tensor:
        if self._unstrided:
            rest = [last - pad for last, pad in zip(self._lasts, form.padding, strict=True)]
            if min(rest) >= 0:
                return self._by_convolution(gradient, form, rest, partial)
        return added(self._by_transposition(gradient, form), partial)

    def _by_convolution(
        self, gradient: Tensor, form: _Form, padding: list[int], partial: Tensor | None
    ) -> Tensor:
        """Stride 1: the gradient convolved with the kernel turned round."""
        groups, options = self.groups, self._options
        turned = self._turned
        if turned is None:
            out, into, *kernel = self.weights.shape
            weight = self.weights.fold().flip(2, 3).view(groups, out // groups, into, *kernel)
            weight = weight.transpose(1, 2).reshape(groups * into, out // groups, *kernel)
            turned = self._turned = onednn.pack(weight, padding, *options, form.result)
        if partial is not None and partial.is_contiguous(memory_format=_LAST):
            onednn.convolution_binary_(
                partial, gradient, turned, None, padding, *options, "add", 1.0, None, [], None
            )
            return partial
        result = onednn.convolution(gradient, turned, None, padding, *options, *onednn.NOTHING)
        return added(result, partial)

    def _by_transposition(self, gradient: Tensor, form: _Form) -> Tensor:
        """Any stride."""
        extra = [
            size - ((count - 1) * stride - 2 * pad + last + 1)
            for size, count, stride, pad, last in zip(
                form.shape[2:], form.result[2:], self.window.strides, form.padding, self._lasts, strict=True
            )
        ]
        if self._turned is None:
            self._turned = onednn.pack_transposed(
                self.weights.fold(), form.padding, extra, *self._options, form.result
            )
        result: Tensor = onednn.transposed(
            gradient, self._turned, None, form.padding, extra, *self._options, *onednn.NOTHING
        )
        return result


class Phased(Packed):
    """Strided convolutions of few channels, as a network's first one.

    One convolution computes the gradient for all phases, which are the places of the input modulo the stride.
    Row ``stride * i + a`` of the input meets row ``i + m`` of the result through row
    ``a + padding - stride * m`` of the kernel: for all ``a`` together that is a convolution without stride,
    to ``stride`` times ``stride`` as many channels.
    """

    def __init__(self, weights: Weights, window: Window, groups: int) -> None:
        super().__init__(weights, window, groups)
        self._by_padding: dict[tuple[int, ...], Tensor] = {}

    def backward(self, gradient: Tensor, shape: torch.Size, partial: Tensor | None) -> Tensor:
        """See :meth:`Engine.backward`."""
        stride, form = self.window.strides[0], self.form(shape)
        # Only the padding before the input moves phases; that behind it may be another.
        padding = form.starts if form.pads else form.padding
        firsts, kernel = [], []
        for size, pad in zip(self.window.kernel, padding, strict=True):
            first, last = -((size - 1 - pad) // stride), (stride - 1 + pad) // stride
            firsts.append(first)
            kernel.append(last - first + 1)
        batch, channels, height, width = shape
        counts = [-(-height // stride), -(-width // stride)]
        around = [
            max(0, -first, count - size + first + steps - 1)
            for first, count, size, steps in zip(firsts, counts, form.result[2:], kernel, strict=True)
        ]
        weight = self._by_padding.get(padding)
        if weight is None:
            weight = self._phases(padding, firsts, kernel)
            weight = onednn.pack(weight, around, (1, 1), (1, 1), 1, form.result)
            self._by_padding[padding] = weight
        y = onednn.convolution(gradient, weight, None, around, (1, 1), (1, 1), 1, *onednn.NOTHING)
        for axis, (count, first, pad) in enumerate(zip(counts, firsts, around, strict=True), 2):
            y = y.narrow(axis, pad + first, count)
        y = y.permute(0, 2, 3, 1).unflatten(3, (stride, stride, channels)).transpose(2, 3)
        y = y.reshape(batch, counts[0] * stride, counts[1] * stride, channels).permute(0, 3, 1, 2)
        return added(y[:, :, :height, :width], partial)

    def _phases(self, padding: Sequence[int], firsts: Sequence[int], kernel: Sequence[int]) -> Tensor:
        """The weight: row phase, column phase and channel as one axis, then output channel, and steps."""
        stride = self.window.strides[0]
        phases = torch.arange(stride).view(-1, 1)
        rows, columns = (
            phases + pad - stride * torch.arange(first, first + steps)
            for pad, first, steps in zip(padding, firsts, kernel, strict=True)
        )
        weight = self.weights.spread(rows, columns)
        return weight.permute(2, 4, 1, 0, 3, 5).flatten(0, 2).contiguous()

"""A convolution's weights, with what follows it linearly folded in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

T = TypeVar("T")


class Weights:
    """Weights that are scaled only when they are needed: most are packed then, and not kept as they are.

    Args:
        weight: Output channels x input channels of a group x kernel.
        bias: One for each output channel, or None.
        scale: What each output channel is multiplied by after that, in float64, or None.
        shift: What is added to each output channel last, in float64, or None.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> None:
        self._weight, self._scale = weight, scale
        self.shape, self.dtype = weight.shape, weight.dtype
        if scale is not None or shift is not None:
            exact = (
                bias.double() if bias is not None else weight.new_zeros(weight.shape[0], dtype=torch.float64)
            )
            exact = exact if scale is None else exact * scale
            bias = (exact if shift is None else exact + shift).to(weight.dtype)
        self.bias = bias
        self._packed: dict[Any, Any] = {}

    def packed(self, key: Any, pack: Callable[[], T]) -> T:
        """The weights in another order, made once.

        Args:
            key: Which.
            pack: Makes it.
        """
        if key not in self._packed:
            self._packed[key] = pack()
        result: T = self._packed[key]
        return result

    def surrounded(self, zeros: Sequence[tuple[int, int]]) -> Weights:
        """The same with zeros before and after the kernel along each of its axes."""
        pads = [count for pair in reversed(zeros) for count in pair]
        larger = Weights(functional.pad(self._weight, pads), None, self._scale)
        larger.bias = self.bias
        return larger

    def fold(self) -> Tensor:
        """The scaled weight; not to be written to."""
        if self._scale is None:
            return self._weight
        return self._weight * self._scale.to(self.dtype).view(-1, *[1] * (self._weight.dim() - 1))

    def spread(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The scaled weight at some places of its kernel, and zeros outside of it.

        Args:
            rows: Of the kernel, phases x steps.
            columns: The same of columns.

        Returns:
            Output and input channels, then phases and steps of rows, then those of columns.
        """
        height, width = self.shape[2:]
        rows = rows[:, :, None, None]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return self.fold()[:, :, rows.clamp(0, height - 1), columns.clamp(0, width - 1)] * inside

    @functools.cached_property
    def folded(self) -> Tensor:
        """The same, kept from the first use on."""
        return self.fold()

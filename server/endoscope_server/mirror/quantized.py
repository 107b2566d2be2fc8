"""Quantised numbers under gradients: rounding that gradients pass straight through.

Where no gradient is recorded, quantised values are tensors of their exact integer type. An integer tensor
can't carry a gradient; so, where one is recorded, they travel as floating-point tensors that hold the same
whole numbers. Rounding counts as the identity in the backward pass, saturation as what it is: within the
range the gradient passes unchanged, beyond it it is zero. Scales and zero points are constants to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    """The first argument's gradient, the second's value."""

    @staticmethod
    def forward(_: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.to(x.dtype, copy=True)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def tracked(*values: Tensor | None) -> bool:
    """Whether a gradient is being recorded through one of the values."""
    return torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in values)


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """``value`` in x's type, with the gradient of ``x``."""
    return _StraightThrough.apply(x, value)  # type: ignore[no-untyped-call]


def limits(dtype: torch.dtype) -> tuple[int, int]:
    """The least and the largest number of an integer type."""
    told = torch.iinfo(dtype)
    return told.min, told.max


def to_range(x: Tensor, zero_point: Tensor | int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Rounds to the nearest even, shifts, saturates.

    Args:
        x: Already divided by the scale.
        zero_point: Added after rounding.
        low: The least number of the type.
        high: The largest.
        dtype: The integer type; x's own where a gradient is recorded.
    """
    rounded = torch.round(x.detach())
    if not tracked(x):
        return (rounded + zero_point).clamp(low, high).to(dtype)
    return (straight_through(x, rounded) + zero_point).clamp(low, high)


def wide(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A quantised value as floating-point numbers, to compute with."""
    return x if x.is_floating_point() and x.dtype.itemsize >= dtype.itemsize else x.to(dtype)


def whole(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Whole numbers in an integer type, or as they are where a gradient is recorded."""
    return x if tracked(x) else x.to(dtype)

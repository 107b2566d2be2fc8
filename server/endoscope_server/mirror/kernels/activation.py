"""Activation functions that work in place, forward and backward."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from endoscope_server.mirror.kernels.base import NOTHING, Gradient, Kernel, Saved
from endoscope_server.mirror.kernels.onednn import Post

_aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Activation:
    """A function of one tensor, elementwise.

    Attributes:
        apply: The function.
        apply_: The same, in place.
        from_output: Whether the gradient follows from the output; else from the input.
        gradient: The input's gradient from the output's and from what was kept.
        gradient_: The same, written over the output's gradient; None if ATen has no such function.
        post: How oneDNN knows it as the end of a convolution: name, numbers, algorithm; None if it doesn't.
        bounds: What it clips to, if it does nothing else.
        is_gelu: Whether it is the exact GELU.
    """

    apply: Callable[[Tensor], Tensor]
    apply_: Callable[[Tensor], Tensor]
    from_output: bool
    gradient: Callable[[Tensor, Tensor], Tensor]
    gradient_: Callable[[Tensor, Tensor], Tensor] | None
    post: Post | None = None
    bounds: tuple[float, float] | None = None
    is_gelu: bool = False

    def after(self, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The function of a tensor whose memory is ours, and what its gradient needs."""
        if self.from_output:
            y = self.apply_(y)
            return y, (y,)
        return self.apply(y), (y,)

    def backward(self, gradient: Gradient, kept: Tensor) -> Gradient:
        """The gradient of the input.

        Args:
            gradient: Of the output; overwritten if owned.
            kept: The output or the input, see ``from_output``.
        """
        tensor, owned = gradient
        if owned and self.gradient_ is not None:
            return self.gradient_(tensor, kept), True
        return self.gradient(tensor, kept), True


def _activation(
    name: str,
    *numbers: float,
    from_output: bool,
    post: Post | None = None,
    bounds: tuple[float, float] | None = None,
    **named: Any,
) -> Activation:
    """The activation function that ATen has under ``name``, with its functions in place and backward."""
    function, in_place = getattr(_aten, name).default, getattr(_aten, name + "_").default
    packet = getattr(_aten, name + "_backward")
    plain, last = packet.default, (True,) if name == "leaky_relu" else ()
    into = packet.grad_input if "grad_input" in packet.overloads() else None
    return Activation(
        functools.partial(_call, function, numbers, named) if numbers or named else function,
        functools.partial(_call, in_place, numbers, named) if numbers or named else in_place,
        from_output,
        lambda gradient, kept: plain(gradient, kept, *numbers, *last, **named),
        into and (lambda gradient, kept: into(gradient, kept, *numbers, *last, **named, grad_input=gradient)),
        post,
        bounds,
    )


def _call(
    function: Callable[..., Tensor], numbers: tuple[float, ...], named: dict[str, Any], x: Tensor
) -> Tensor:
    return function(x, *numbers, **named)


relu = Activation(
    torch.relu,
    torch.relu_,
    True,
    lambda gradient, kept: _aten.threshold_backward.default(gradient, kept, 0),
    lambda gradient, kept: _aten.threshold_backward.grad_input(gradient, kept, 0, grad_input=gradient),
    ("relu", [], ""),
    (0.0, math.inf),
)
sigmoid = _activation("sigmoid", from_output=True)
tanh = _activation("tanh", from_output=True)
silu = _activation("silu", from_output=False)
hardswish = _activation("hardswish", from_output=False)
hardsigmoid = _activation("hardsigmoid", from_output=False)


def gelu(approximate: str) -> Activation:
    """Gelu, exact (``none``) or by ``tanh``."""
    found = _activation("gelu", from_output=False, approximate=approximate)
    return replace(found, is_gelu=approximate == "none")


def clip(low: float, high: float) -> Activation:
    """Clipping to [low, high]; as in torch's ReLU6 the gradient is zero at the bounds themselves."""
    if low == 0 and high == math.inf:
        return relu
    finite = math.isfinite(low) and math.isfinite(high)
    post = ("hardtanh", [low, high], "") if finite else None
    return _activation("hardtanh", low, high, from_output=True, post=post, bounds=(low, high))


def leaky_relu(slope: float) -> Activation:
    """Leaky ReLU of a slope that is not negative."""
    return _activation("leaky_relu", slope, from_output=True, post=("leaky_relu", [slope], ""))


class Activated(Kernel):
    """An activation function on its own."""

    def __init__(self, activation: Activation) -> None:
        self.activation = activation

    def forward(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Saved]:
        """See :meth:`Kernel.forward`."""
        x = inputs[0]
        y = self.activation.apply(x)
        if not needs[0]:
            return y, NOTHING
        return y, ((y if self.activation.from_output else x,), None)

    def backward(
        self, gradient: Gradient, saved: Saved, needs: Sequence[bool], partial: Tensor | None
    ) -> Sequence[Gradient | None]:
        """See :meth:`Kernel.backward`."""
        del needs, partial
        return (self.activation.backward(gradient, saved[0][0]),)

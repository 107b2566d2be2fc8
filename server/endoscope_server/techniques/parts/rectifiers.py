"""Other gradients for rectifiers: ReLU and clipping from below at zero, such as ReLU6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from endoscope_server.errors import PreconditionFailed
from endoscope_server.mirror import Mirror
from endoscope_server.mirror.node import Function, Node

Terms = Callable[[Tensor], dict[str, Tensor]]
"""Pictures to numbers by name."""

_ON = ("Relu", "Clip")


class _Redirected(torch.autograd.Function):
    """A picture's gradient that dies in a rectifier is let through, unless it pushes further out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.high = high
        return x.clamp(0, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,), gradient = ctx.saved_tensors, gradients[0]
        below, above = x <= 0, x >= ctx.high
        ordinary = gradient.masked_fill(below | above, 0)
        # A positive gradient makes a step lower the value.
        redirected = gradient.masked_fill((below & (gradient > 0)) | (above & (gradient < 0)), 0)
        alive = ordinary.flatten(1).abs().amax(1) > 0
        return torch.where(alive.view(-1, *[1] * (x.dim() - 1)), ordinary, redirected), None


class _Guided(torch.autograd.Function):
    """Only what is positive goes back, and only where the rectifier is open."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, high: float) -> Tensor:
        ctx.save_for_backward((x > 0) & (x < high))
        return x.clamp(0, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].clamp(min=0) * ctx.saved_tensors[0], None


class _Deconvolved(torch.autograd.Function):
    """Only what is positive goes back, whether the rectifier is open or not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, high: float) -> Tensor:  # noqa: ARG004  torch's signature
        return x.clamp(0, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0].clamp(min=0), None


def redirected(mirror: Mirror) -> Mirror:
    """A mirror whose rectifiers pass gradients on where they are shut, so that units can wake.

    A picture's gradient is redirected in a rectifier where the ordinary one is zero throughout, and there
    only in the direction that opens it. A model without rectifiers is as it was.
    """
    return _with_rectifiers(mirror, _Redirected)


def woken(images: Tensor, ordinary: Terms, waking: Terms) -> dict[str, Tensor]:
    """Terms whose gradient is the ordinary one, or the waking one for pictures that get none at all.

    Args:
        images: batch x channels x height x width.
        ordinary: The terms of pictures, by name, which are made large.
        waking: The same by a :func:`redirected` mirror, which is slower: asked only if it is needed.

    Returns:
        The terms; what flows back to the images was computed already.
    """
    leaves = images.detach().requires_grad_()

    def gradient_of(terms: dict[str, Tensor]) -> Tensor:
        # Redirection depends on the sign: what flows back is the gradient of what is made small.
        loss = -torch.stack(list(terms.values())).sum()
        return -torch.autograd.grad(loss, leaves)[0]

    found = ordinary(leaves)
    gradient = gradient_of(found)
    alive = gradient.abs().amax((1, 2, 3)) > 0
    if not bool(alive.all()):
        gradient = torch.where(alive.view(-1, 1, 1, 1), gradient, gradient_of(waking(leaves)))
    name, *others = found
    carried = ((images - leaves.detach()) * gradient).sum()
    return {name: found[name].detach() + carried, **{other: found[other].detach() for other in others}}


def guided(mirror: Mirror) -> Mirror:
    """A mirror for guided backpropagation (Springenberg et al. 2015).

    Raises:
        PreconditionFailed: if the model has no rectifier.
    """
    _check_rectifiers(mirror, "guided backpropagation")
    return _with_rectifiers(mirror, _Guided)


def deconvolved(mirror: Mirror) -> Mirror:
    """A mirror whose gradients are the deconvnet's signals (Zeiler and Fergus 2014).

    Raises:
        PreconditionFailed: if the model has no rectifier.
    """
    _check_rectifiers(mirror, "the deconvnet")
    return _with_rectifiers(mirror, _Deconvolved)


def _with_rectifiers(mirror: Mirror, function: type[torch.autograd.Function]) -> Mirror:
    def build(node: Node) -> Function | None:
        high = _ceiling(node)
        if high is None:
            return None
        return lambda x, *_bounds: function.apply(x, high)

    return mirror.substituting(dict.fromkeys(_ON, build))


def _check_rectifiers(mirror: Mirror, method: str) -> None:
    if not any(node.op_type in _ON for node in mirror.nodes):
        raise PreconditionFailed(
            f"the model has no rectifier (ReLU, or clipping at zero), and {method} changes nothing else; "
            "expected a model with one",
            reason="NO_RECTIFIER",
        )


def _ceiling(node: Node) -> float | None:
    """The level at which a rectifier stops, infinite for ReLU; None for what is no rectifier."""
    if node.op_type == "Relu":
        return float("inf")
    if node.given(1) or node.given(2):
        low, high = node.known(1), node.known(2)
        if not isinstance(low, Tensor) or float(low) != 0 or (node.given(2) and high is None):
            return None
        return float(high) if isinstance(high, Tensor) else float("inf")
    if node.attribute("min") != 0:
        return None
    return float(node.attribute("max", float("inf")))

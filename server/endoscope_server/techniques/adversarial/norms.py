"""How perturbations are measured, bounded, and brought to a boundary."""

from __future__ import annotations

import enum

import torch
from torch import Tensor

_TINY = 1e-30
_NEWTON_STEPS = 12


class Norm(enum.Enum):
    """How a perturbation is measured, in [0, 1] pixel units."""

    LINF = "linf"
    """The largest change of any pixel's channel."""
    L2 = "l2"
    """The square root of the sum of squares."""

    def size(self, perturbation: Tensor) -> Tensor:
        """One number a picture."""
        flat = perturbation.flatten(1)
        return flat.abs().amax(1) if self is Norm.LINF else flat.norm(dim=1)

    def dual_size(self, gradient: Tensor) -> Tensor:
        """The change of a linear function over the size of the perturbation that makes it; one a picture."""
        flat = gradient.flatten(1)
        return flat.abs().sum(1) if self is Norm.LINF else flat.norm(dim=1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The perturbation of size 1 that raises the loss most, to first order."""
        if self is Norm.LINF:
            return gradient.sign()
        return gradient / per_item(gradient.flatten(1).norm(dim=1).clamp(min=_TINY), gradient)

    def project(self, perturbation: Tensor, bound: Tensor | float) -> Tensor:
        """The nearest perturbation (in L2) whose size is at most the bound."""
        limit = torch.as_tensor(bound, dtype=perturbation.dtype, device=perturbation.device)
        limit = limit.expand(len(perturbation))
        if self is Norm.LINF:
            wide = per_item(limit, perturbation)
            return torch.maximum(torch.minimum(perturbation, wide), -wide)
        sizes = self.size(perturbation).clamp(min=_TINY)
        return perturbation * per_item((limit / sizes).clamp(max=1), perturbation)

    def uniform(self, like: Tensor, bound: Tensor | float, generator: torch.Generator) -> Tensor:
        """A uniform random perturbation within the bound, which is one number, or one a picture."""
        limit = torch.as_tensor(bound, dtype=like.dtype, device=like.device).expand(len(like))
        if self is Norm.LINF:
            return (torch.rand(like.shape, generator=generator).to(like) * 2 - 1) * per_item(limit, like)
        normal = torch.randn(like.shape, generator=generator).to(like)
        radius = torch.rand(len(like), generator=generator).to(like) ** (1 / like[0].numel())
        return self.direction(normal) * per_item(radius * limit, like)

    def to_hyperplane(self, images: Tensor, weights: Tensor, rise: Tensor) -> Tensor:
        """The smallest perturbation that raises a linear function by some amount within [0, 1].

        Each pixel goes the way its weight says, equally far (L-infinity) or as far as its weight is large
        (L2), until it is black or white. How far solves a concave, piecewise linear equation, which Newton's
        method approaches from below.

        Args:
            images: batch x channels x height x width in [0, 1].
            weights: The linear function's, likewise.
            rise: By how much it is to change, of either sign, one number a picture.

        Returns:
            The perturbation; where the box is too small for the rise, the largest that there is.
        """
        weights = weights * per_item(torch.where(rise < 0, -1.0, 1.0), weights)
        rise = rise.abs()
        magnitude = weights.abs()
        room = torch.where(weights > 0, 1 - images, images)
        speed = torch.ones_like(magnitude) if self is Norm.LINF else magnitude
        far = torch.zeros_like(rise)
        for _ in range(_NEWTON_STEPS):
            reach = per_item(far, speed) * speed
            moving = reach < room
            missing = rise - (magnitude * torch.minimum(reach, room)).flatten(1).sum(1)
            slope = (magnitude * speed * moving).flatten(1).sum(1)
            far = far + torch.where(slope > 0, missing / slope.clamp(min=_TINY), 0.0).clamp(min=0)
        return weights.sign() * torch.minimum(per_item(far, speed) * speed, room)


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """One number a picture, shaped so that it multiplies pictures."""
    return values.view(-1, *[1] * (like.dim() - 1))

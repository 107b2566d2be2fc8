"""What every attack is up against: pictures, classes, a norm and a bound."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from endoscope_server.techniques.parts.subject import Subject

Loss = Callable[[Tensor], Tensor]
"""Logits, batch x classes, to one number a picture, which the attack makes large."""


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

    def direction(self, gradient: Tensor) -> Tensor:
        """The perturbation of size 1 that raises the loss most, to first order."""
        if self is Norm.LINF:
            return gradient.sign()
        return gradient / per_item(gradient.flatten(1).norm(dim=1).clamp(min=1e-30), gradient)

    def project(self, perturbation: Tensor, bound: Tensor | float) -> Tensor:
        """The nearest perturbation (in L2) whose size is at most the bound."""
        limit = torch.as_tensor(bound, dtype=perturbation.dtype, device=perturbation.device)
        limit = limit.expand(len(perturbation))
        if self is Norm.LINF:
            wide = per_item(limit, perturbation)
            return torch.maximum(torch.minimum(perturbation, wide), -wide)
        sizes = self.size(perturbation).clamp(min=1e-30)
        return perturbation * per_item((limit / sizes).clamp(max=1), perturbation)

    def uniform(self, like: Tensor, bound: float, generator: torch.Generator) -> Tensor:
        """A uniform random perturbation within the bound."""
        if self is Norm.LINF:
            return (torch.rand(like.shape, generator=generator).to(like) * 2 - 1) * bound
        normal = torch.randn(like.shape, generator=generator).to(like)
        radius = torch.rand(len(like), generator=generator).to(like) ** (1 / like[0].numel())
        return self.direction(normal) * per_item(radius, like) * bound


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Pictures, and what a model is to see in them.

    Attributes:
        subject: The model.
        originals: batch x channels x height x width in [0, 1], each a whole number of 255ths.
        true: The classes to get away from.
        targets: The classes to get to; None if any other will do.
        norm: How perturbations are measured.
        epsilon: The largest perturbation; infinite for none.
        rounded: Whether the model sees pictures as files hold them, rounded to 8 bits, with the gradient
            passed straight through the rounding.
    """

    subject: Subject
    originals: Tensor
    true: Tensor
    targets: Tensor | None
    norm: Norm
    epsilon: float
    rounded: bool = True

    @property
    def wanted(self) -> Tensor:
        """The class whose score counts: the target, or else the true class."""
        return self.true if self.targets is None else self.targets

    def part(self, items: Tensor) -> Problem:
        """The problem of some of the pictures."""
        targets = None if self.targets is None else self.targets[items]
        return replace(self, originals=self.originals[items], true=self.true[items], targets=targets)

    def logits(self, images: Tensor) -> Tensor:
        """Scores before the softmax, batch x classes; differentiable."""
        if self.rounded:
            images = images + (self.snap(images) - images).detach()
        return self.subject.logits(images)

    def margin(self, logits: Tensor) -> Tensor:
        """By how much the model is fooled, in logits: above zero it is; one number a picture."""
        own = logits.gather(1, self.wanted[:, None])[:, 0]
        others = logits.scatter(1, self.wanted[:, None], -torch.inf).amax(1)
        return others - own if self.targets is None else own - others

    def fooled(self, logits: Tensor) -> Tensor:
        """Whether the model sees what it should not, one boolean a picture."""
        return self.margin(logits) > 0

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """The loss of the true class, or minus that of the target; one number a picture."""
        loss = F.cross_entropy(logits, self.wanted, reduction="none")
        return loss if self.targets is None else -loss

    def ascent(self, images: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of a loss at pictures, the loss (one number a picture), and the logits."""
        leaves = images.detach().requires_grad_()
        logits = self.logits(leaves)
        values = loss(logits)
        (gradient,) = torch.autograd.grad(values.sum(), leaves)
        return gradient, values.detach(), logits.detach()

    def project(self, images: Tensor) -> Tensor:
        """The pictures brought back within epsilon and [0, 1]."""
        return (self.originals + self.norm.project(images - self.originals, self.epsilon)).clamp(0, 1)

    def snap(self, images: Tensor) -> Tensor:
        """The nearest pictures that a file can hold: whole numbers of 255ths, within epsilon and [0, 1]."""
        with torch.no_grad():
            change = ((images - self.originals) * 255).round()
            # A hair is allowed for: 4 / 255 * 255 may be a little below 4.
            bound = self.epsilon * 255 + 1e-4
            if self.norm is Norm.LINF:
                change = change.clamp(-int(min(bound, 255)), int(min(bound, 255)))
            elif self.epsilon < torch.inf:
                over = per_item(self.norm.size(change) > bound, change)
                shorter = self.norm.project((images - self.originals) * 255, bound).trunc()
                change = torch.where(over, shorter, change)
            return ((self.originals * 255).round() + change).clamp(0, 255) / 255


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """One number a picture, shaped so that it multiplies pictures."""
    return values.view(-1, *[1] * (like.dim() - 1))

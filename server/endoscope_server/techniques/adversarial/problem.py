"""What every attack is up against: pictures, classes, a norm and a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from endoscope_server.techniques.adversarial.norms import Norm
from endoscope_server.techniques.adversarial.rounding import snap
from endoscope_server.techniques.parts.subject import Subject

Loss = Callable[[Tensor], Tensor]
"""Logits, batch x classes, to one number a picture, which the attack makes large."""

SURE = 1e-3
"""The least margin between logits that counts: two engines' logits differ by rounding."""


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
        confidence: The margin between logits at which a picture counts as fooling.
    """

    subject: Subject
    originals: Tensor
    true: Tensor
    targets: Tensor | None
    norm: Norm
    epsilon: float
    rounded: bool = True
    confidence: float = SURE

    @property
    def wanted(self) -> Tensor:
        """The class whose score counts: the target, or else the true class."""
        return self.true if self.targets is None else self.targets

    def part(self, items: Tensor) -> Problem:
        """The problem of some of the pictures."""
        targets = None if self.targets is None else self.targets[items]
        return replace(self, originals=self.originals[items], true=self.true[items], targets=targets)

    def logits(self, images: Tensor) -> Tensor:
        """Scores before the softmax, batch x classes, by the mirror; differentiable."""
        if self.rounded:
            images = images + (self.snap(images) - images).detach()
        return self.subject.logits(images)

    def scores(self, images: Tensor) -> Tensor:
        """The same without gradients; of rounded pictures by ONNX Runtime."""
        if self.rounded:
            return self.judged(self.snap(images))
        with torch.no_grad():
            return self.subject.logits(images)

    def judged(self, images: Tensor) -> Tensor:
        """Scores before the softmax by ONNX Runtime, of pictures of whole 255ths."""
        pictures = (images * 255).round().to(torch.uint8).cpu().numpy()
        return torch.from_numpy(np.array(self.subject.judged_logits(pictures))).to(images.device)

    def margin(self, logits: Tensor) -> Tensor:
        """By how much the model is fooled, in logits: above zero it is; one number a picture."""
        own = logits.gather(1, self.wanted[:, None])[:, 0]
        others = logits.scatter(1, self.wanted[:, None], -torch.inf).amax(1)
        return others - own if self.targets is None else own - others

    def fooled(self, margin: Tensor) -> Tensor:
        """Whether the model sees what it should not, by enough; one boolean a picture."""
        return margin >= self.confidence

    def rivals(self, logits: Tensor, count: int) -> Tensor:
        """The classes on the other side of the nearest boundaries, strongest first, batch x (up to) count.

        With a target it is the one class that is wanted; else the strongest besides the true one.
        """
        if self.targets is not None:
            return self.targets[:, None]
        others = logits.scatter(1, self.true[:, None], -torch.inf)
        return others.topk(min(count, logits.shape[1] - 1), 1).indices

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
        if self.epsilon == torch.inf:
            return images.clamp(0, 1)
        return (self.originals + self.norm.project(images - self.originals, self.epsilon)).clamp(0, 1)

    def snap(self, images: Tensor) -> Tensor:
        """Near pictures that a file can hold, within epsilon; see :func:`rounding.snap`."""
        return snap(self.originals, images, self.norm, self.epsilon)

    def random_start(self, generator: torch.Generator) -> Tensor:
        """Pictures at uniform places within epsilon and [0, 1]."""
        return self.project(self.originals + self.norm.uniform(self.originals, self.epsilon, generator))

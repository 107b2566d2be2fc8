"""What every attribution method is asked: why this class, in this picture?"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from endoscope_server.mirror import Mirror
from endoscope_server.techniques.parts.subject import Subject

BATCH = 8
"""How many pictures go through the model at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A picture, a class, and what the methods need to know.

    Attributes:
        subject: The model.
        image: 1 x channels x height x width in [0, 1].
        class_index: The class.
        baseline: 1 x channels x 1 x 1 in [0, 1], the colour that stands for nothing.
        samples: Noisy copies, or steps of a path.
        noise: Standard deviation of noise, as a share of the picture's range.
        layer: ONNX name of Grad-CAM's layer.
        window: Side of the occluded window, in pixels.
        stride: Pixels between two windows.
        generator: Of all random numbers.
    """

    subject: Subject
    image: Tensor
    class_index: int
    baseline: Tensor
    samples: int
    noise: float
    layer: str
    window: int
    stride: int
    generator: torch.Generator

    def score(self, images: Tensor, mirror: Mirror | None = None) -> Tensor:
        """The class's score before the softmax, one number a picture; differentiable."""
        return self.subject.logits(images, mirror)[:, self.class_index]

    def gradient(self, images: Tensor, mirror: Mirror | None = None) -> tuple[Tensor, Tensor]:
        """The gradient of each picture's score with respect to its pixels, and the scores."""
        leaves = images.detach().requires_grad_()
        scores = self.score(leaves, mirror)
        (gradient,) = torch.autograd.grad(scores.sum(), leaves)
        return gradient, scores.detach()


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a method says.

    Attributes:
        values: channels (or 1) x height x width.
        signed: Whether what is below zero spoke against the class; else only magnitudes count.
        completeness_error: How far the values' sum is from the difference of scores that it should be, over
            that difference; None for methods that promise none.
    """

    values: Tensor
    signed: bool
    completeness_error: float | None = None

    def importance(self) -> Tensor:
        """How much each pixel counts, height x width."""
        return self.values.sum(0) if self.signed else self.values.abs().amax(0)


Run = Generator[float, None, Answer]
"""Yields the class's mean score after each batch of pictures."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to share out a score.

    Attributes:
        run: The method.
        batches: How many batches it takes.
    """

    run: Callable[[Question], Run]
    batches: Callable[[Question], int]


def batches(count: int) -> Sequence[slice]:
    """Slices of at most :data:`BATCH`."""
    return [slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]

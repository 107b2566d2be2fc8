"""How good an attribution is: deletion and insertion (Petsiuk et al. 2018)."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.techniques.attribution.question import Question, batches
from endoscope_server.techniques.classification import class_scores
from endoscope_server.techniques.parts.regularizers import gaussian_blur
from endoscope_server.techniques.parts.subject import to_8_bit

POINTS = 33
"""Of a curve: from no pixel changed to all of them."""
CURVE_BATCHES = len(batches(POINTS))
_BLUR_SIGMA = 5.0


def deletion_curve(question: Question, importance: Tensor) -> Generator[float, None, NDArray[np.float64]]:
    """The class's probability as pixels give way to the baseline, the most important first."""
    return (yield from _curve(question, question.image, question.baseline, importance))


def insertion_curve(question: Question, importance: Tensor) -> Generator[float, None, NDArray[np.float64]]:
    """The class's probability as a blurred picture gets its pixels back, the most important first."""
    return (
        yield from _curve(question, gaussian_blur(question.image, _BLUR_SIGMA), question.image, importance)
    )


def area(curve: NDArray[np.float64]) -> float:
    """The area under a curve over [0, 1]."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def _curve(
    question: Question, before: Tensor, after: Tensor, importance: Tensor
) -> Generator[float, None, NDArray[np.float64]]:
    """ONNX Runtime's probabilities for 8-bit pictures that go from one to the other, pixel by pixel."""
    order = importance.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    rank = rank.view(importance.shape)
    counts = np.rint(np.linspace(0, rank.numel(), POINTS)).astype(int)
    found: list[float] = []
    for part in batches(POINTS):
        pictures = torch.cat([torch.where(rank < count, after, before) for count in counts[part].tolist()])
        probabilities = class_scores(question.subject.judged_logits(to_8_bit(pictures)))
        found.extend(probabilities[:, question.class_index].tolist())
        yield found[-1]
    return np.asarray(found)

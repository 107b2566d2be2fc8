"""What a model sees in a picture: the strongest classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import PreconditionFailed


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How sure a model is of one class.

    Attributes:
        class_index: The position of its logit.
        logit: The score before the softmax.
        probability: Softmax, in [0, 1].
    """

    class_index: int
    logit: float
    probability: float


def class_scores(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax probabilities, batch x classes.

    Args:
        logits: batch x classes, and perhaps further axes of extent 1.

    Raises:
        PreconditionFailed: if the logits are no vector a picture.
    """
    scores = _as_vectors(logits)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def scores_of(logits: NDArray[Any], classes: Sequence[int]) -> tuple[ClassScore, ...]:
    """The scores of one class for each picture.

    Args:
        logits: batch x classes.
        classes: One for each picture.
    """
    scores, probabilities = _as_vectors(logits), class_scores(logits)
    return tuple(
        ClassScore(wanted, float(scores[row, wanted]), float(probabilities[row, wanted]))
        for row, wanted in enumerate(classes)
    )


def strongest_classes(logits: NDArray[Any], count: int) -> tuple[tuple[ClassScore, ...], ...]:
    """The ``count`` strongest classes of each picture, strongest first, equal ones by index.

    Args:
        logits: batch x classes, and perhaps further axes of extent 1.
        count: How many; fewer if there are not as many classes.

    Raises:
        PreconditionFailed: if the logits are no vector a picture.
    """
    scores, probabilities = _as_vectors(logits), class_scores(logits)
    orders = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return tuple(
        tuple(ClassScore(int(index), float(row[index]), float(chances[index])) for index in order)
        for row, chances, order in zip(scores, probabilities, orders, strict=True)
    )


def _as_vectors(logits: NDArray[Any]) -> NDArray[np.float64]:
    scores = np.asarray(logits, np.float64)
    if scores.ndim < 2 or scores.size != scores.shape[0] * max(scores.shape[1:]):
        raise PreconditionFailed(
            f"the model's logits have the shape {list(scores.shape)}, expected one vector a picture",
            reason="NO_CLASSES",
        )
    return scores.reshape(scores.shape[0], -1)

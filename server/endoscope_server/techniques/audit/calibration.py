"""How well a model's confidence says how often it is right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
_TINY = 1e-15


@dataclass(frozen=True, slots=True)
class Bin:
    """Pictures of about the same confidence.

    Attributes:
        low: Confidences are above this (from it on in the first bin).
        high: And at most this.
        count: Pictures.
        confidence: Their mean confidence; 0 without pictures.
        accuracy: The share of them that is right; 0 without pictures.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a model's probabilities compare with what is true.

    Attributes:
        ece: Expected calibration error: the mean gap between confidence and accuracy, weighted by pictures
            (Naeini et al. 2015; Guo et al. 2017).
        mce: The largest gap of any bin.
        brier: The mean squared distance of the probabilities to the truth, in [0, 2] (Brier 1950).
        log_loss: The mean negative logarithm of the true class's probability.
        confidence: The mean of the largest probability.
        bins: Of equal width.
    """

    ece: float
    mce: float
    brier: float
    log_loss: float
    confidence: float
    bins: tuple[Bin, ...]


def calibrate(probabilities: NDArray[np.float64], true: NDArray[np.int64], bins: int = BINS) -> Calibration:
    """Measure the calibration.

    Args:
        probabilities: pictures x classes, at least one picture.
        true: The class of each picture.
        bins: How many.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == true
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    found = []
    for place in range(bins):
        inside = places == place
        count = int(inside.sum())
        found.append(
            Bin(
                float(edges[place]),
                float(edges[place + 1]),
                count,
                float(confidence[inside].mean()) if count else 0.0,
                float(right[inside].mean()) if count else 0.0,
            )
        )
    gaps = [abs(item.confidence - item.accuracy) for item in found]
    own = probabilities[np.arange(len(true)), true]
    squares = np.square(probabilities).sum(1) - 2 * own + 1
    return Calibration(
        ece=sum(gap * item.count for gap, item in zip(gaps, found, strict=True)) / len(true),
        mce=max(gaps),
        brier=float(squares.mean()),
        log_loss=float(-np.log(np.maximum(own, _TINY)).mean()),
        confidence=float(confidence.mean()),
        bins=tuple(found),
    )


def wilson(successes: int, count: int, deviations: float = 1.959964) -> tuple[float, float]:
    """The interval in which a share lies with 95% confidence (Wilson 1927)."""
    share, square = successes / count, deviations**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    spread = math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    reach = deviations * spread / (1 + square / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def share_in_top(logits: NDArray[Any], true: NDArray[np.int64], count: int) -> float:
    """The share of pictures whose class is among the ``count`` strongest; equal scores go by index."""
    strongest = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    return float((strongest == true[:, None]).any(1).mean())

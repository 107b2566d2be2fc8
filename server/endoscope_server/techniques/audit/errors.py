"""The pictures that the model gets wrong, and what it has near them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.techniques.audit.evidence import Evidence
from endoscope_server.techniques.audit.finding import Figure, Finding, Work
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter
from endoscope_server.techniques.neighbors import Metric, NeighborIndex
from endoscope_server.techniques.parts.steps import Step

NEIGHBORS = 4
MOST = 12
"""Errors that are shown; the surest first."""


@dataclass(frozen=True, slots=True)
class _InMemory:
    """Features that are all at hand, as an index takes them."""

    array: NDArray[Any]

    def __len__(self) -> int:
        return len(self.array)

    @property
    def width(self) -> int:
        """Numbers a vector."""
        return self.array.shape[1]

    def take(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Some vectors."""
        return self.array[positions]

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """All vectors in one block."""
        yield np.arange(len(self.array)), self.array


def errors(evidence: Evidence, _parameters: AuditParameters) -> Work:
    """Each error with its nearest neighbours among the pictures, by the features before the logits."""
    if not len(evidence.labelled):
        reason = evidence.case.labels.reason or "none of the pictures looked at has a label"
        return Finding(Chapter.ERRORS, not_applicable=reason)
    wrong = evidence.wrong
    surest = sorted(wrong.tolist(), key=lambda place: (-evidence.probabilities[place].max(), place))[:MOST]
    told: list[dict[str, Any]] = []
    figures: list[Figure] = []
    count = min(NEIGHBORS, len(evidence.items) - 1)
    if surest and count:
        index = NeighborIndex(_InMemory(evidence.features), Metric.L2)
        for _ in index.build():
            yield None
        found = yield from index.search(evidence.features[surest], count, surest)
        for row, place in enumerate(surest):
            near = found.positions[row].tolist()
            told.append(
                {
                    **_picture(evidence, place),
                    "neighbors": [
                        {**_picture(evidence, other), "distance": float(distance)}
                        for other, distance in zip(near, found.distances[row], strict=True)
                    ],
                }
            )
            figures += [
                _figure(evidence, place, "wrong: "),
                *(_figure(evidence, other, "") for other in near),
            ]
            yield Step(row + 1, len(surest), stage=f"neighbours of {row + 1} of {len(surest)} errors")
    values = {
        "pictures": len(evidence.labelled),
        "errors": len(wrong),
        "share": len(wrong) / len(evidence.labelled),
        "neighbors": count if told else 0,
        "shown": told,
    }
    return Finding(Chapter.ERRORS, values, {"errors": tuple(figures)})


def _picture(evidence: Evidence, place: int) -> dict[str, Any]:
    true = int(evidence.true[place])
    return {
        "name": evidence.items[place].name,
        "true": evidence.told(true) if true >= 0 else None,
        "predicted": evidence.told(int(evidence.predicted[place])),
        "confidence": float(evidence.probabilities[place].max()),
    }


def _figure(evidence: Evidence, place: int, before: str) -> Figure:
    true = int(evidence.true[place])
    seen = evidence.class_name(int(evidence.predicted[place]))
    confidence = f"{evidence.probabilities[place].max():.0%}"
    label = evidence.class_name(true) if true >= 0 else "no label"
    same = true == int(evidence.predicted[place])
    caption = f"{label}, {confidence}" if same else f"{before}{label}, seen as {seen}, {confidence}"
    return Figure(evidence.pictures[place], caption)

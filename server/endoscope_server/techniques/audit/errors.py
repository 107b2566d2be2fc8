"""The pictures that the model gets wrong, and what is near them in the pictures that it was trained on."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.datasets import ScanResult, Source
from endoscope_server.techniques.audit.evidence import Evidence, fitted, sample
from endoscope_server.techniques.audit.finding import Figure, Finding, Work
from endoscope_server.techniques.audit.labels import LabelMap
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter
from endoscope_server.techniques.classification import class_scores
from endoscope_server.techniques.neighbors import Metric, NeighborIndex
from endoscope_server.techniques.parts.steps import Step, retold

NEIGHBORS = 4
MOST = 12
"""Errors that are shown; the surest first."""

_PICTURES_A_STEP = 8
"""While features are computed."""


def steps(searched: int) -> int:
    """The most steps of the chapter where so many pictures are searched."""
    return MOST + -(-searched // _PICTURES_A_STEP)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A picture, and what the model says of it alone.

    Attributes:
        name: In its dataset.
        label: As its dataset has it; may be empty.
        true: The class that the label names; -1 if it names none.
        pixels: channels x height x width in 8 bits.
        predicted: The class that the model sees.
        confidence: Its probability.
        features: What the last layer makes the logits of.
    """

    name: str
    label: str
    true: int
    pixels: NDArray[np.uint8]
    predicted: int
    confidence: float
    features: NDArray[np.float64]


def errors(evidence: Evidence, parameters: AuditParameters) -> Work:
    """Each error with its nearest neighbours in the gallery, by the features before the logits."""
    if not len(evidence.labelled):
        reason = evidence.case.labels.reason or "none of the pictures looked at has a label"
        return Finding(Chapter.ERRORS, not_applicable=reason)
    wrong = evidence.wrong
    surest = sorted(wrong.tolist(), key=lambda place: (-evidence.probabilities[place].max(), place))[:MOST]
    told: list[dict[str, Any]] = []
    figures: list[Figure] = []
    searched: dict[str, Any] | None = None
    count = 0
    if surest:
        searched, nearest = yield from _search(evidence, parameters, surest)
        case, gallery = evidence.case, evidence.case.gallery
        known: dict[int, _Seen] = {}
        for row, place in enumerate(surest):
            error = replace(
                _see(evidence, case.source, evidence.items[place].index, case.labels),
                predicted=int(evidence.predicted[place]),
                confidence=float(evidence.probabilities[place].max()),
            )
            near = []
            for index in nearest[row]:
                if index not in known:
                    known[index] = _see(evidence, gallery.source, index, gallery.labels)
                    yield None
                near.append((float(np.linalg.norm(known[index].features - error.features)), known[index]))
            # They were found by features that may have been computed many at once; these are of each alone.
            near.sort(key=lambda pair: pair[0])
            count = len(near)
            neighbors = [{**_told(evidence, item), "distance": distance} for distance, item in near]
            told.append({**_told(evidence, error), "neighbors": neighbors})
            figures.append(_figure(evidence, error, "wrong: "))
            figures += [_figure(evidence, item, "") for _, item in near]
            yield Step(row + 1, len(surest), stage=f"neighbours of {row + 1} of {len(surest)} errors")
    values = {
        "pictures": len(evidence.labelled),
        "errors": len(wrong),
        "share": len(wrong) / len(evidence.labelled),
        "neighbors": count,
        "searched": searched,
        "shown": told,
    }
    return Finding(Chapter.ERRORS, values, {"errors": tuple(figures)})


def _search(
    evidence: Evidence, parameters: AuditParameters, places: Sequence[int]
) -> Generator[Step | None, None, tuple[dict[str, Any], list[list[int]]]]:
    """What was searched, and for each of some pictures the gallery's items that are nearest."""
    gallery = evidence.case.gallery
    total = len(gallery.source.items)
    items = sample(parameters.max_searched_items, total, parameters.seed)
    scanned = yield from _scan(evidence, items)
    usable = [index for index in items if scanned.digests[index] is not None]
    told = {
        "dataset": gallery.name,
        "audited": gallery.audited,
        "pictures": total,
        "searched": len(items),
        "skipped": len(items) - len(usable),
    }
    at = {index: position for position, index in enumerate(usable)}
    exclude = [at.get(evidence.items[place].index) if gallery.audited else None for place in places]
    count = min(NEIGHBORS, len(usable) - (1 if gallery.audited else 0))
    if count < 1:
        return told, [[] for _ in places]
    (table,) = scanned.tables.values()
    keys = [key for index in usable if (key := scanned.digests[index]) is not None]
    index = NeighborIndex(table.view(keys), Metric.L2)
    for _ in index.build():
        yield None
    found = yield from index.search(evidence.features[list(places)], count, exclude)
    return told, [[usable[position] for position in row] for row in found.positions.tolist()]


def _scan(evidence: Evidence, items: Sequence[int]) -> Generator[Step | None, None, ScanResult]:
    """The gallery's features; how many steps it tells goes by the pictures, not by the seconds."""
    done = 0.0

    def tell(step: Step | None) -> Step | None:
        nonlocal done
        now = done if step is None else step.losses["images_done"]
        if step is None or now <= done or now < min(done + _PICTURES_A_STEP, len(items)):
            return None
        done = now
        return Step(step.index, step.total, stage=step.stage)

    return (yield from retold(evidence.case.gallery.scan(items), tell))


def _see(evidence: Evidence, source: Source, index: int, labels: LabelMap) -> _Seen:
    subject, item = evidence.subject, source.items[index]
    pixels = fitted(subject, source.read(index))
    graph = subject.graph
    found = subject.judged_values(pixels[None], list(dict.fromkeys((graph.logits, graph.features))))
    logits = np.asarray(found[graph.logits], np.float64).reshape(1, -1)
    probabilities = logits[0] if evidence.normalised else class_scores(logits)[0]
    predicted = int(logits.argmax())
    return _Seen(
        item.name,
        item.label,
        labels.classes.get(item.label, -1),
        pixels,
        predicted,
        float(probabilities[predicted]),
        np.asarray(found[graph.features], np.float64).reshape(-1),
    )


def _told(evidence: Evidence, item: _Seen) -> dict[str, Any]:
    return {
        "name": item.name,
        "true": evidence.told(item.true) if item.true >= 0 else None,
        "predicted": evidence.told(item.predicted),
        "confidence": item.confidence,
    }


def _figure(evidence: Evidence, item: _Seen, before: str) -> Figure:
    seen = evidence.class_name(item.predicted)
    label = evidence.class_name(item.true) if item.true >= 0 else item.label or "no label"
    confidence = f"{item.confidence:.0%}"
    same = item.true == item.predicted
    caption = f"{label}, {confidence}" if same else f"{before}{label}, seen as {seen}, {confidence}"
    return Figure(item.pixels, caption)

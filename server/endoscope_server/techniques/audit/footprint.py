"""About how much memory an audit takes."""

from __future__ import annotations

import math

from endoscope_server.graph import Graph
from endoscope_server.techniques.audit import features, fooling, robustness
from endoscope_server.techniques.audit.evidence import BATCH, Case
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter
from endoscope_server.techniques.parts.batches import Batch

_PICTURE_COPIES = 2
"""The pictures are gathered one by one, and then stacked."""
_NUMBER_BYTES = 8
_SCORE_COPIES = 3
"""Logits as they come, as one array, and as probabilities."""
_FEATURE_COPIES = 2
_INDEX_BYTES = 4
"""Of a number of a picture that is searched."""


def audit_memory(case: Case, parameters: AuditParameters, activation_bytes: int) -> int:
    """About how many bytes the pictures that are looked at take, and the largest step beside them.

    Args:
        case: What is audited.
        parameters: What is wanted.
        activation_bytes: Of all the model's values for one picture of its own size.
    """
    subject, graph = case.subject, case.subject.graph
    items = min(parameters.max_items, len(case.source.items))
    rows, columns = subject.size
    picture = _PICTURE_COPIES * subject.preprocessing.channels * rows * columns
    scores = _SCORE_COPIES * (graph.class_count or 1)
    width = _width(graph, graph.features)
    numbers = _NUMBER_BYTES * (scores + _FEATURE_COPIES * width)
    searched = min(parameters.max_searched_items, len(case.gallery.source.items))
    search = 0
    if Chapter.ERRORS in parameters.chapters:
        search = max(searched * width * _INDEX_BYTES, case.gallery.scan_bytes)
    step = max(
        BATCH * activation_bytes,
        *(Batch(count).memory(subject, activation_bytes) for count in _attended(case, parameters, items)),
    )
    return items * (picture + numbers) + max(step, search)


def _attended(case: Case, parameters: AuditParameters, items: int) -> list[int]:
    """How many pictures at once the chapters take gradients for."""
    if not case.certificate.passed:
        return [0]
    classes = min(parameters.max_classes, case.subject.graph.class_count or 1)
    most = {
        Chapter.ROBUSTNESS: min(robustness.BATCH, parameters.max_attacked_items, items),
        Chapter.FOOLING: min(fooling.BATCH, classes),
        Chapter.PRIVACY: 1,
        Chapter.FEATURES: min(features.BATCH, classes),
    }
    return [0, *(most[chapter] for chapter in parameters.chapters if chapter in most)]


def _width(graph: Graph, name: str) -> int:
    """Numbers that a value has for each picture, as far as that is known."""
    shape = graph.values[name].shape or ()
    return math.prod(size for size in shape[1:] if isinstance(size, int))

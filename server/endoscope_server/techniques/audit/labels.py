"""Which classes of a model the labels of a dataset name."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from endoscope_server.errors import InvalidInput
from endoscope_server.techniques.audit.parameters import LabelMapping

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class LabelMap:
    """What the labels of a dataset mean to a model.

    Attributes:
        classes: Indices of classes by label; empty if the labels say nothing.
        mapping: How they were read; ``NONE`` if they say nothing.
        reason: Why they say nothing; empty if they do.
    """

    classes: Mapping[str, int]
    mapping: LabelMapping
    reason: str = ""


def map_labels(
    labels: Iterable[str],
    names: Sequence[str],
    class_count: int | None,
    mapping: LabelMapping | None,
    field: str = "dataset",
) -> LabelMap:
    """Read the labels of a dataset; pictures whose label is empty have none.

    Args:
        labels: Of the dataset's pictures.
        names: Of the model's classes, in the order of the logits; may be empty.
        class_count: Of the model; None if it is not known.
        mapping: How labels are read; None for whatever fits every label.
        field: Of the request, which named the dataset.

    Raises:
        InvalidInput: if some labels are classes and others are not, if a mapping that was asked for does not
            fit every label, or if both fit and disagree.
    """
    known = sorted(set(labels) - {""})
    if mapping is LabelMapping.NONE:
        return LabelMap({}, LabelMapping.NONE, "labels were not to be used")
    if not known:
        return LabelMap({}, LabelMapping.NONE, "the dataset has no labels")
    found = {
        LabelMapping.TEXT: _by_text(known, names),
        LabelMapping.INDEX: _by_index(known, class_count),
    }
    if mapping is not None:
        if len(found[mapping]) < len(known):
            raise _unmatched(known, found[mapping], names, class_count, field)
        return LabelMap(found[mapping], mapping)
    complete = [way for way, classes in found.items() if len(classes) == len(known)]
    if len(complete) == 2 and found[LabelMapping.TEXT] != found[LabelMapping.INDEX]:
        label = next(
            label for label in known if found[LabelMapping.TEXT][label] != found[LabelMapping.INDEX][label]
        )
        raise InvalidInput(
            f"the labels can be read as text and as indices, which disagree: {label!r} is class "
            f"{found[LabelMapping.TEXT][label]} by its text; expected to be told which",
            field="label_mapping",
            reason="AMBIGUOUS_LABELS",
        )
    if complete:
        return LabelMap(found[complete[0]], complete[0])
    if not any(found.values()):
        return LabelMap({}, LabelMapping.NONE, f"no label is a class of the model: {_listed(known)}")
    best = max(found.values(), key=len)
    raise _unmatched(known, best, names, class_count, field)


def _by_text(labels: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    whole: dict[str, set[int]] = defaultdict(set)
    parts: dict[str, set[int]] = defaultdict(set)
    for index, name in enumerate(names):
        whole[_plain(name)].add(index)
        for part in name.split(","):
            parts[_plain(part)].add(index)
    found = {}
    for label in labels:
        # A name that two classes share, such as ImageNet's "crane", names neither.
        classes = whole.get(_plain(label)) or parts.get(_plain(label)) or set()
        if len(classes) == 1:
            found[label] = next(iter(classes))
    return found


def _by_index(labels: Sequence[str], class_count: int | None) -> dict[str, int]:
    indices = {label: int(label) for label in labels if label.isascii() and label.isdecimal()}
    return {label: index for label, index in indices.items() if class_count and index < class_count}


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").casefold().split())


def _unmatched(
    known: Sequence[str],
    found: Mapping[str, int],
    names: Sequence[str],
    class_count: int | None,
    field: str,
) -> InvalidInput:
    missing = [label for label in known if label not in found]
    words = {_plain(part): part.strip() for name in names for part in name.split(",")}
    close = difflib.get_close_matches(_plain(missing[0]), words, 3, 0.6)
    hint = f"; close to {missing[0]!r} are {', '.join(repr(words[word]) for word in close)}" if close else ""
    return InvalidInput(
        f"{len(missing)} of {len(known)} labels are no class of the model: {_listed(missing)}; expected "
        f"labels of its card, or indices below {class_count or 'the number of classes'}{hint}",
        field=field,
        reason="UNMATCHED_LABELS",
    )


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(repr(label[:80]) for label in labels[:_SHOWN]) + (
        ", ..." if len(labels) > _SHOWN else ""
    )

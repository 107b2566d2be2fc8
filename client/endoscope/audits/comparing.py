"""Two models' reports side by side."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jinja2

from endoscope.audits.measures import MEASURES, Measure, expanded, lookup

_MOST_CLASSES = 10
_ALIKE = 1e-9


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of both models.

    Attributes:
        measure: The measure.
        first: Of the first model; None if it was not measured.
        second: Of the second model, likewise.
        better: Which is better; empty if they are the same or nobody can say.
    """

    measure: Measure
    first: Any
    second: Any
    better: Literal["first", "second", ""]

    @property
    def chapter(self) -> str:
        """The chapter that it belongs to."""
        return self.measure.keys[0]

    @property
    def change(self) -> str:
        """From the first to the second, for people; empty where one is not known."""
        if not (_is_number(self.first) and _is_number(self.second)) or self.measure.kind == "flag":
            return ""
        if self.first == self.second:
            return "same"
        change = self.second - self.first
        if self.measure.kind == "share":
            return f"{100 * change:+.1f} points"
        return f"{change:+.3g}"


@dataclass(frozen=True, slots=True)
class ClassChange:
    """How often both models are right on one class's pictures."""

    label: str
    first: float
    second: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two reports side by side.

    Attributes:
        differences: Every measure that either report has.
        classes: The classes whose accuracy differs most.
        unlike: What is not the same in how the reports were made, each as ``name: first, second``.
        html: A page that needs no other file.
    """

    differences: tuple[Difference, ...]
    classes: tuple[ClassChange, ...]
    unlike: tuple[str, ...]
    html: bytes


def compare_reports(first: Mapping[str, Any], second: Mapping[str, Any]) -> Comparison:
    """Compare two reports as :func:`read_report` gives them; the same reports always give the same bytes."""
    differences = tuple(_differences(first["measures"], second["measures"]))
    classes = tuple(_classes(first, second))
    unlike = tuple(_unlike(first, second))
    page = (
        _environment()
        .get_template("compare.html")
        .render(
            names=_names(first, second),
            reports=(first, second),
            differences=differences,
            chapters=list(dict.fromkeys(item.chapter for item in differences)),
            better={side: sum(item.better == side for item in differences) for side in ("first", "second")},
            classes=classes,
            unlike=unlike,
            curves=list(_curves(first, second)),
        )
    )
    return Comparison(differences, classes, unlike, page.encode())


def _names(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, str]:
    """What both models are called; their fingerprints tell models of one name apart."""
    titles = [str(report["title"]) for report in (first, second)]
    if titles[0] == titles[1]:
        marks = [report["provenance"]["model_fingerprint"][:8] for report in (first, second)]
        titles = [f"{title} ({mark})" for title, mark in zip(titles, marks, strict=True)]
    return titles[0], titles[1]


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    for known in MEASURES:
        for measure in expanded(known, first, second):
            values = lookup(first, measure), lookup(second, measure)
            if values != (None, None):
                yield Difference(measure, *values, _better(measure, *values))


def _better(measure: Measure, first: Any, second: Any) -> Literal["first", "second", ""]:
    if measure.better is None or not (_is_number(first) and _is_number(second)):
        return ""
    if math.isclose(first, second, rel_tol=_ALIKE, abs_tol=_ALIKE):
        return ""
    return "first" if (first > second) == (measure.better == "higher") else "second"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _classes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[ClassChange]:
    accuracies = [
        {
            item["label"]: item["accuracy"]
            for item in report["chapters"].get("accuracy", {}).get("classes", ())
        }
        for report in (first, second)
    ]
    changes = [
        ClassChange(label, accuracy, accuracies[1][label])
        for label, accuracy in accuracies[0].items()
        if label in accuracies[1] and accuracies[1][label] != accuracy
    ]
    return sorted(changes, key=lambda item: -abs(item.second - item.first))[:_MOST_CLASSES]


def _unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """Why the numbers may not be like for like."""
    files = [
        report["chapters"].get("identity", {}).get("dataset", {}).get("sha256") for report in (first, second)
    ]
    if None not in files and files[0] != files[1]:
        yield "the pictures that were looked at are not the same files"
    told = [report["provenance"] for report in (first, second)]
    before, after = ({**item["parameters"], "seed": item["seed"]} for item in told)
    expected = {"model", "preprocessing"}
    if None not in files:
        expected.add("dataset")
    for name in sorted({*before, *after} - expected):
        if before.get(name) != after.get(name):
            yield f"{name}: {before.get(name)}, {after.get(name)}"
    versions = [item["versions"] for item in told]
    for name in sorted({*versions[0], *versions[1]}):
        if versions[0].get(name) != versions[1].get(name):
            yield f"version of {name}: {versions[0].get(name)}, {versions[1].get(name)}"


@dataclass(frozen=True, slots=True)
class _Curve:
    """Accuracy over the radius of both models, as polylines in a box of 100 x 60, upside down as SVG is."""

    title: str
    ticks: tuple[tuple[float, str], ...]
    lines: tuple[str, str]
    alt: str


def _curves(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[_Curve]:
    for norm, title in (("linf", "L-infinity"), ("l2", "L2")):
        told = [report["measures"].get("robustness") for report in (first, second)]
        if None in told:
            continue
        radii = [list(item[norm]["robust_accuracy"]) for item in told if item]
        if not radii[0] or radii[0] != radii[1]:
            continue
        heights = [[item["clean_accuracy"], *item[norm]["robust_accuracy"].values()] for item in told if item]
        places = [100 * place / len(radii[0]) for place in range(len(radii[0]) + 1)]
        words = " against ".join(", ".join(f"{height:.0%}" for height in line) for line in heights)
        yield _Curve(
            title,
            tuple(zip(places, ["0", *radii[0]], strict=True)),
            (_polyline(places, heights[0]), _polyline(places, heights[1])),
            f"Accuracy under attack in {title}, without attack and at {', '.join(radii[0])}: {words}.",
        )


def _polyline(places: Sequence[float], heights: Sequence[float]) -> str:
    return " ".join(
        f"{place:.2f},{60 * (1 - height):.2f}" for place, height in zip(places, heights, strict=True)
    )


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("endoscope.audits"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

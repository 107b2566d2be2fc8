"""The measures of a report that thresholds are set on and models are compared by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

ANY = "*"
"""Stands in a path for a radius, such as ``4/255``."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that counts.

    Attributes:
        path: Where it is below ``measures`` in the JSON, with dots.
        title: For people.
        better: In which direction a model is better; None where nobody can say.
        kind: How it is written.
        at: Which radius is meant by the path's ``*``; empty for each.
    """

    path: str
    title: str
    better: Literal["higher", "lower"] | None = "lower"
    kind: Literal["share", "number", "flag"] = "number"
    at: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The path in parts."""
        return tuple(self.path.split("."))

    @property
    def name(self) -> str:
        """The path with the radius in its place."""
        return self.path.replace(ANY, f'"{self.at}"') if self.at else self.path

    def written(self, value: Any) -> str:
        """A value for people."""
        if value is None:
            return "not measured"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, str):
            return value
        return f"{value:.1%}" if self.kind == "share" else f"{value:.4g}"


def _norm(norm: str, title: str) -> tuple[Measure, ...]:
    return (
        Measure(
            f"robustness.{norm}.robust_accuracy.{ANY}", f"accuracy under attack, {title}", "higher", "share"
        ),
        Measure(f"robustness.{norm}.median_norm", f"median smallest perturbation, {title}", "higher"),
    )


MEASURES: tuple[Measure, ...] = (
    Measure("parity.passed", "parity passed", "higher", "flag"),
    Measure("parity.worst_relative", "largest relative difference", None),
    Measure("parity.worst_absolute", "largest absolute difference", None),
    Measure("accuracy.top1", "top-1", "higher", "share"),
    Measure("accuracy.top5", "top-5", "higher", "share"),
    Measure("accuracy.mean_class_accuracy", "mean over classes", "higher", "share"),
    Measure("accuracy.ece", "expected calibration error"),
    Measure("accuracy.mce", "largest calibration error"),
    Measure("accuracy.brier", "Brier score"),
    Measure("accuracy.log_loss", "log loss"),
    Measure("robustness.clean_accuracy", "accuracy without attack", "higher", "share"),
    *_norm("linf", "L-infinity"),
    *_norm("l2", "L2"),
    Measure("fooling.reached_share", "classes that noise can be made into", "lower", "share"),
    Measure("fooling.median_steps", "steps that it takes, median", "higher"),
    Measure("privacy.last_psnr", "PSNR of the last layer's inversion, dB"),
    Measure("privacy.last_ssim", "SSIM of the last layer's inversion"),
    Measure("features.dead_share", "units that never fire", "lower", "share"),
    Measure("features.dead_channel_share", "channels that never fire", "lower", "share"),
    Measure("errors.count", "errors"),
    Measure("errors.share", "share of errors", "lower", "share"),
)


def lookup(measures: Mapping[str, Any], measure: Measure) -> Any:
    """The value of a measure in a report's ``measures``; None if it is not there."""
    found: Any = measures
    for key in measure.keys:
        if not isinstance(found, Mapping):
            return None
        name = _same_radius(found, measure.at) if key == ANY else key
        found = found.get(name)
    return found


def expanded(measure: Measure, *reports: Mapping[str, Any]) -> Iterator[Measure]:
    """The measure, or one for each radius that any of some reports' ``measures`` has."""
    if measure.keys[-1] != ANY:
        yield measure
        return
    parent = replace(measure, path=measure.path.removesuffix(f".{ANY}"))
    radii = {radius(name): name for told in reports for name in lookup(told, parent) or {}}
    for _, name in sorted(radii.items()):
        yield replace(measure, title=f"{measure.title} at {name}", at=name)


def _same_radius(values: Mapping[str, Any], name: str) -> str:
    """The key that means the same radius, such as ``2/255`` for ``0.00784313725``."""
    wanted = radius(name)
    return next((key for key in values if math.isclose(radius(key), wanted, rel_tol=1e-6)), name)


def radius(text: str) -> float:
    """A radius such as ``4/255`` as a number.

    Raises:
        ValueError: if it is none.
    """
    above, slash, below = text.partition("/")
    try:
        found = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        found = -1.0
    if not found > 0:
        raise ValueError(f"{text!r} is no radius, expected one such as 4/255 or 0.5")
    return found

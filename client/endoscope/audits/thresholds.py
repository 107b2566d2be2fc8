"""Bounds that a model must keep, in a TOML file, and whether an audit kept them.

The file's tables are those of ``measures`` in the report's JSON::

    [parity]
    passed = true

    [accuracy]
    top1 = { min = 0.7 }
    ece = { max = 0.1 }

    [robustness.linf]
    median_norm = { min = 0.002 }
    robust_accuracy = { "1/255" = { min = 0.3 } }
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from endoscope.audits.measures import ANY, MEASURES, Measure, lookup, radius
from endoscope.errors import InvalidArgument, invalid

_FIELD = "thresholds"
_BOUNDS = ("min", "max")


@dataclass(frozen=True, slots=True)
class Threshold:
    """What one measure must keep.

    Attributes:
        measure: The measure.
        minimum: It must be at least this; minus infinity for no bound.
        maximum: It must be at most this; infinity for no bound.
        flag: It must be this; None for numbers.
    """

    measure: Measure
    minimum: float = -math.inf
    maximum: float = math.inf
    flag: bool | None = None

    def __str__(self) -> str:
        if self.flag is not None:
            return "yes" if self.flag else "no"
        bounds = []
        if self.minimum > -math.inf:
            bounds.append(f"at least {self.minimum:g}")
        if self.maximum < math.inf:
            bounds.append(f"at most {self.maximum:g}")
        return ", ".join(bounds)

    def holds(self, value: Any) -> bool:
        """Whether a measured value keeps it; what was not measured does not."""
        if self.flag is not None:
            return value is self.flag
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            # A difference without end is told in a word.
            return value == "infinite" and self.maximum == math.inf
        return self.minimum <= value <= self.maximum


@dataclass(frozen=True, slots=True)
class Check:
    """A threshold and what came of it.

    Attributes:
        name: The measure's path.
        expected: The bound, in words.
        value: What was measured; None if it was not.
        passed: Whether it was kept.
    """

    name: str
    expected: str
    value: Any
    passed: bool


def check(thresholds: Sequence[Threshold], measures: Mapping[str, Any]) -> tuple[Check, ...]:
    """Hold a report's ``measures`` to thresholds. What was not measured is missed."""
    return tuple(_check(threshold, lookup(measures, threshold.measure)) for threshold in thresholds)


def _check(threshold: Threshold, value: Any) -> Check:
    return Check(threshold.measure.name, str(threshold), value, threshold.holds(value))


def read_thresholds(path: str | Path) -> tuple[Threshold, ...]:
    """The thresholds in a TOML file.

    Raises:
        InvalidArgument: if it is no TOML, has a name that is no measure, or a bound that can't be.
    """
    try:
        told = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise invalid(f"can't read {str(path)!r}: {error.strerror}", _FIELD) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise invalid(f"{str(path)!r} is no TOML: {error}", _FIELD) from error
    found = tuple(_walk(told, ()))
    if not found:
        raise invalid(f"{str(path)!r} has no thresholds, expected at least one", _FIELD)
    return found


def _walk(table: Mapping[str, Any], before: tuple[str, ...]) -> Iterator[Threshold]:
    for key, value in table.items():
        path = (*before, key)
        measure = _measure(path)
        if measure is not None:
            yield _threshold(measure, value)
        elif _begins_a_path(path) and isinstance(value, Mapping):
            yield from _walk(value, path)
        else:
            raise _unknown(path)


def _measure(path: tuple[str, ...]) -> Measure | None:
    for measure in MEASURES:
        keys = measure.keys
        if keys == path:
            return measure
        if keys[-1] == ANY and keys[:-1] == path[:-1]:
            try:
                radius(path[-1])
            except ValueError as error:
                raise invalid(str(error), f"{_FIELD}.{'.'.join(path)}") from None
            return replace(measure, at=path[-1])
    return None


def _begins_a_path(path: tuple[str, ...]) -> bool:
    return any(measure.keys[: len(path)] == path for measure in MEASURES)


def _unknown(path: tuple[str, ...]) -> InvalidArgument:
    beside = {
        measure.keys[len(path) - 1] for measure in MEASURES if measure.keys[: len(path) - 1] == path[:-1]
    }
    return invalid(
        f"{'.'.join(path)} is no measure, expected one of {', '.join(sorted(beside))}",
        f"{_FIELD}.{'.'.join(path)}",
    )


def _threshold(measure: Measure, value: Any) -> Threshold:
    where = f"{_FIELD}.{measure.name}"
    if measure.kind == "flag":
        if not isinstance(value, bool):
            raise invalid(f"{measure.name} is {value!r}, expected true or false", where)
        return Threshold(measure, flag=value)
    if not isinstance(value, Mapping) or not value:
        raise invalid(f"{measure.name} is {value!r}, expected bounds such as {{ min = 0.5 }}", where)
    unknown = sorted(value.keys() - set(_BOUNDS))
    if unknown:
        raise invalid(f"{measure.name}.{unknown[0]} is no bound, expected min or max", where)
    for name, bound in value.items():
        if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not math.isfinite(bound):
            raise invalid(f"{measure.name}.{name} is {bound!r}, expected a number", where)
    threshold = Threshold(measure, value.get("min", -math.inf), value.get("max", math.inf))
    if threshold.minimum > threshold.maximum:
        raise invalid(f"{measure.name} has min above max, which nothing keeps", where)
    return threshold

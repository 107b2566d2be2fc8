"""Rules by operator, and what they share."""

from __future__ import annotations

from collections.abc import Callable

from endoscope_server.graph.footprints.footprint import Footprint, Rule, Track

RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """What follows is the rule of these operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


def kept(footprint: Footprint, keep: Callable[[int], bool]) -> Footprint:
    """The tracks along some axes."""
    return {image: track for image, track in footprint.items() if keep(track.axis)}


def moved_axes(footprint: Footprint, move: Callable[[int], int | None]) -> Footprint:
    """The tracks, each along another axis; None for what is no axis any more."""
    moved = {image: (move(track.axis), track.field) for image, track in footprint.items()}
    return {image: Track(axis, field) for image, (axis, field) in moved.items() if axis is not None}


def without(footprint: Footprint, removed: set[int], keepdims: bool) -> Footprint:
    """The tracks that are left when some axes are summed up."""
    left = kept(footprint, lambda axis: axis not in removed)
    if keepdims:
        return left
    return moved_axes(left, lambda axis: axis - sum(gone < axis for gone in removed))


def common(first: Footprint, second: Footprint) -> dict[int, Track]:
    """The tracks that two footprints have in common; they see what either sees."""
    merged: dict[int, Track] = {}
    for image in first.keys() & second.keys():
        one, other = first[image], second[image]
        field = one.field.merged(other.field)
        if one.axis == other.axis and field is not None:
            merged[image] = Track(one.axis, field)
    return merged

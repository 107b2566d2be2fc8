"""Operators that resample."""

from __future__ import annotations

from fractions import Fraction

from endoscope_server.graph.footprints.footprint import WHOLE, AxisField, Footprint, Step, Track, fixed
from endoscope_server.graph.footprints.registry import rule


@rule("Upsample", "Resize")
def _resize(step: Step) -> Footprint:
    before, after = step.shape(step.node.input[0]), step.shape(step.node.output[0])
    if before is None or after is None or not step.only_first_depends():
        return WHOLE
    coordinates = step.text("coordinate_transformation_mode", "half_pixel")
    if coordinates == "tf_crop_and_resize":
        return WHOLE
    reach = 2 if step.text("mode", "nearest") == "cubic" else 1
    moved: dict[int, Track] = {}
    for image, track in step.source().items():
        old, new = fixed(before, track.axis), fixed(after, track.axis)
        if old is None or new is None:
            continue
        if old == new:
            moved[image] = track
            continue
        field = _resized(track.field, old, new, reach, coordinates)
        if field is not None:
            moved[image] = Track(track.axis, field)
    return moved


def _resized(field: AxisField, old: int, new: int, reach: int, coordinates: str) -> AxisField | None:
    if coordinates == "align_corners":
        if new == 1:
            return None
        step = Fraction(old - 1, new - 1)
        slack = reach * max(step, Fraction(1))
        return field.through(step, -slack, slack)
    step = Fraction(old, new)
    # The scale given may differ from the ratio of sizes by rounding: one unit at the far end at most.
    slack = reach * max(step, Fraction(1)) + 1
    return field.through(step, step / 2 - Fraction(1, 2) - slack, step / 2 - Fraction(1, 2) + slack)

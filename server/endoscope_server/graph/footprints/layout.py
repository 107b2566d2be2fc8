"""Operators that move, cut and join units, and change none."""

from __future__ import annotations

import math

from endoscope_server.graph.footprints.footprint import WHOLE, Footprint, Step, Track, fixed
from endoscope_server.graph.footprints.registry import common, kept, moved_axes, rule, without


@rule("Concat", "QLinearConcat")
def _concat(step: Step) -> Footprint:
    footprints = [step.footprints[name] for name in step.node.input if name in step.footprints]
    found = footprints[0]
    for footprint in footprints[1:]:
        found = common(found, footprint)
    shape = step.shape(step.node.output[0])
    axis = step.integer("axis", 1)
    if axis < 0:
        if shape is None:
            return WHOLE
        axis += len(shape)
    return kept(found, lambda own: own != axis)


@rule("Squeeze")
def _squeeze(step: Step) -> Footprint:
    rank = step.rank()
    axes = step.constants(1, "axes")
    if rank is None or axes is None:
        return WHOLE
    return without(step.source(), {axis % rank for axis in axes}, keepdims=False)


@rule("Unsqueeze")
def _unsqueeze(step: Step) -> Footprint:
    rank = step.rank()
    axes = step.constants(1, "axes")
    if rank is None or axes is None:
        return WHOLE
    new = {axis % (rank + len(axes)) for axis in axes}
    old = [axis for axis in range(rank + len(axes)) if axis not in new]
    return moved_axes(step.source(), lambda axis: old[axis])


@rule("Transpose")
def _transpose(step: Step) -> Footprint:
    rank = step.rank()
    if rank is None:
        return WHOLE
    order = step.integers("perm", tuple(reversed(range(rank))))
    return moved_axes(step.source(), order.index)


@rule("Reshape", "Flatten")
def _reshape(step: Step) -> Footprint:
    """Axes stay where as many elements lie behind them as before."""
    before, after = step.shape(step.node.input[0]), step.shape(step.node.output[0])
    if before is None or after is None:
        return WHOLE

    def move(axis: int) -> int | None:
        behind = _behind(before, axis)
        for candidate in range(len(after)):
            if (
                behind is not None
                and _behind(after, candidate) == behind
                and after[candidate] == before[axis]
            ):
                return candidate
        return None

    return moved_axes(step.source(), move)


def _behind(shape: tuple[int | str | None, ...], axis: int) -> int | None:
    sizes = shape[axis + 1 :]
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


@rule("Pad")
def _pad(step: Step) -> Footprint:
    rank = step.rank()
    pads = step.constants(1, "pads")
    if rank is None or pads is None or step.text("mode", "constant") == "wrap":
        return WHOLE
    axes = step.constants(3, "axes") if step.input(3) else tuple(range(rank))
    if axes is None:
        return WHOLE
    count = len(axes)
    before = {axis % rank: (pads[index], pads[index + count]) for index, axis in enumerate(axes)}
    mirrored = step.text("mode", "constant") in ("reflect", "edge")
    moved: dict[int, Track] = {}
    for image, track in step.source().items():
        begin, end = before.get(track.axis, (0, 0))
        # A unit in a mirrored border shows a pixel up to twice the border away, on the image's side.
        low = -begin - (2 * max(end, 0) if mirrored else 0)
        high = -begin + (2 * max(begin, 0) if mirrored else 0)
        moved[image] = Track(track.axis, track.field.through(1, low, high))
    return moved


@rule("Slice")
def _slice(step: Step) -> Footprint:
    shape = step.shape(step.node.input[0])
    starts = step.constants(1, "starts")
    if shape is None or starts is None:
        return WHOLE
    default = tuple(range(len(starts)))
    named = step.constants(3, "axes")
    if named is None and step.input(3):
        return WHOLE
    steps = step.constants(4, "steps") if step.input(4) else (1,) * len(starts)
    if steps is None:
        return WHOLE
    cuts = {
        axis % len(shape): (start, stride)
        for axis, start, stride in zip(named or default, starts, steps, strict=False)
    }
    moved: dict[int, Track] = {}
    for image, track in step.source().items():
        start, stride = cuts.get(track.axis, (0, 1))
        size = fixed(shape, track.axis)
        if start < 0:
            start = start + size if size is not None else -1
        if start >= 0 and stride > 0:
            moved[image] = Track(track.axis, track.field.through(stride, start, start))
    return moved


@rule("Split")
def _split(step: Step) -> Footprint:
    rank = step.rank()
    axis = step.integer("axis", 0)
    if axis < 0 and rank is None:
        return WHOLE
    axis = axis + rank if axis < 0 and rank is not None else axis
    return kept(step.source(), lambda own: own != axis)


@rule("Gather")
def _gather(step: Step) -> Footprint:
    rank, indices = step.rank(), step.shape(step.input(1))
    if rank is None or indices is None or not step.only_first_depends():
        return WHOLE
    axis = step.integer("axis", 0) % rank
    left = kept(step.source(), lambda own: own != axis)
    return moved_axes(left, lambda own: own if own < axis else own + len(indices) - 1)

"""Operators that look through a window, or at a block or all of the image's axes."""

from __future__ import annotations

import math
from fractions import Fraction

from endoscope_server.graph.footprints.footprint import WHOLE, Footprint, Step, Track, fixed
from endoscope_server.graph.footprints.registry import kept, rule


@rule("Conv", "ConvInteger", "QLinearConv", "AveragePool", "MaxPool", "LpPool", "QLinearAveragePool")
def _window(step: Step) -> Footprint:
    kernel = _kernel(step)
    if kernel is None or not step.only_first_depends():
        return WHOLE
    count = len(kernel)
    strides = step.integers("strides", (1,) * count)
    dilations = step.integers("dilations", (1,) * count)
    moved: dict[int, Track] = {}
    for image, track in step.source().items():
        spatial = track.axis - 2
        if not 0 <= spatial < count:
            continue
        reach = (kernel[spatial] - 1) * dilations[spatial]
        first, last = _begin(step, spatial, count, reach, strides[spatial])
        field = track.field.through(strides[spatial], -last, reach - first)
        moved[image] = Track(track.axis, field)
    return moved


def _kernel(step: Step) -> tuple[int, ...] | None:
    if own := step.integers("kernel_shape"):
        return own
    weight = step.shape(step.input(3 if step.node.op_type == "QLinearConv" else 1))
    if weight is None:
        return None
    sizes = [size for size in weight[2:] if isinstance(size, int)]
    return tuple(sizes) if len(sizes) == len(weight) - 2 else None


def _begin(step: Step, spatial: int, count: int, reach: int, stride: int) -> tuple[int, int]:
    """The least and the greatest padding before the axis; they differ only where it can't be known."""
    mode = step.text("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        before = step.integers("pads", (0,) * (2 * count))[spatial]
        return before, before
    if mode == "VALID":
        return 0, 0
    size = fixed(step.shape(step.node.input[0]), spatial + 2)
    if size is None:
        return 0, reach
    total = max((math.ceil(size / stride) - 1) * stride + reach + 1 - size, 0)
    before = total // 2 if mode == "SAME_UPPER" else total - total // 2
    return before, before


@rule("ConvTranspose")
def _transposed(step: Step) -> Footprint:
    kernel = _kernel(step)
    if kernel is None or not step.only_first_depends() or step.integers("output_shape"):
        return WHOLE
    if step.text("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID"):
        return WHOLE
    count = len(kernel)
    strides = step.integers("strides", (1,) * count)
    dilations = step.integers("dilations", (1,) * count)
    pads = step.integers("pads", (0,) * (2 * count))
    moved: dict[int, Track] = {}
    for image, track in step.source().items():
        spatial = track.axis - 2
        if 0 <= spatial < count:
            stride, reach = strides[spatial], (kernel[spatial] - 1) * dilations[spatial]
            low, high = Fraction(pads[spatial] - reach, stride), Fraction(pads[spatial], stride)
            moved[image] = Track(track.axis, track.field.through(Fraction(1, stride), low, high))
    return moved


@rule(
    "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "QLinearGlobalAveragePool", "InstanceNormalization"
)
def _all_spatial(step: Step) -> Footprint:
    return kept(step.source(), lambda axis: axis < 2)


@rule("DepthToSpace")
def _depth_to_space(step: Step) -> Footprint:
    block = step.integer("blocksize", 1)
    return {
        image: Track(
            track.axis, track.field.through(Fraction(1, block), Fraction(1 - block, block), Fraction(0))
        )
        for image, track in step.source().items()
        if track.axis >= 2
    }


@rule("SpaceToDepth")
def _space_to_depth(step: Step) -> Footprint:
    block = step.integer("blocksize", 1)
    return {
        image: Track(track.axis, track.field.through(block, 0, block - 1))
        for image, track in step.source().items()
        if track.axis >= 2
    }

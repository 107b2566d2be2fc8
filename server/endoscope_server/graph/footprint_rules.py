"""What each operator does to footprints. An operator without a rule sees the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from endoscope_server.graph.footprint import WHOLE, AxisField, Footprint, Rule, Step, Track, fixed

RULES: dict[str, Rule] = {}

# fmt: off
_POINTWISE = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "Bernoulli",
    "BitwiseNot", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear",
    "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "IsInf", "IsNaN", "LRN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "QuantizeLinear",
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Trunc",
)
# fmt: on
# fmt: off
_BROADCASTING = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu",
    "Pow", "Sub", "Sum", "Where", "Xor", "Expand", "QLinearAdd", "QLinearMul",
)
# fmt: on
# fmt: off
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)
# fmt: on


def _rule(*operators: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


def _kept(footprint: Footprint, keep: Callable[[int], bool]) -> Footprint:
    return {image: track for image, track in footprint.items() if keep(track.axis)}


def _moved(footprint: Footprint, move: Callable[[int], int | None]) -> Footprint:
    moved = {image: (move(track.axis), track.field) for image, track in footprint.items()}
    return {image: Track(axis, field) for image, (axis, field) in moved.items() if axis is not None}


@_rule(*_POINTWISE)
def _pointwise(step: Step) -> Footprint:
    return step.source() if step.only_first_depends() else _broadcast(step)


@_rule(*_BROADCASTING)
def _broadcast(step: Step) -> Footprint:
    target = step.shape(step.node.output[0])
    if target is None:
        return WHOLE
    merged: dict[int, Track] | None = None
    for name in step.node.input:
        if name not in step.footprints:
            continue
        shape = step.shape(name)
        if shape is None:
            return WHOLE
        shift = len(target) - len(shape)
        aligned = {
            image: Track(track.axis + shift, track.field)
            for image, track in step.footprints[name].items()
            if _same_size(shape[track.axis], target[track.axis + shift])
        }
        merged = aligned if merged is None else _merge(merged, aligned)
    return merged or WHOLE


def _same_size(own: int | str | None, target: int | str | None) -> bool:
    return own == target or not (isinstance(own, int) and (own == 1 or isinstance(target, int)))


def _merge(first: Footprint, second: Footprint) -> dict[int, Track]:
    merged: dict[int, Track] = {}
    for image in first.keys() & second.keys():
        one, other = first[image], second[image]
        field = one.field.merged(other.field)
        if one.axis == other.axis and field is not None:
            merged[image] = Track(one.axis, field)
    return merged


@_rule("Concat", "QLinearConcat")
def _concat(step: Step) -> Footprint:
    footprints = [step.footprints[name] for name in step.node.input if name in step.footprints]
    merged = footprints[0]
    for footprint in footprints[1:]:
        merged = _merge(merged, footprint)
    shape = step.shape(step.node.output[0])
    axis = step.integer("axis", 1)
    if axis < 0:
        if shape is None:
            return WHOLE
        axis += len(shape)
    return _kept(merged, lambda own: own != axis)


@_rule("Conv", "ConvInteger", "QLinearConv", "AveragePool", "MaxPool", "LpPool", "QLinearAveragePool")
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


@_rule("ConvTranspose")
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


@_rule(
    "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "QLinearGlobalAveragePool", "InstanceNormalization"
)
def _all_spatial(step: Step) -> Footprint:
    return _kept(step.source(), lambda axis: axis < 2)


@_rule(*_REDUCTIONS)
def _reduce(step: Step) -> Footprint:
    rank = step.rank()
    axes = step.constants(1, "axes")
    if rank is None or axes is None:
        return WHOLE
    return _without(step.source(), {axis % rank for axis in axes}, bool(step.integer("keepdims", 1)))


@_rule("ArgMax", "ArgMin")
def _arg(step: Step) -> Footprint:
    rank = step.rank()
    if rank is None:
        return WHOLE
    return _without(step.source(), {step.integer("axis", 0) % rank}, bool(step.integer("keepdims", 1)))


def _without(footprint: Footprint, removed: set[int], keepdims: bool) -> Footprint:
    left = _kept(footprint, lambda axis: axis not in removed)
    if keepdims:
        return left
    return _moved(left, lambda axis: axis - sum(gone < axis for gone in removed))


@_rule("Squeeze")
def _squeeze(step: Step) -> Footprint:
    rank = step.rank()
    axes = step.constants(1, "axes")
    if rank is None or axes is None:
        return WHOLE
    return _without(step.source(), {axis % rank for axis in axes}, keepdims=False)


@_rule("Unsqueeze")
def _unsqueeze(step: Step) -> Footprint:
    rank = step.rank()
    axes = step.constants(1, "axes")
    if rank is None or axes is None:
        return WHOLE
    new = {axis % (rank + len(axes)) for axis in axes}
    old = [axis for axis in range(rank + len(axes)) if axis not in new]
    return _moved(step.source(), lambda axis: old[axis])


@_rule("Transpose")
def _transpose(step: Step) -> Footprint:
    rank = step.rank()
    if rank is None:
        return WHOLE
    order = step.integers("perm", tuple(reversed(range(rank))))
    return _moved(step.source(), order.index)


@_rule("Reshape", "Flatten")
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

    return _moved(step.source(), move)


def _behind(shape: tuple[int | str | None, ...], axis: int) -> int | None:
    sizes = shape[axis + 1 :]
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


@_rule("Pad")
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


@_rule("Slice")
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


@_rule("Split")
def _split(step: Step) -> Footprint:
    rank = step.rank()
    axis = step.integer("axis", 0)
    if axis < 0 and rank is None:
        return WHOLE
    axis = axis + rank if axis < 0 and rank is not None else axis
    return _kept(step.source(), lambda own: own != axis)


@_rule("Gather")
def _gather(step: Step) -> Footprint:
    rank, indices = step.rank(), step.shape(step.input(1))
    if rank is None or indices is None or not step.only_first_depends():
        return WHOLE
    axis = step.integer("axis", 0) % rank
    left = _kept(step.source(), lambda own: own != axis)
    return _moved(left, lambda own: own if own < axis else own + len(indices) - 1)


@_rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(step: Step) -> Footprint:
    rank = step.rank()
    if rank is None:
        return WHOLE
    if step.opset >= 13:
        axis = step.integer("axis", -1) % rank
        return _kept(step.source(), lambda own: own != axis)
    first = step.integer("axis", 1) % rank
    return _kept(step.source(), lambda own: own < first)


@_rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _layer_norm(step: Step) -> Footprint:
    rank = step.rank()
    if rank is None:
        return WHOLE
    first = step.integer("axis", -1) % rank
    return _kept(step.source(), lambda own: own < first)


@_rule("LpNormalization")
def _along_one(step: Step) -> Footprint:
    rank = step.rank()
    if rank is None:
        return WHOLE
    axis = step.integer("axis", -1) % rank
    return _kept(step.source(), lambda own: own != axis)


@_rule("MatMul", "MatMulInteger", "QLinearMatMul")
def _matmul(step: Step) -> Footprint:
    """Rows stay rows where the right operand is constant; anything else, attention included, sees all."""
    rank = step.rank()
    if rank is None or rank < 2 or not step.only_first_depends():
        return WHOLE
    target = step.shape(step.node.output[0])
    if target is None or len(target) != rank:
        return WHOLE
    return _kept(step.source(), lambda own: own != rank - 1)


@_rule("DepthToSpace")
def _depth_to_space(step: Step) -> Footprint:
    block = step.integer("blocksize", 1)
    return {
        image: Track(
            track.axis, track.field.through(Fraction(1, block), Fraction(1 - block, block), Fraction(0))
        )
        for image, track in step.source().items()
        if track.axis >= 2
    }


@_rule("SpaceToDepth")
def _space_to_depth(step: Step) -> Footprint:
    block = step.integer("blocksize", 1)
    return {
        image: Track(track.axis, track.field.through(block, 0, block - 1))
        for image, track in step.source().items()
        if track.axis >= 2
    }


@_rule("Upsample", "Resize")
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

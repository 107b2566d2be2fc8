"""Reported receptive fields against empirical ones: what of the image changes a unit, pixel by pixel."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from endoscope_server.graph import Graph, Sessions

SIZE = 33

# A graph over x (n x 2 x 33 x 33), the weights it needs, and whether its field is met exactly.
NETS: dict[str, tuple[str, dict[str, tuple[int, ...]], bool]] = {
    "strides and dilations": (
        """
        a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, k3)
        b = Tanh(a)
        y = Conv<dilations=[3,2]>(b, k3b)
        """,
        {"k3": (4, 2, 3, 3), "k3b": (3, 4, 3, 3)},
        True,
    ),
    "uneven padding and pooling": (
        """
        a = Conv<pads=[2,0,1,3], strides=[1,2]>(x, k)
        y = AveragePool<kernel_shape=[3,2], strides=[2,2], ceil_mode=1>(a)
        """,
        {"k": (4, 2, 4, 5)},
        True,
    ),
    "branches of unequal extent": (
        """
        a = Conv<pads=[2,2,2,2]>(x, k5)
        b = Conv<pads=[1,1,1,1], dilations=[1,1]>(x, k3)
        c = Concat<axis=1>(a, b)
        d = Conv(x, k1)
        e = Add(c, d)
        y = Sigmoid(e)
        """,
        {"k5": (2, 2, 5, 5), "k3": (2, 2, 3, 3), "k1": (4, 2, 1, 1)},
        True,
    ),
    "automatic padding": (
        """
        a = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, k)
        y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(a, k2)
        """,
        {"k": (3, 2, 4, 4), "k2": (3, 3, 4, 4)},
        True,
    ),
    "transposed convolution": (
        """
        a = Conv<strides=[2,2]>(x, k)
        y = ConvTranspose<strides=[3,3], pads=[1,1,1,1]>(a, t)
        """,
        {"k": (3, 2, 3, 3), "t": (3, 2, 4, 4)},
        False,
    ),
    "resizing": (
        """
        a = Conv<strides=[3,3]>(x, k)
        y = Resize<mode="linear">(a, none, none, sizes)
        """,
        {"k": (3, 2, 3, 3)},
        False,
    ),
    "resizing down, corners aligned": (
        """
        y = Resize<mode="cubic", coordinate_transformation_mode="align_corners", antialias=1>
            (x, none, none, small)
        """,
        {},
        False,
    ),
    "reflected borders": (
        """
        a = Pad<mode="reflect">(x, border)
        y = Conv(a, k)
        """,
        {"k": (3, 2, 3, 3)},
        False,
    ),
    "depth, space and shuffled channels": (
        """
        a = Conv<pads=[1,1,1,1]>(x, k)
        b = Slice(a, starts, ends, axes)
        c = SpaceToDepth<blocksize=2>(b)
        d = Reshape(c, grouped)
        e = Transpose<perm=[0,2,1,3,4]>(d)
        f = Reshape(e, flat)
        y = DepthToSpace<blocksize=2>(f)
        """,
        {"k": (2, 2, 3, 3)},
        False,
    ),
    "channels last": (
        """
        a = Transpose<perm=[0,2,3,1]>(x)
        b = MatMul(a, w)
        c = LayerNormalization(b, s)
        d = Transpose<perm=[0,3,1,2]>(c)
        y = Conv(d, k)
        """,
        {"w": (2, 4), "s": (4,), "k": (3, 4, 3, 3)},
        True,
    ),
    "squeeze and excitation": (
        """
        a = Conv<pads=[1,1,1,1]>(x, k)
        g = GlobalAveragePool(a)
        h = Sigmoid(g)
        y = Mul(a, h)
        """,
        {"k": (3, 2, 3, 3)},
        True,
    ),
    "attention": (
        """
        a = Conv<strides=[4,4]>(x, k)
        b = Reshape(a, tokens)
        c = Transpose<perm=[0,2,1]>(b)
        s = MatMul(c, b)
        p = Softmax(s)
        y = MatMul(p, c)
        """,
        {"k": (3, 2, 4, 4)},
        True,
    ),
}
CONSTANTS = {
    "sizes": np.array([2, 3, 25, 40]),
    "small": np.array([2, 2, 9, 12]),
    "border": np.array([0, 0, 3, 2, 0, 0, 1, 4]),
    "starts": np.array([3, -29]),
    "ends": np.array([33, 32]),
    "axes": np.array([2, 3]),
    "grouped": np.array([2, 2, 4, 15, 14]),
    "flat": np.array([2, 8, 15, 14]),
    "tokens": np.array([2, 3, -1]),
}


def build(body: str, shapes: dict[str, tuple[int, ...]]) -> Graph:
    generator = np.random.default_rng(5)
    text = f'<ir_version: 8, opset_import: ["" : 18]> g (float[2, 2, {SIZE}, {SIZE}] x) => (y) {{ {body} }}'
    model = parser.parse_model(text)
    for node in model.graph.node:
        names = ["" if name == "none" else name for name in node.input]
        del node.input[:]
        node.input.extend(names)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    used = {name for node in model.graph.node for name in node.input}
    for name, shape in shapes.items():
        weights = generator.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, name))
    for name in used & CONSTANTS.keys():
        model.graph.initializer.append(numpy_helper.from_array(CONSTANTS[name], name))
    return Graph.from_proto(model)


def changing(graph: Graph, sessions: Sessions, value: str, image: np.ndarray, axis: int) -> np.ndarray:
    """Which units change when one whole line of the image does: lines x units, in the value's shape."""
    name = graph.inputs[0].name
    generator = np.random.default_rng(6)
    base = sessions.run({name: image}, [value])[value][0]
    rows = []
    for line in range(image.shape[axis]):
        changed = image.copy()
        where = [slice(None)] * 4
        where[axis] = slice(line, line + 1)
        changed[tuple(where)] = generator.normal(size=changed[tuple(where)].shape) * 2
        rows.append(sessions.run({name: changed}, [value])[value][0] != base)
    return np.stack(rows)


@pytest.mark.parametrize("name", NETS)
def test_no_pixel_outside_of_the_field_matters_and_its_borders_do(name: str) -> None:
    body, shapes, exact = NETS[name]
    graph = build(body, shapes)
    sessions = Sessions(graph)
    image = np.random.default_rng(7).normal(size=(2, 2, SIZE, SIZE)).astype(np.float32)
    field = graph.receptive_fields["y"]
    for axis, own, unit_axis in (
        (2, field.rows, field.row_axis),
        (3, field.columns, field.column_axis),
    ):
        changed = changing(graph, sessions, "y", image, axis)
        if own is None or unit_axis is None:
            assert name in ("squeeze and excitation", "attention")
            others = tuple(range(1, changed.ndim))
            assert (
                changed.any(others).sum() >= SIZE - 1
            )  # a convolution without padding may drop the last line
            continue
        per_unit = changed.any(tuple(a for a in range(1, changed.ndim) if a != unit_axis))
        for unit in range(per_unit.shape[1]):
            seen = np.flatnonzero(per_unit[:, unit])
            first, end = own.pixels(unit, SIZE)
            assert seen.size == 0 or (first <= seen[0] and seen[-1] < end), (axis, unit)
            if exact:
                assert (first, end) == (seen[0], seen[-1] + 1), (axis, unit)
        assert not exact or own.size < SIZE


def test_arithmetic_of_a_known_net(lite0: Graph) -> None:
    """EfficientNet-Lite0 by hand: the kernels and strides of its blocks, after Araujo et al. (2019)."""
    kernels = [3, 3, *[3] * 2, *[5] * 2, *[3] * 3, *[5] * 3, *[5] * 4, 3]
    strides = [2, 1, *[2, 1], *[2, 1], *[2, 1, 1], *[1, 1, 1], *[2, 1, 1, 1], 1]
    size, jump = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        size, jump = size + (kernel - 1) * jump, jump * stride
    field = lite0.receptive_fields[lite0.resolve("_conv_head")]
    assert field.rows is not None
    assert (field.rows.size, field.rows.stride) == (size, jump)
    assert field == lite0.layer("_conv_head").receptive_field
    assert lite0.receptive_fields["logits"].whole
    assert not lite0.receptive_fields["logits"].spatial


@pytest.mark.parametrize(
    "alias", ["_conv_stem", "_blocks.2.add", "_blocks.4.add", "_blocks.6._depthwise_conv"]
)
def test_a_real_units_field(lite0: Graph, batch: np.ndarray, alias: str) -> None:
    sessions = Sessions(lite0)
    image = batch[:1]
    field = lite0.receptive_fields[lite0.resolve(alias)]
    base = sessions.run({"input": image}, [alias])[alias]
    row, column = base.shape[2] // 2, base.shape[3] // 3
    top, left, bottom, right = field.box(row, column, 224, 224)
    assert (bottom - top) < 224
    noise = np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
    outside = noise.copy()
    outside[:, :, top:bottom, left:right] = image[:, :, top:bottom, left:right]
    unchanged = sessions.run({"input": outside}, [alias])[alias]
    assert np.array_equal(unchanged[:, :, row, column], base[:, :, row, column])
    assert not np.array_equal(unchanged, base)
    for inside in (np.s_[:, :, top, left:right], np.s_[:, :, bottom - 1, left:right]):
        changed = image.copy()
        changed[inside] += 10 * noise[inside]
        assert not np.array_equal(
            sessions.run({"input": changed}, [alias])[alias][:, :, row, column], base[:, :, row, column]
        )

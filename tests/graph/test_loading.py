"""Bad files are refused with a reason; good ones have a fingerprint, names and shapes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from endoscope_server.errors import EndoscopeError, InvalidInput, LimitExceeded
from endoscope_server.graph import Graph, Limits, ValueKind


def test_a_fingerprint_is_of_the_content(
    lite0_path: Path, lite0: Graph, variant: Callable[[str], Path], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.onnx"
    shutil.copy(lite0_path, elsewhere)
    assert Graph.from_file(elsewhere).fingerprint == lite0.fingerprint
    assert Graph.from_file(variant("external")).fingerprint == lite0.fingerprint
    assert Graph.from_proto(lite0.to_proto()).fingerprint == lite0.fingerprint

    changed = onnx.load(lite0_path)
    weights = next(tensor for tensor in changed.graph.initializer if tensor.name == "_conv_stem.weight")
    raw = bytearray(weights.raw_data)
    raw[7] ^= 1
    weights.raw_data = bytes(raw)
    assert Graph.from_proto(changed).fingerprint != lite0.fingerprint
    renamed = onnx.load(lite0_path)
    renamed.graph.node[0].attribute[0].name += ""
    renamed.graph.node[3].name = "other"
    assert Graph.from_proto(renamed).fingerprint != lite0.fingerprint


def test_external_data_is_mapped_not_read(variant: Callable[[str], Path]) -> None:
    graph = Graph.from_file(variant("external"))
    weights = graph.weights["_conv_head.weight"]
    assert not weights.flags.writeable
    assert not weights.flags.owndata


def save_tampered(source: Path, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(source, load_external_data=False)
    change(model)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def drop_initializer(model: onnx.ModelProto) -> None:
    names = [tensor.name for tensor in model.graph.initializer]
    del model.graph.initializer[names.index("_blocks.3._expand_conv.weight")]


def raise_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


def raise_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 999


def rename_operator(model: onnx.ModelProto) -> None:
    model.graph.node[4].op_type = "Convolute"


def reverse_nodes(model: onnx.ModelProto) -> None:
    nodes = list(reversed(model.graph.node))
    copies = onnx.GraphProto(node=nodes)
    del model.graph.node[:]
    model.graph.node.extend(copies.node)


def truncate_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-8]


def huge_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**20, 2**20, 2**10]


def negative_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-3, 4]


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        (drop_initializer, "MISSING_INITIALIZER", "_blocks.3._expand_conv.weight"),
        (raise_opset, "OPSET_TOO_NEW", "999"),
        (raise_ir, "IR_VERSION_TOO_NEW", "999"),
        (rename_operator, "INVALID_GRAPH", "Convolute"),
        (reverse_nodes, "INVALID_GRAPH", "topological"),
        (truncate_weights, "TENSOR_SIZE_MISMATCH", "bytes"),
        (huge_weights, "TENSOR_TOO_LARGE", "declares"),
        (negative_weights, "INVALID_TENSOR", "negative"),
    ],
)
def test_a_broken_model_is_refused(
    lite0_path: Path,
    tmp_path: Path,
    change: Callable[[onnx.ModelProto], None],
    reason: str,
    says: str,
) -> None:
    path = save_tampered(lite0_path, tmp_path, change)
    with pytest.raises(EndoscopeError, match=says) as caught:
        Graph.from_file(path)
    assert (caught.value.field, caught.value.reason) == ("", reason)


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(64), b"not a model" * 100, bytes(1000)]
)
def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="not an ONNX") as caught:
        Graph.from_file(path)
    assert (caught.value.field, caught.value.reason) == ("", "NOT_ONNX")
    with pytest.raises(InvalidInput, match="can't read"):
        Graph.from_file(tmp_path / "absent.onnx")


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../weights.bin", "EXTERNAL_DATA_OUTSIDE"),
        ("/etc/hostname", "EXTERNAL_DATA_OUTSIDE"),
        ("link.bin", "EXTERNAL_DATA_OUTSIDE"),
        ("", "EXTERNAL_DATA_OUTSIDE"),
        ("absent.bin", "EXTERNAL_DATA_MISSING"),
        ("short.bin", "TENSOR_SIZE_MISMATCH"),
    ],
)
def test_external_data_stays_in_the_models_folder(
    variant: Callable[[str], Path], tmp_path: Path, location: str, reason: str
) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(1000))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    (folder / "short.bin").write_bytes(bytes(10))

    def point_elsewhere(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.external_data)
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
        next(entry for entry in tensor.external_data if entry.key == "offset").value = "0"

    path = save_tampered(variant("external"), folder, point_elsewhere)
    with pytest.raises(InvalidInput) as caught:
        Graph.from_file(path)
    assert caught.value.reason == reason


def test_absurd_intermediate_sizes_are_refused_before_anything_runs() -> None:
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1] x) => (float[1] y)
    <int64[3] sizes = {1000000, 1000000, 1000}>
    { big = ConstantOfShape(sizes) wide = Add(big, x) y = ReduceMax<keepdims=0>(wide) }
    """)
    with pytest.raises(LimitExceeded) as caught:
        Graph.from_proto(model)
    assert caught.value.reason == "TENSOR_TOO_LARGE"
    with pytest.raises(LimitExceeded, match="nodes"):
        Graph.from_proto(model, limits=Limits(nodes=2))


def test_old_models_and_constant_nodes_are_brought_to_one_form() -> None:
    """IR version 3 lists initializers as inputs, and old exporters keep weights in Constant nodes."""
    weights = np.random.default_rng(0).normal(size=(16, 3, 5, 5)).astype(np.float32)
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Constant", [], ["second"], value=numpy_helper.from_array(weights[:, :, :4, :4])),
        helper.make_node("Conv", ["x", "first"], ["a"]),
        helper.make_node("Conv", ["x", "second"], ["b"], pads=[0, 0, 0, 0]),
        helper.make_node("Relu", ["a"], ["y"]),
        helper.make_node("Softmax", ["b"], ["z"], axis=1),
    ]
    inputs = [info("x", TensorProto.FLOAT, [1, 3, 9, 9]), info("first", TensorProto.FLOAT, [16, 3, 5, 5])]
    outputs = [info("y", TensorProto.FLOAT, [1, 16, 5, 5]), info("z", TensorProto.FLOAT, [1, 16, 6, 6])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weights, "first")]),
        opset_imports=[helper.make_opsetid("", 7)],
        ir_version=3,
    )
    graph = Graph.from_proto(model)
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.ir_version == 3
    assert graph.values["first"].kind is graph.values["second"].kind is ValueKind.INITIALIZER
    assert np.array_equal(graph.weights["second"], weights[:, :, :4, :4])
    assert [layer.alias for layer in graph.layers] == ["a", "b", "y", "z"]
    assert (graph.logits, graph.probabilities) == ("b", "z")
    from endoscope_server.graph import Sessions

    x = np.ones((1, 3, 9, 9), np.float32)
    found = Sessions(graph).run({"x": x}, ["y"])["y"]
    expected = np.maximum(weights.sum((1, 2, 3)), 0)
    np.testing.assert_allclose(found[0, :, 2, 2], expected, rtol=1e-4, atol=1e-5)


def test_large_tensors_come_as_onnx_reads_them(tmp_path: Path) -> None:
    """Raw data, typed data, types narrower than a byte, and tensors of nodes, all larger than 64 KiB."""
    random = np.random.default_rng(0)
    floats = random.standard_normal((300, 300), np.float32)
    narrow = random.integers(-8, 8, (400, 400)).astype(ml_dtypes.int4)
    typed = helper.make_tensor("typed", TensorProto.FLOAT, floats.shape, floats.reshape(-1).tolist())
    nodes = [
        helper.make_node("Constant", [], ["constant"], value=numpy_helper.from_array(-floats)),
        helper.make_node("Add", ["x", "raw"], ["a"]),
        helper.make_node("Add", ["a", "typed"], ["b"]),
        helper.make_node("Add", ["b", "constant"], ["y"]),
        helper.make_node("Cast", ["narrow"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Odd", ["x"], ["z"], domain="odd", table=numpy_helper.from_array(floats * 2)),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, floats.shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("y", floats.shape), ("wide", narrow.shape), ("z", floats.shape))
        ],
        [numpy_helper.from_array(floats, "raw"), typed, numpy_helper.from_array(narrow, "narrow")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("odd", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)

    loaded = Graph.from_file(path)
    assert loaded.fingerprint == Graph.from_proto(model).fingerprint
    assert sorted(loaded.weights) == ["constant", "narrow", "raw", "typed"]
    for name, expected in (("raw", floats), ("typed", floats), ("constant", -floats), ("narrow", narrow)):
        assert loaded.weights[name].dtype == expected.dtype
        assert np.array_equal(loaded.weights[name], expected)
        assert not loaded.weights[name].flags.writeable
    [table] = loaded.skeleton.graph.node[-1].attribute
    assert np.array_equal(numpy_helper.to_array(table.t), floats * 2)


@pytest.mark.parametrize("cut", [1, 5000, 300_000])
def test_a_file_cut_short_is_refused(lite0_path: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(lite0_path.read_bytes()[:-cut])
    with pytest.raises(InvalidInput, match="can't be parsed") as caught:
        Graph.from_file(path)
    assert caught.value.reason == "NOT_ONNX"

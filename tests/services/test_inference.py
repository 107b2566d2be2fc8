"""The Open Inference Protocol, driven by Triton's own client, against ONNX Runtime's own answers."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from endoscope_server.protocols import grpc_service_pb2 as pb
from tests.services.triton_process import Triton, TritonError

LITE0 = "efficientnet-lite0"
DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
CONTENTS = {
    "BOOL": ("bool_contents", [True, False, True]),
    "UINT8": ("uint_contents", [0, 7, 255]),
    "UINT16": ("uint_contents", [0, 7, 65535]),
    "UINT32": ("uint_contents", [0, 7, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 7, 2**64 - 1]),
    "INT8": ("int_contents", [-128, 0, 127]),
    "INT16": ("int_contents", [-(2**15), 0, 2**15 - 1]),
    "INT32": ("int_contents", [-(2**31), 0, 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 0, 2**63 - 1]),
    "FP32": ("fp32_contents", [-1.5, 0.0, 2.25]),
    "FP64": ("fp64_contents", [-1.5, 0.0, 1e300]),
    "BYTES": ("bytes_contents", [b"", "Käse".encode(), b"cat"]),
}


def number_of(datatype: str) -> int:
    if datatype == "BYTES":
        return TensorProto.STRING
    return helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[datatype]))


def some(datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.default_rng(0)
    if datatype == "BYTES":
        texts = [f"text {number} é".encode() for number in range(int(np.prod(shape)))]
        return np.array(texts, object).reshape(shape)
    if datatype == "BOOL":
        return generator.random(shape) > 0.5
    if DTYPES[datatype] in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
        return (generator.standard_normal(shape) * 100).astype(DTYPES[datatype])
    limits = np.iinfo(DTYPES[datatype])
    return generator.integers(limits.min, limits.max, shape, DTYPES[datatype], endpoint=True)


def save(
    folder: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, list]],
    outputs: Mapping[str, tuple[int, list]],
    weights: list[onnx.TensorProto] | None = None,
) -> None:
    infos = [
        [helper.make_tensor_value_info(key, kind, shape) for key, (kind, shape) in values.items()]
        for values in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, name, *infos, weights or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / f"{name}.onnx")


@pytest.fixture(scope="module")
def models(lite0_path: Path, digits_cnn_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two real models and small ones for what they don't have."""
    folder = tmp_path_factory.mktemp("models")
    for path in (lite0_path, digits_cnn_path):
        (folder / path.name).symlink_to(path)
    floats = TensorProto.FLOAT
    for datatype in DTYPES:
        kind = number_of(datatype)
        rows = (kind, ["rows", "columns"])
        save(
            folder, f"same-{datatype}", [helper.make_node("Identity", ["x"], ["y"])], {"x": rows}, {"y": rows}
        )
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["x"], [f"{kind}_inside"])],
            kind,
            [],
            [helper.make_tensor_value_info(f"{kind}_inside", floats, ["rows"])],
        )
        for kind in ("Abs", "Neg")
    ]
    branching = helper.make_node(
        "If", ["flag"], ["y"], name="choice", then_branch=branches[0], else_branch=branches[1]
    )
    save(
        folder,
        "branching",
        [branching],
        {"flag": (TensorProto.BOOL, []), "x": (floats, ["rows"])},
        {"y": (floats, ["rows"])},
    )
    # Each row minus the mean of all: rows of other clients must not get in.
    mean = [helper.make_node("ReduceMean", ["x"], ["mean"]), helper.make_node("Sub", ["x", "mean"], ["y"])]
    rows = (floats, ["rows", 3])
    save(folder, "mixing", mean, {"x": rows}, {"y": rows})
    table = helper.make_tensor("table", floats, [4, 2], np.arange(8.0))
    save(
        folder,
        "lookup",
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        {"x": (TensorProto.INT64, ["rows", 1])},
        {"y": (floats, ["rows", 1, 2])},
        [table],
    )
    fixed = (floats, [2, 3])
    save(folder, "fixed", [helper.make_node("Relu", ["x"], ["y"])], {"x": fixed}, {"y": fixed})
    (folder / "broken.onnx").write_bytes(b"no model")
    return folder


@pytest.fixture(scope="module")
def running(start_server, models: Path, tmp_path_factory) -> Iterator[Any]:
    with start_server(tmp_path_factory.mktemp("state"), models) as server:
        yield server
        assert server.process.poll() is None, "the server died in the tests"
        assert "Traceback" not in (server.state / "log").read_text()


@pytest.fixture(scope="module")
def triton(running) -> Iterator[Triton]:
    client = Triton(running.target)
    yield client
    client.close()


@pytest.fixture(scope="module")
def bare(models: Path) -> Any:
    """ONNX Runtime's own answer: any values of a model, made its outputs."""

    def run(model: str, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        proto = onnx.load(models / f"{model}.onnx")
        there = {info.name for info in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in there)
        session = ort.InferenceSession(proto.SerializeToString())
        return dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True))

    return run


def pictures(count: int, side: int = 224) -> np.ndarray:
    return np.random.default_rng(count).uniform(-1, 1, (count, 3, side, side)).astype(np.float32)


def close(ours: np.ndarray, theirs: np.ndarray, relative: float = 1e-4) -> bool:
    return ours.shape == theirs.shape and np.abs(ours - theirs).max() <= relative * np.abs(theirs).max()


def test_server_and_models_are_told(triton, models) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(LITE0)
    assert triton.is_model_ready(LITE0, "1")
    assert not triton.is_model_ready(LITE0, "2")
    assert not triton.is_model_ready("nobody")
    server = triton.get_server_metadata()
    assert server["name"] == "endoscope"
    assert {"model_repository", "statistics", "classification"} <= set(server["extensions"])
    index = triton.get_model_repository_index()["models"]
    assert [entry["name"] for entry in index] == sorted(path.stem for path in models.glob("*.onnx"))
    assert {entry["version"] for entry in index} == {"1"}


def test_metadata_and_configuration_fit_the_graph(triton) -> None:
    metadata = triton.get_model_metadata(LITE0)
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": ["-1", "3", "-1", "-1"]}]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["-1", "1000"]}]
    config = triton.get_model_config(LITE0)["config"]
    assert config["max_batch_size"] == 16
    assert config["input"][0]["dims"] == ["3", "-1", "-1"]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    fixed = triton.get_model_config("fixed")["config"]
    assert "max_batch_size" not in fixed
    assert fixed["input"][0]["dims"] == ["2", "3"]
    for datatype in DTYPES:
        assert triton.get_model_metadata(f"same-{datatype}")["inputs"][0]["datatype"] == datatype


@pytest.mark.parametrize("datatype", DTYPES)
def test_raw_tensors_of_every_type_come_through(triton, datatype: str) -> None:
    for shape in ((2, 3), (1, 1), (0, 3)):
        array = some(datatype, shape)
        found = triton.infer(f"same-{datatype}", {"x": array})["values"]["y"]
        assert found.dtype == array.dtype
        assert found.shape == shape
        assert np.array_equal(found, array)


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents_of_every_type_come_through(triton, datatype: str) -> None:
    field, values = CONTENTS[datatype]
    tensors = [("x", datatype, [1, 3], field, values)]
    options = {"parameters": {"binary_data_output": False}}
    kind, shape, contents, raw = triton.typed_infer(f"same-{datatype}", tensors, **options)["y"]
    assert (kind, shape, contents, raw) == (datatype, [1, 3], {field: values}, None)
    raw = triton.typed_infer(f"same-{datatype}", tensors)["y"][3]
    if datatype == "BYTES":
        assert raw == b"".join(struct.pack("<I", len(value)) + value for value in values)
    else:
        assert raw == np.array(values, DTYPES[datatype]).tobytes()


def test_a_network_gives_what_onnx_runtime_gives(triton, bare) -> None:
    images = pictures(3)
    found = triton.infer(LITE0, {"input": images}, request_id="seven")
    assert (found["id"], found["model"], found["version"]) == ("seven", LITE0, "1")
    assert list(found["values"]) == ["logits"]
    assert close(found["values"]["logits"], bare(LITE0, {"input": images}, ["logits"])["logits"])


def test_any_value_of_the_graph_can_be_asked_for(triton, bare, models) -> None:
    graph = onnx.load(models / f"{LITE0}.onnx").graph
    names = [name for node in graph.node for name in node.output][::7]
    assert len(names) > 12
    images = pictures(2)
    found = triton.infer(LITE0, {"input": images}, outputs=names)["values"]
    expected = bare(LITE0, {"input": images}, names)
    assert {name for name in names if not close(found[name], expected[name])} == set()
    weight = graph.initializer[0]
    found = triton.infer(LITE0, {"input": images}, outputs=["input", weight.name])["values"]
    assert np.array_equal(found["input"], images)
    assert np.array_equal(found[weight.name], onnx.numpy_helper.to_array(weight))


def test_a_layer_can_be_asked_for_by_its_alias(triton, lite0_path) -> None:
    from endoscope_server.graph import Graph

    layer = next(layer for layer in Graph.from_file(lite0_path).layers if layer.alias != layer.value)
    found = triton.infer(LITE0, {"input": pictures(1)}, outputs=[layer.alias, layer.value])["values"]
    assert np.array_equal(found[layer.alias], found[layer.value])


def test_classes_instead_of_numbers(triton) -> None:
    images = pictures(2)
    logits = triton.infer(LITE0, {"input": images})["values"]["logits"]
    found = triton.infer(LITE0, {"input": images}, outputs=["logits"], classes=3)["values"]["logits"]
    assert found.shape == (2, 3)
    for row, texts in zip(logits, found, strict=True):
        parts = [text.decode().split(":") for text in texts]
        best = np.argsort(-row)[:3]
        assert [int(index) for _, index, _ in parts] == best.tolist()
        assert np.allclose([float(value) for value, _, _ in parts], row[best], atol=1e-5)
        assert all(label.strip() for _, _, label in parts)


FLOATS = np.ones((1, 3), np.float32)
RAW = FLOATS.tobytes()
WRONG = {
    "shape": (
        [("input", "FP32", [1, 4, 8, 8], "", [])],
        [bytes(4 * 256)],
        "inputs[input]",
        "[batch, 3, height, width]",
    ),
    "rank": ([("input", "FP32", [3], "", [])], [RAW], "inputs[input]", "shape [3]"),
    "negative": ([("input", "FP32", [-1, 3], "", [])], [RAW], "inputs[input].shape", "negative"),
    "huge": ([("input", "FP32", [2**40, 2**40], "", [])], [RAW], "inputs[input]", "12 bytes"),
    "empty": ([("input", "FP32", [0, 3, 2**62, 2**62], "", [])], [b""], "inputs[input].shape", "too large"),
    "axes": ([("input", "FP32", [1] * 99 + [3], "", [])], [RAW], "inputs[input].shape", "100 axes"),
    "type": ([("input", "INT32", [1, 3], "", [])], [RAW], "inputs[input]", "int32, expected float32"),
    "unknown type": ([("input", "FP8", [1, 3], "", [])], [RAW], "inputs[input].datatype", "expected one of"),
    "bytes": ([("input", "FP32", [1, 3], "", [])], [RAW[:-1]], "inputs[input]", "11 bytes, expected 12"),
    "elements": ([("input", "FP32", [1, 3], "fp32_contents", [1.0])], [], "inputs[input].contents", "1 elem"),
    "contents": (
        [("input", "FP32", [1, 3], "int_contents", [1, 2, 3])],
        [],
        "inputs[input]",
        "fp32_contents",
    ),
    "both": ([("input", "FP32", [1, 3], "fp32_contents", [1.0] * 3)], [RAW], "inputs[input]", "beside"),
    "nothing": ([("input", "FP32", [1, 3], "", [])], [], "inputs[input].contents", "0 elements"),
    "FP16": ([("input", "FP16", [1, 3], "fp32_contents", [1.0] * 3)], [], "inputs[input]", "raw_input"),
    "range": ([("input", "INT8", [1], "int_contents", [300])], [], "inputs[input].contents", "range of INT8"),
    "count": ([("input", "FP32", [1, 3], "", [])], [RAW, RAW], "raw_input_contents", "2 raw contents"),
    "unknown": ([("image", "FP32", [1, 3], "", [])], [RAW], "inputs[image]", "'input'"),
    "missing": ([], [], "inputs[input]", "missing"),
    "twice": ([("input", "FP32", [1, 3], "", [])] * 2, [RAW, RAW], "inputs[input]", "twice"),
    "no name": ([("", "FP32", [1, 3], "", [])], [RAW], "inputs[0]", "no name"),
    "bool": ([("input", "BOOL", [2], "", [])], [b"\x00\x02"], "inputs[input]", "neither"),
    "text": ([("input", "BYTES", [1], "", [])], [b"\x05\x00\x00\x00abc"], "inputs[input]", "BYTES elements"),
}


@pytest.mark.parametrize("case", WRONG)
def test_inputs_that_do_not_fit_are_named(triton, case: str) -> None:
    tensors, raw, field, sentence = WRONG[case]
    with pytest.raises(TritonError) as caught:
        triton.typed_infer(LITE0, tensors, raw)
    assert caught.value.status == "INVALID_ARGUMENT"
    assert caught.value.message.startswith(field)
    assert sentence in caught.value.message


def test_texts_are_utf_8(triton) -> None:
    with pytest.raises(TritonError) as caught:
        triton.typed_infer("same-BYTES", [("x", "BYTES", [1, 1], "bytes_contents", [b"\xff"])])
    assert caught.value.status == "INVALID_ARGUMENT"
    assert caught.value.message.startswith("inputs[x]")
    assert "UTF-8" in caught.value.message


def test_outputs_that_can_not_be_are_named(triton) -> None:
    with pytest.raises(TritonError, match=r"logitz.*logits") as caught:
        triton.infer(LITE0, {"input": pictures(1)}, outputs=["logitz"])
    assert caught.value.status == "INVALID_ARGUMENT"
    flag = {"flag": np.array(True), "x": np.ones(2, np.float32)}
    with pytest.raises(
        TritonError, match=r"outputs\[Abs_inside\].*inside the body of node 'choice'"
    ) as caught:
        triton.infer("branching", flag, outputs=["Abs_inside"])
    assert caught.value.status == "INVALID_ARGUMENT"
    assert triton.infer("branching", flag)["values"]["y"].tolist() == [1, 1]


def test_models_that_are_not_there(triton) -> None:
    for model, version, status, word in (
        ("nobody", "", "NOT_FOUND", "nobody"),
        ("../lite0", "", "NOT_FOUND", "no model"),
        (LITE0, "2", "NOT_FOUND", "version '2'"),
        ("broken", "", "INVALID_ARGUMENT", "model_name"),
    ):
        with pytest.raises(TritonError, match=word) as caught:
            triton.infer(model, {"input": pictures(1)}, model_version=version)
        assert caught.value.status == status
    with pytest.raises(TritonError) as caught:
        triton.load_model("broken")
    assert caught.value.status == "INVALID_ARGUMENT"
    states = {entry["name"]: entry for entry in triton.get_model_repository_index()["models"]}
    assert states["broken"]["state"] == "UNAVAILABLE"
    assert states["broken"]["reason"]


def test_a_model_that_is_unloaded_is_not_served_until_it_is_loaded(triton) -> None:
    digits = {"input": np.zeros((1, 1, 8, 8), np.float32)}
    name = triton.get_model_metadata("digits-cnn")["inputs"][0]
    digits = {name["name"]: np.zeros([max(1, int(size)) for size in name["shape"]], np.float32)}
    before = triton.infer("digits-cnn", digits)["values"]
    triton.unload_model("digits-cnn")
    assert not triton.is_model_ready("digits-cnn")
    with pytest.raises(TritonError, match="not ready") as caught:
        triton.infer("digits-cnn", digits)
    assert caught.value.status == "UNAVAILABLE"
    triton.load_model("digits-cnn")
    assert triton.is_model_ready("digits-cnn")
    after = triton.infer("digits-cnn", digits)["values"]
    assert all(np.array_equal(before[name], after[name]) for name in before)
    with pytest.raises(TritonError, match="parameter 'config'") as caught:
        triton.load_model("digits-cnn", config="{}")
    assert caught.value.status == "UNIMPLEMENTED"


def test_kserve_names_models_where_triton_names_repositories(triton) -> None:
    name = b"\x0a\x0adigits-cnn"
    assert triton.raw_call("RepositoryModelUnload", name) == name + b"\x10\x01"
    assert not triton.is_model_ready("digits-cnn")
    assert triton.raw_call("RepositoryModelLoad", name) == name + b"\x10\x01"
    assert triton.is_model_ready("digits-cnn")


def test_shared_memory_is_refused_where_it_is_not_allowed(triton, running) -> None:
    with pytest.raises(TritonError, match="--shared-memory") as caught:
        triton.get_system_shared_memory_status()
    assert caught.value.status == "UNIMPLEMENTED"
    assert "system_shared_memory" not in triton.get_server_metadata()["extensions"]
    shared = pb.ModelInferRequest(model_name="mixing")
    tensor = shared.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    tensor.parameters["shared_memory_region"].string_param = "region"
    with pytest.raises(TritonError, match="--shared-memory") as caught:
        triton.raw_call("ModelInfer", shared.SerializeToString())
    assert caught.value.status == "UNIMPLEMENTED"


def test_many_requests_at_once_are_joined_and_right(triton, bare) -> None:
    images = pictures(12)
    triton.infer(LITE0, {"input": images[:1]})
    before = triton.get_inference_statistics(LITE0)["model_stats"][0]
    found = triton.infer_all(LITE0, [{"input": image[None]} for image in images])
    expected = bare(LITE0, {"input": images}, ["logits"])["logits"]
    for row, answer in zip(expected, found, strict=True):
        assert close(answer["values"]["logits"], row[None], 1e-5)
    after = triton.get_inference_statistics(LITE0)["model_stats"][0]
    inferences = int(after["inference_count"]) - int(before["inference_count"])
    runs = int(after["execution_count"]) - int(before["execution_count"])
    assert inferences == 12
    assert runs < 12
    assert int(after["inference_stats"]["success"]["count"]) >= 12
    assert {int(entry["batch_size"]) for entry in after["batch_stats"]} - {1}


def test_requests_of_different_shapes_and_outputs_at_once(triton, bare) -> None:
    sizes = [(1, 224), (2, 224), (1, 192), (3, 192), (1, 224), (1, 160)]
    requests = [{"input": pictures(count, side)} for count, side in sizes]
    found = triton.infer_all(LITE0, requests)
    for request, answer in zip(requests, found, strict=True):
        assert close(answer["values"]["logits"], bare(LITE0, request, ["logits"])["logits"], 1e-5)


def test_rows_that_see_each_other_are_not_joined(triton) -> None:
    requests = [{"x": np.float32([[1, 2, 3]]) * 10**power} for power in range(8)]
    for answer, request in zip(triton.infer_all("mixing", requests), requests, strict=True):
        assert np.allclose(answer["values"]["y"], request["x"] - request["x"].mean())


def test_one_bad_request_does_not_spoil_the_others(triton) -> None:
    indices = [0, 3, 99, 1, 2, 0, -50, 3]
    found = triton.infer_all("lookup", [{"x": np.array([[index]])} for index in indices])
    for index, answer in zip(indices, found, strict=True):
        if 0 <= index < 4:
            assert answer["values"]["y"].tolist() == [[[2.0 * index, 2.0 * index + 1]]]
        else:
            assert "the model fails on these inputs" in answer


def test_a_stream_answers_in_order_and_outlives_an_error(triton, bare) -> None:
    images = pictures(6)
    requests = [{"input": image[None]} for image in images]
    requests[2] = {"input": images[2]}
    found = triton.stream(LITE0, requests, enable_empty_final_response=True)
    expected = bare(LITE0, {"input": images}, ["logits"])["logits"]
    for index, answer in enumerate(found):
        if index == 2:
            assert "inputs[input]" in answer
            continue
        assert answer["id"] == f"r{index}"
        assert answer["parameters"] == {"triton_final_response": True}
        assert close(answer["values"]["logits"], expected[index][None], 1e-5)


def test_the_asynchronous_client_and_compression(triton, bare) -> None:
    images = pictures(4)
    expected = bare(LITE0, {"input": images}, ["logits"])["logits"]
    found = triton.infer_aio(LITE0, [{"input": image[None]} for image in images])
    assert close(np.concatenate([answer["values"]["logits"] for answer in found]), expected, 1e-5)
    found = triton.infer(LITE0, {"input": images}, compression_algorithm="gzip")
    assert close(found["values"]["logits"], expected, 1e-5)


def test_a_deadline_ends_the_call_and_not_the_server(triton) -> None:
    with pytest.raises(TritonError) as caught:
        triton.infer(LITE0, {"input": pictures(16)}, client_timeout=0.02)
    assert "DEADLINE_EXCEEDED" in caught.value.status
    assert triton.infer(LITE0, {"input": pictures(1)})["values"]["logits"].shape == (1, 1000)

"""Bad input gets the right status with the field named, and the server goes on."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import grpc
import onnx
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper

from endoscope.v1 import (
    activation_pb2,
    activation_pb2_grpc,
    gradient_pb2,
    gradient_pb2_grpc,
    image_pb2,
    model_pb2,
    model_pb2_grpc,
    optimization_pb2,
)

MODEL = "models/efficientnet-lite0"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
Photo = Callable[[str], image_pb2.Image]


def error_of(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def status_of(error: Any) -> tuple[grpc.StatusCode, str, str]:
    """The code, the field at fault, and the reason."""
    metadata = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    field, reason = "", ""
    for detail in status.details:
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(request):
            field = request.field_violations[0].field
    assert "Traceback" not in error.details()
    assert status.code == error.code().value[0]
    return error.code(), field, reason


@pytest.fixture(autouse=True)
def server_goes_on(server) -> Any:
    yield
    health = health_pb2_grpc.HealthStub(server.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def upload(server, content: bytes, name: str = "bad") -> Any:
    def messages():
        yield model_pb2.UploadModelRequest(header=model_pb2.UploadModelHeader(model_id=name))
        for start in range(0, len(content), 1 << 20):
            yield model_pb2.UploadModelRequest(chunk=content[start : start + (1 << 20)])

    return model_pb2_grpc.ModelServiceStub(server.channel).UploadModel(messages(), timeout=60)


def visualize(server, **fields: Any) -> list[Any]:
    request = gradient_pb2.VisualizeClassRequest(**{"model": MODEL, "classes": [967], "steps": 1, **fields})
    return list(gradient_pb2_grpc.GradientServiceStub(server.channel).VisualizeClass(request, timeout=60))


def activations(server, **fields: Any) -> Any:
    request = activation_pb2.GetActivationsRequest(**{"model": MODEL, **fields})
    return activation_pb2_grpc.ActivationServiceStub(server.channel).GetActivations(request, timeout=60)


def test_file_that_is_no_onnx(server) -> None:
    error = error_of(lambda: upload(server, b"\x89PNG this is no model" * 100))
    assert status_of(error)[:2] == (INVALID, "chunk")
    assert "bad" not in [model.name for model in listed(server)]


def test_model_with_a_missing_initializer(server) -> None:
    node = helper.make_node("Conv", ["input", "nowhere"], ["output"], name="conv")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "broken",
        [value("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("output", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    error = error_of(lambda: upload(server, model.SerializeToString()))
    assert status_of(error)[:2] == (INVALID, "chunk")
    assert "nowhere" in error.details()


def test_model_with_external_data_that_is_not_there(server, lite0_path) -> None:
    model = onnx.load(lite0_path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    error = error_of(lambda: upload(server, model.SerializeToString()))
    assert status_of(error)[0] is INVALID


def listed(server) -> list[model_pb2.Model]:
    stub = model_pb2_grpc.ModelServiceStub(server.channel)
    return list(stub.ListModels(model_pb2.ListModelsRequest(), timeout=10).models)


def test_unknown_model(server) -> None:
    error = error_of(lambda: visualize(server, model="models/nobody"))
    assert status_of(error) == (grpc.StatusCode.NOT_FOUND, "model", "UNKNOWN_MODEL")
    assert "efficientnet-lite0" in error.details()


def test_unknown_layer(server, photo: Photo) -> None:
    error = error_of(lambda: activations(server, layers=["_conv_stem", "stem"], images=[photo("chelsea")]))
    assert status_of(error)[:2] == (grpc.StatusCode.NOT_FOUND, "layers[1]")
    assert "_conv_stem" in error.details()


def test_image_that_is_no_image(server, photo: Photo) -> None:
    images = [photo("chelsea"), image_pb2.Image(encoded=b"no image at all")]
    error = error_of(lambda: activations(server, layers=["_conv_stem"], images=images))
    assert status_of(error) == (INVALID, "images[1].encoded", "NOT_AN_IMAGE")


def test_header_of_a_huge_png(server) -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    content += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    bomb = image_pb2.Image(encoded=content)
    error = error_of(lambda: activations(server, layers=["_conv_stem"], images=[bomb]))
    assert status_of(error) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "images[0].encoded", "IMAGE_TOO_LARGE")


@pytest.mark.parametrize("wanted", [1000, -1, 2**31 - 1])
def test_class_out_of_range(server, wanted: int) -> None:
    error = error_of(lambda: visualize(server, classes=[3, wanted]))
    assert status_of(error) == (INVALID, "classes[1]", "OUT_OF_RANGE")
    assert "0 to 999" in error.details()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
def test_lambda_that_is_no_weight(server, number: float) -> None:
    regularizers = optimization_pb2.Regularizers(l2_weight=number)
    error = error_of(lambda: visualize(server, regularizers=regularizers))
    assert status_of(error) == (INVALID, "regularizers.l2_weight", "OUT_OF_RANGE")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"classes": []}, "classes"),
        ({"classes": [1] * 65}, "classes"),
        ({"steps": 0}, "steps"),
        ({"steps": 10**6}, "steps"),
        ({"height": 4}, "height"),
        ({"width": 5000}, "width"),
        ({"seed": -1}, "seed"),
        ({"optimizer": {"adam": {"learning_rate": float("nan")}}}, "optimizer.adam.learning_rate"),
        ({"optimizer": {"schedule": 77}}, "optimizer.schedule"),
        ({"parameterization": {}}, "parameterization"),
        ({"parameterization": {"fourier": {"decay": -1}}}, "parameterization.fourier.decay"),
        ({"transforms": {"transforms": [{"tile": {}}, {}]}}, "transforms.transforms[1]"),
        (
            {"transforms": {"transforms": [{"scale": {"minimum": 2}}]}},
            "transforms.transforms[0].scale.maximum",
        ),
        ({"preprocessing": {"std": [0, 0, 0]}}, "preprocessing.std"),
        ({"options": {"preview_every": -1}}, "options.preview_every"),
        ({"image_format": 9}, "image_format"),
        ({"preset": 9}, "preset"),
    ],
)
def test_fields_out_of_range(server, fields: dict[str, Any], field: str) -> None:
    error = error_of(lambda: visualize(server, **fields))
    assert status_of(error)[:2] == (INVALID, field)


def test_direction_of_a_wrong_length(server) -> None:
    tensor = {"data_type": 1, "shape": [2], "data": b"\0\0\x80\x3f" * 2}
    objective = {"direction": {"layer": "_conv_stem", "direction": tensor}}
    request = gradient_pb2.VisualizeFeatureRequest(model=MODEL, objectives=[objective], steps=1)
    stub = gradient_pb2_grpc.GradientServiceStub(server.channel)
    error = error_of(lambda: list(stub.VisualizeFeature(request, timeout=60)))
    assert status_of(error)[:2] == (INVALID, "objectives[0].direction.direction")
    assert "32" in error.details()


def test_dream_of_a_layer_that_is_not_there(server, photo: Photo) -> None:
    layers = [{"layer": "_conv_stem"}, {"layer": "nowhere"}]
    request = gradient_pb2.DeepDreamRequest(model=MODEL, image=photo("chelsea"), layers=layers)
    stub = gradient_pb2_grpc.GradientServiceStub(server.channel)
    error = error_of(lambda: list(stub.DeepDream(request, timeout=60)))
    assert status_of(error)[:2] == (grpc.StatusCode.NOT_FOUND, "layers[1].layer")


def test_attack_without_a_picture(server) -> None:
    request = gradient_pb2.CreateAdversarialRequest(model=MODEL, images=[image_pb2.Image()])
    stub = gradient_pb2_grpc.GradientServiceStub(server.channel)
    assert status_of(error_of(lambda: list(stub.CreateAdversarial(request, timeout=60))))[:2] == (
        INVALID,
        "images[0]",
    )


def test_attack_with_targets_that_do_not_fit(server, photo: Photo) -> None:
    request = gradient_pb2.CreateAdversarialRequest(model=MODEL, images=[photo("chelsea")], targets=[1, 2])
    stub = gradient_pb2_grpc.GradientServiceStub(server.channel)
    assert status_of(error_of(lambda: list(stub.CreateAdversarial(request, timeout=60))))[:2] == (
        INVALID,
        "targets",
    )

"""What the certificate says, of models that are right, and of models that are not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from endoscope_server.errors import Unsupported
from endoscope_server.graph import Graph, Sessions
from endoscope_server.mirror import from_onnx
from endoscope_server.mirror.certificate import Certificate, ValueDifference, certify
from endoscope_server.mirror.tensors import from_numpy

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[1, 2, 6, 6] x) => (float[1, 3, 4, 4] y)
{
    a = Conv (x, w)
    b = Relu (a)
    c = Mul (b, scale)
    y = Tanh (c)
}
"""
NAMES = ["a", "b", "c", "y"]


def make_model(text: str = TEXT) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, shape in (("w", (3, 2, 3, 3)), ("scale", (1, 3, 1, 1))):
        array = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((1, 2, 6, 6)).astype(np.float32)


def judge(mirrored: onnx.ModelProto, model: onnx.ModelProto, names: list[str] = NAMES) -> Certificate:
    run = Sessions(Graph.from_proto(model)).run
    return certify(from_onnx(mirrored), run, {"x": image()}, names, tolerance=1e-3)


def test_equal_engines_pass() -> None:
    certificate = judge(make_model(), make_model())
    assert certificate.passed
    assert certificate.first_difference is None
    assert [item.value for item in certificate.values] == NAMES
    assert [item.op_type for item in certificate.values] == ["Conv", "Relu", "Mul", "Tanh"]
    assert 0 < certificate.worst_relative < 1e-5
    assert set(certificate.versions) == {"torch", "onnx", "onnxruntime"}


@pytest.mark.parametrize(("weight", "first"), [("w", "a"), ("scale", "c")])
def test_the_first_value_that_differs_is_named(weight: str, first: str) -> None:
    tampered = make_model()
    for tensor in tampered.graph.initializer:
        if tensor.name == weight:
            array = onnx.numpy_helper.to_array(tensor).copy()
            array.reshape(-1)[0] += 0.05
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, weight))
    certificate = judge(tampered, make_model())
    assert not certificate.passed
    assert certificate.first_difference == first
    assert certificate.worst_relative > 1e-3
    worst = max(certificate.values, key=lambda item: item.relative)
    assert (certificate.worst_value, certificate.worst_op_type) == (worst.value, worst.op_type)


def test_a_wrong_type_is_infinitely_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    run = Sessions(Graph.from_proto(model)).run

    def double(inputs: Any, names: Any) -> Any:
        return {name: value.astype(np.float64) for name, value in run(inputs, names).items()}

    certificate = certify(from_onnx(model), double, {"x": image()}, NAMES, tolerance=1e-3)
    assert not certificate.passed
    assert certificate.worst_relative == math.inf
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_json_round_trip() -> None:
    certificate = judge(make_model(), make_model())
    again = Certificate.from_json(certificate.to_json())
    assert again == certificate
    assert isinstance(again.values[0], ValueDifference)
    assert dataclasses.asdict(again) == dataclasses.asdict(certificate)


def test_an_operator_without_a_mirror_is_named() -> None:
    text = TEXT.replace('["" : 21]', '["" : 21, "made.up" : 3]').replace("Tanh (c)", "made.up.Oddity (c)")
    mirror = from_onnx(make_model(text))
    (error,) = mirror.unsupported.values()
    for word in ("made.up::Oddity", "opset 3", "Oddity_3"):
        assert word in error.message
    assert error.metadata == {"operator": "Oddity", "domain": "made.up", "opset": "3", "node": "Oddity_3"}
    x = from_numpy(image())
    with pytest.raises(Unsupported, match="Oddity"):
        mirror({"x": x})
    # What doesn't need it works, and is compared; the model doesn't pass.
    assert mirror({"x": x}, ["c"])["c"].shape == (1, 3, 4, 4)
    run = Sessions(Graph.from_proto(make_model())).run
    certificate = certify(mirror, run, {"x": image()}, NAMES, tolerance=1e-3)
    assert not certificate.passed
    assert [item.value for item in certificate.values] == ["a", "b", "c"]
    assert any("made.up::Oddity" in note for note in certificate.notes)


def test_a_step_that_rounding_moves_is_forgiven_once() -> None:
    """Where the two engines fall on different sides of a step, what follows it is compared from one side."""
    text = """
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[1, 2, 6, 6] x) => (float[1, 2, 6, 6] y)
        { a = Mul (x, hundred)  b = Round (a)  y = Exp (b) }
    """
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "hundred"))
    nudged = onnx.ModelProto()
    nudged.CopyFrom(model)
    nudged.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.float32(1 + 1e-6), "hundred"))
    x = image()
    x[0, 0, 0, 0] = 0.5
    run = Sessions(Graph.from_proto(model)).run
    certificate = certify(from_onnx(nudged), run, {"x": x}, ["a", "b", "y"], tolerance=1e-3)
    assert certificate.passed
    assert any("moved a step (Round)" in note for note in certificate.notes)
    # A difference that isn't rounding is found all the same.
    nudged.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.float32(1.1), "hundred"))
    certificate = certify(from_onnx(nudged), run, {"x": x}, ["a", "b", "y"], tolerance=1e-3)
    assert certificate.first_difference == "a"

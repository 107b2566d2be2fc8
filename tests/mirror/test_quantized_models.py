"""A real network quantised by ONNX Runtime, in both of its formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from endoscope_server.graph import Graph, Sessions
from endoscope_server.mirror import from_onnx
from endoscope_server.mirror.certificate import QUANTIZED_NOTE, certify

SIZE = 96


def pixels(photos: dict[str, Image.Image]) -> np.ndarray[Any, Any]:
    arrays = [np.asarray(photo.resize((SIZE, SIZE)), np.float32) for photo in photos.values()]
    return (np.stack(arrays).transpose(0, 3, 1, 2) - 127) / 128


@pytest.fixture(scope="module")
def quantized(
    lite0_path: Path, photos: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The network in each format; the two static ones share weights, scales and zero points."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"input": row[None]} for row in pixels(photos)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    folder = tmp_path_factory.mktemp("quantized")
    paths = {form: folder / f"{form}.onnx" for form in ("QDQ", "QOperator", "dynamic")}
    for form in ("QDQ", "QOperator"):
        q.quantize_static(lite0_path, paths[form], Reader(), quant_format=getattr(q.QuantFormat, form))
    q.quantize_dynamic(lite0_path, paths["dynamic"], weight_type=q.QuantType.QUInt8)
    return paths


_MARKS = {"QDQ": "QuantizeLinear", "QOperator": "QLinearConv", "dynamic": "ConvInteger"}


@pytest.mark.parametrize("form", _MARKS)
def test_values(form: str, quantized: dict[str, Path], photos: dict[str, Image.Image]) -> None:
    assert _MARKS[form] in {node.op_type for node in onnx.load(quantized[form]).graph.node}
    graph = Graph.from_file(quantized[form])
    names = [name for node in graph.nodes for name in node.output if name]
    inputs = {"input": pixels(photos)[:1]}
    certificate = certify(from_onnx(graph), Sessions(graph).run, inputs, names, tolerance=1e-3)
    assert certificate.passed, certificate.first_difference
    assert QUANTIZED_NOTE in certificate.notes
    assert [item.value for item in certificate.values] == names


def gradient(path: Path, image: np.ndarray[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.from_numpy(image.copy()).requires_grad_()
    logits = from_onnx(path)({"input": x})["logits"]
    (result,) = torch.autograd.grad(logits[0, 281], x)
    return logits.detach(), result.flatten()


def test_gradients_pass_straight_through(
    quantized: dict[str, Path], lite0_path: Path, photos: dict[str, Image.Image]
) -> None:
    image = pixels(photos)[:1]
    paths = quantized | {"plain": lite0_path}
    results = {name: gradient(path, image) for name, path in paths.items()}

    def alike(one: str, other: str) -> float:
        return float(torch.nn.functional.cosine_similarity(results[one][1], results[other][1], dim=0))

    # The same network in two spellings.
    torch.testing.assert_close(results["QDQ"][0], results["QOperator"][0], atol=0.3, rtol=0.02)
    assert alike("QDQ", "QOperator") > 0.95
    # Rounding opens and shuts many a ReLU on the way, so that these are only alike; chance would give 0.01.
    for form in quantized:
        assert alike(form, "plain") > 0.2

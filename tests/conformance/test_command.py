"""The command that compares the mirror with ONNX Runtime on a folder of models."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from endoscope_server.mirror.conformance import compare_folder, main

SIZED = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[batch, 3, height, width] picture, int64 sizes) => (float y)
<int64[1] count = {1}>
{ a = Relu (picture)  k = Reshape (sizes, count)  b = Expand (a, k)  y = Sigmoid (b) }
"""
STRANGE = """
<ir_version: 10, opset_import: ["" : 21, "made.up" : 1]>
g (float[1, 3] x) => (float[1, 3] y)
{ y = made.up.Oddity (x) }
"""


def test_folder(tmp_path: Path, lite0_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inner").mkdir()
    shutil.copy(lite0_path, tmp_path / "inner" / "lite0.onnx")
    model = onnx.parser.parse_model(SIZED)
    onnx.save(model, tmp_path / "sized.onnx")
    np.savez(tmp_path / "sized.npz", picture=np.ones((1, 3, 4, 4), np.float32), sizes=np.int64(1))
    assert main([str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "2 of 2 models equal" in told
    assert "inner/lite0.onnx" in told

    onnx.save(onnx.parser.parse_model(STRANGE), tmp_path / "strange.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    results = {item.file: item for item in compare_folder(tmp_path)}
    assert [name for name, item in results.items() if not item.equal] == ["broken.onnx", "strange.onnx"]
    assert results["broken.onnx"].certificate is None
    assert "Oddity" in results["strange.onnx"].problem
    assert len(results["inner/lite0.onnx"].certificate.values) > 90  # type: ignore[union-attr]
    assert main([str(tmp_path)]) == 1


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "nowhere")])
    assert end.value.code == 2

"""Values of single nodes with random attributes against ONNX Runtime: the cases of the gradients."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

CASES: dict[str, Any] = {
    name: make
    for path in sorted(Path(__file__).parent.glob("test_gradients_*.py"))
    for name, make in runpy.run_path(str(path)).get("CASES", {}).items()
}


# ONNX Runtime refuses these as the gradients' cases have them; tested in test_microsoft.
_ELSEWHERE = {f"com.microsoft::{name}" for name in ("NhwcMaxPool", "FusedGemm", "FusedConv")}
_MORE_OUTPUTS = {
    "TopK": {"out1": TensorProto.INT64},
}
_MORE_OUTPUTS["com.microsoft::EmbedLayerNormalization"] = {"out1": TensorProto.INT32}
# Random in training mode.
_INFERENCE = {"Dropout": ("train", "ratio"), "BatchNormalization": ("training_mode",)}


@pytest.mark.parametrize("name", [name for name in CASES if name not in _ELSEWHERE])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_values(
    name: str, data: st.DataObject, make_draw: Any, node_model: Any, run_runtime: Any, run_mirror: Any
) -> None:
    case = CASES[name](make_draw(data))
    inputs = {
        key: value.astype(np.float32) if value.dtype == np.float64 else value
        for key, value in case.pop("inputs").items()
    }
    inputs = {key: np.asarray(value) for key, value in inputs.items()}
    outputs = {f"out{index}": TensorProto.FLOAT for index in range(case.pop("outputs", 1))}
    outputs |= _MORE_OUTPUTS.get(name, {})
    domain, _, op_type = name.split(" ", maxsplit=1)[0].rpartition("::")
    for dropped in _INFERENCE.get(name, ()):
        inputs.pop(dropped, None)
        case.pop(dropped, None)
    for attribute in ("stash_type", "softmax_precision"):
        if attribute in case:
            case[attribute] = TensorProto.FLOAT
    model = node_model(op_type, inputs, outputs, domain=domain, **case)
    expected = run_runtime(model, inputs)
    for ours, theirs in zip(run_mirror(model, inputs), expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)

"""Gradients on the ONNX project's own node tests, of whatever operators there are; that none is forgotten.

A new operator of ONNX needs no test of its own here: its cases are found by its name.
"""

from __future__ import annotations

import runpy
import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.loader
import pytest
import torch
from onnx import TensorProto

from endoscope_server.mirror import from_onnx, registered
from endoscope_server.mirror.tensors import from_numpy

HERE = Path(__file__).parent
MS = "com.microsoft::"
SMALLEST = 3
"""Cases of each operator that are checked: the smallest ones."""
JITTER = 0.01
"""What is added to the numbers of a case, at most: they often lie where a function bends, or are equal."""

# Rounding whose gradient passes straight through, by its rule and not by its differences.
STRAIGHT_THROUGH = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul"}
RULES = runpy.run_path(str(HERE / "test_gradients_rules.py"))
LEAST = 100
"""Operators that are checked at least; fewer would mean that the cases are not found any more."""


def cases() -> Mapping[str, list[Any]]:
    """The cases of one node and of numbers alone, smallest first, by operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = onnx.backend.test.loader.load_model_tests(kind="node")
    found: dict[str, list[Any]] = defaultdict(list)
    for case in every:
        inputs = case.data_sets[0][0]
        plain = all(isinstance(item, np.ndarray) and item.size for item in inputs)
        if len(case.model.graph.node) == 1 and plain:
            found[case.model.graph.node[0].op_type].append(case)
    for several in found.values():
        several.sort(key=lambda case: (sum(item.size for item in case.data_sets[0][0]), case.name))
    return found


def check(case: Any) -> bool:
    """Compares the gradients of a case with finite differences, in float64; False if there are none.

    Raises:
        Exception: if they differ, or anything else goes wrong.
    """
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    random = np.random.default_rng(0)
    fed = {}
    for value, array in zip(model.graph.input, case.data_sets[0][0], strict=True):
        if array.dtype == np.float32:
            array = array.astype(np.float64) + random.uniform(0, JITTER, array.shape)
        fed[value.name] = from_numpy(array)
    mirror = from_onnx(model)
    assert not mirror.unsupported
    wanted = [name for name, value in fed.items() if value.dtype == torch.float64]

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = mirror(fed | dict(zip(wanted, values, strict=True)))
        tensors = [value for value in found.values() if isinstance(value, torch.Tensor)]
        return tuple(value for value in tensors if value.dtype == torch.float64)

    values = tuple(fed[name].clone().requires_grad_() for name in wanted)
    if not any(value.requires_grad for value in function(*values)):
        return False
    return torch.autograd.gradcheck(function, values, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True)


@pytest.fixture(scope="module")
def outcomes() -> tuple[set[str], dict[str, str]]:
    """The operators that have gradients on all their smallest cases, and what went wrong, by case."""
    found, checked, wrong = cases(), set(), {}
    ours = {name for domain, name in registered() if domain == ""}
    for name in sorted(ours - STRAIGHT_THROUGH - set(RULES["CUT"])):
        several = found.get(name, [])[:SMALLEST]
        passed = []
        for case in several:
            try:
                passed.append(check(case))
            except Exception as error:
                wrong[case.name] = f"{type(error).__name__}: {str(error)[:300]}"
        if passed and all(passed):
            checked.add(name)
    return checked, wrong


def test_gradients_are_what_differences_say(outcomes: tuple[set[str], dict[str, str]]) -> None:
    checked, wrong = outcomes
    assert not wrong, "\n".join(f"{name}: {why}" for name, why in sorted(wrong.items()))
    assert len(checked) >= LEAST


def test_every_operator_is_accounted_for(outcomes: tuple[set[str], dict[str, str]]) -> None:
    """Each has gradients that were checked, here or by random cases, or is among those that have none."""
    checked = set(outcomes[0])
    for path in HERE.glob("test_gradients_*.py"):
        checked |= {name.split(" ", maxsplit=1)[0] for name in runpy.run_path(str(path)).get("CASES", ())}
    none = set(RULES["CUT"]) | RULES["NO_NUMBERS"] | RULES["CONTAINERS"]
    quantized = {*RULES["QUANTIZED"], *RULES["_DYNAMIC"], f"{MS}DynamicQuantizeLSTM", "DynamicQuantizeLinear"}
    quantized |= {prefix + name for prefix in ("", MS) for name in ("QuantizeLinear", "DequantizeLinear")}
    ours = [(domain, name) for domain, name in registered() if domain in ("", "com.microsoft")]
    names = {f"{domain}::{name}" if domain else name for domain, name in ours}
    assert names - (checked | none | quantized) == set()

"""The ONNX project's own node tests, run against the mirror's backend."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.loader
import pytest
import torch

from endoscope_server.mirror import backend

HERE = Path(__file__).parent
OPERATORS = tomllib.loads((HERE / "operators.toml").read_text())
EXPECTED: dict[str, str] = tomllib.loads((HERE / "expected_failures.toml").read_text())
TOTAL, VISION_TOTAL = 1884, 1592

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]


def named(section: str) -> set[str]:
    return {name for names in OPERATORS[section].values() for name in names}


class Outcomes:
    """What became of each case.

    Attributes:
        operators: The operator that each case is named for.
        errors: What went wrong, for those that failed.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cases = onnx.backend.test.loader.load_model_tests(kind="node")
        models = {case.name: case.model for case in cases}
        self.operators, self.errors = dict[str, str](), dict[str, str]()
        for case in cases:
            original = models.get(case.name.split("_expanded")[0], case.model)
            self.operators[case.name] = operator_of(original)
            try:
                check(case)
            except Exception as error:
                self.errors[case.name] = f"{type(error).__name__}: {str(error).strip()[:400]}"

    def passed(self, operators: set[str]) -> int:
        """How many cases of these operators passed."""
        return sum(
            operator in operators and name not in self.errors for name, operator in self.operators.items()
        )

    def count(self, operators: set[str]) -> int:
        """How many cases of these operators there are."""
        return sum(operator in operators for operator in self.operators.values())


# Helpers of the tested operator in the models that have more than one node.
_HELPERS = {"Constant", "Optional", "SequenceEmpty", "SequenceConstruct"}


def operator_of(model: onnx.ModelProto) -> str:
    kinds = [node.op_type for node in model.graph.node if node.op_type not in _HELPERS]
    return kinds[0] if kinds else model.graph.node[0].op_type


def check(case: Any) -> None:
    assert case.model is not None
    representation = backend.prepare(case.model)
    for inputs, expected in case.data_sets:
        inputs, expected = as_arrays(inputs), as_arrays(expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = representation.run(inputs)
        assert_equal(outputs, expected, case.rtol, case.atol)


def as_arrays(values: Any) -> Any:
    """Values with what the tests hold as protos in numpy."""
    if isinstance(values, onnx.TensorProto):
        return onnx.numpy_helper.to_array(values)
    return [as_arrays(item) for item in values] if isinstance(values, (list, tuple)) else values


def assert_equal(found: Any, expected: Any, relative: float, absolute: float) -> None:
    """As the ONNX project's runner compares: exact types and shapes, values within a tolerance."""
    if expected is None or found is None:
        assert found is expected
        return
    if isinstance(expected, (list, tuple)):
        assert isinstance(found, (list, tuple))
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_equal(*pair, relative, absolute)
        return
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    if expected.dtype == object or expected.dtype.kind in "US":
        np.testing.assert_array_equal(found, expected.astype(object))
        return
    assert found.dtype == expected.dtype
    if found.dtype.kind not in "biufc":
        relative = max(relative, 2**-6) if found.dtype.name == "bfloat16" else 0
        found, expected = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(found, expected, relative, absolute)


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Outcomes()
    finally:
        torch.set_num_threads(threads)


def told(names: Iterable[str], errors: dict[str, str]) -> str:
    return "\n".join(f"{name}: {errors.get(name, 'passes')}" for name in sorted(names))


def test_no_case_fails_that_is_not_listed(outcomes: Outcomes) -> None:
    left_out = named("left_out")
    failed = {name for name in outcomes.errors if outcomes.operators[name] not in left_out}
    surprises = failed - EXPECTED.keys()
    assert not surprises, told(surprises, outcomes.errors)


def test_every_listed_failure_still_fails(outcomes: Outcomes) -> None:
    fixed = EXPECTED.keys() - outcomes.errors.keys()
    assert not fixed, told(fixed, outcomes.errors)


def test_every_listed_failure_has_a_reason() -> None:
    assert all(len(reason.split()) >= 4 for reason in EXPECTED.values())


def test_operators_are_known_and_named_once(outcomes: Outcomes) -> None:
    for section in ("left_out", "vision"):
        names = [name for group in OPERATORS[section].values() for name in group]
        assert len(names) == len(set(names))
    assert not named("vision") & named("left_out")
    assert named("vision") <= set(outcomes.operators.values())


def test_totals(outcomes: Outcomes) -> None:
    everything = set(outcomes.operators.values())
    assert len(outcomes.operators) >= TOTAL
    kept = everything - named("left_out")
    assert outcomes.passed(kept) >= 1700, told(outcomes.errors, outcomes.errors)
    assert outcomes.count(named("vision")) == VISION_TOTAL
    assert outcomes.passed(named("vision")) >= 1560, told(outcomes.errors, outcomes.errors)

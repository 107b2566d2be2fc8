"""The parity certificate: every value of a graph, mirror against ONNX Runtime on the same inputs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from endoscope_server.errors import Unsupported
from endoscope_server.mirror.module import Mirror
from endoscope_server.mirror.node import Node
from endoscope_server.mirror.tensors import from_numpy, to_numpy

Run = Callable[[Mapping[str, NDArray[Any]], Sequence[str]], Mapping[str, Any]]
"""ONNX Runtime: inputs by name and names of values to arrays by name."""

QUANTIZED_NOTE = (
    "the model is quantised: gradients pass straight through its rounding, are zero where a number is beyond "
    "the range of its type, and take scales and zero points for constants"
)

MOVED_STEP = "end to end"
"""How the note on a step that rounding moved begins."""

_BLOCK = 48
"""How many values are compared at first; the graph is run again for the next ones."""

_HELD_BYTES = 1 << 28
"""How much is held at once, by either engine: blocks grow up to where they take as much."""

_ROUNDING = frozenset(
    {
        *("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QLinearAdd"),
        *("QLinearMul", "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearConcat", "QGemm"),
        *("QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QLinearReduceMean", "QLinearWhere"),
        *("DynamicQuantizeLSTM", "DynamicQuantizeMatMul"),
    }
)
"""Operators that round to quantised numbers: where a sum falls between two, either is right."""

_STEPS = _ROUNDING | {
    *("TopK", "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "Unique", "Hardmax", "MaxPool"),
    *("RoiAlign", "Round", "Floor", "Ceil", "Sign", "Mod", "Cast", "Equal", "Less", "LessOrEqual"),
    *("Greater", "GreaterOrEqual", "IsInf", "IsNaN"),
}
"""Operators whose results jump, so that the last bit of an input may change them altogether."""

_UNIT_RANGE = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "Tanh", "Erf"})
"""Operators whose results are accurate relative to their range, 1, not to what they happen to be."""


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """How far the engines are apart in one value.

    Attributes:
        value: Its ONNX name.
        op_type: The operator that computes it.
        absolute: The largest absolute difference; infinite where one engine alone is not finite, or the
            types or shapes differ.
        relative: The largest absolute difference over the largest magnitude; over 1, if that is larger, for
            operators whose range is that.
    """

    value: str
    op_type: str
    absolute: float
    relative: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a comparison of the two engines found.

    Attributes:
        passed: Whether the model's outputs can be mirrored, and every value agrees within the tolerance;
            quantised numbers that a node computes may be one step apart.
        tolerance: The largest relative difference that was accepted.
        worst_absolute: Of all values.
        worst_relative: Of all values.
        worst_value: The value with the largest relative difference; None if nothing was compared.
        worst_op_type: The operator that computes it.
        first_difference: The first value in the order of computation beyond the tolerance; None if none.
        values: Each value that was compared, in the order of computation.
        notes: What a reader must know.
        versions: Of the libraries that were compared.
        created: In seconds since 1970.
    """

    passed: bool
    tolerance: float
    worst_absolute: float
    worst_relative: float
    worst_value: str | None
    worst_op_type: str | None
    first_difference: str | None
    values: tuple[ValueDifference, ...]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    created: float

    def to_json(self) -> str:
        """The certificate as JSON; infinities are strings, so that any reader takes it."""
        return json.dumps(_without_infinities(dataclasses.asdict(self)), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The certificate that :meth:`to_json` wrote."""
        told = json.loads(text)
        told["values"] = tuple(
            ValueDifference(item["value"], item["op_type"], float(item["absolute"]), float(item["relative"]))
            for item in told["values"]
        )
        told["notes"] = tuple(told["notes"])
        for name in ("worst_absolute", "worst_relative"):
            told[name] = float(told[name])
        return cls(**told)


def certify(
    mirror: Mirror,
    run: Run,
    inputs: Mapping[str, NDArray[Any]],
    names: Sequence[str],
    *,
    tolerance: float,
) -> Certificate:
    """Compare the engines on every value.

    First each engine goes its own way from the inputs to the outputs. If they part, and the graph has
    operators whose results jump (TopK, rounding, quantisation), they are compared again with the mirror
    resumed at each of these from what ONNX Runtime has there, and a note says so: the difference that made
    the step jump is then not counted as one of all that follows it, and every single node is still compared.

    Args:
        mirror: The mirror.
        run: ONNX Runtime without its graph optimisations.
        inputs: The model's inputs, for both.
        names: The values that are compared, in the order of computation.
        tolerance: The largest relative difference that is accepted.
    """
    comparison = _Comparison(mirror, run, inputs)
    reachable, notes = _reachable(mirror, names)
    differences = comparison.differences(reachable)
    beyond = _beyond(differences, tolerance)
    steps = comparison.steps(reachable) if beyond else []
    if steps:
        again = comparison.differences(reachable, steps)
        if (still := _beyond(again, tolerance)) != beyond:
            kinds = ", ".join(sorted({step.op_type for step in steps}))
            notes.append(
                f"{MOVED_STEP} the engines part at {beyond[0].value!r}, by {beyond[0].relative:.1g} "
                f"relative: a difference in rounding moved a step ({kinds}); values behind a step are "
                "compared from ONNX Runtime's values at it"
            )
            differences, beyond = again, still
    if any(node.op_type in _ROUNDING for node in mirror.nodes):
        notes.append(QUANTIZED_NOTE)
    worst = max(differences, key=lambda item: item.relative, default=None)
    complete = all(name in reachable for name in mirror.output_names)
    return Certificate(
        passed=complete and not beyond,
        tolerance=tolerance,
        worst_absolute=max((item.absolute for item in differences), default=0.0),
        worst_relative=worst.relative if worst else 0.0,
        worst_value=worst.value if worst else None,
        worst_op_type=worst.op_type if worst else None,
        first_difference=beyond[0].value if beyond else None,
        values=tuple(differences),
        notes=tuple(notes),
        versions={name: importlib.metadata.version(name) for name in ("torch", "onnx")}
        | {"onnxruntime": _runtime_version()},
        created=time.time(),
    )


def _beyond(differences: Sequence[ValueDifference], tolerance: float) -> list[ValueDifference]:
    return [
        item
        for item in differences
        if item.relative > tolerance and not (item.op_type in _ROUNDING and item.absolute <= 1)
    ]


class _Comparison:
    """One model's values on one input, by both engines."""

    def __init__(self, mirror: Mirror, run: Run, inputs: Mapping[str, NDArray[Any]]) -> None:
        self._mirror, self._run, self._inputs = mirror, run, inputs
        self._fed = {name: from_numpy(value) for name, value in inputs.items()}
        self._producers = {name: node for node in mirror.nodes for name in node.outputs if name}

    def steps(self, names: Sequence[str]) -> list[Node]:
        """The nodes whose results jump, and whose inputs and outputs ONNX Runtime can tell."""
        told = {*names, *self._inputs}
        return [
            node
            for node in self._mirror.nodes
            if node.op_type in _STEPS
            and any(name in self._producers for name in node.inputs)
            and all(name in told for name in (*node.inputs, *node.outputs) if name in self._producers)
        ]

    def differences(self, names: Sequence[str], steps: Sequence[Node] = ()) -> list[ValueDifference]:
        """The differences in some values, the mirror resumed behind the steps from what ONNX Runtime has."""
        of_steps = {name for step in steps for name in step.outputs if name}
        read = {name for step in steps for name in step.inputs if name in self._producers}
        held = self._run(self._inputs, sorted(of_steps | read)) if steps else {}
        known = {name: from_numpy(held[name]) for name in of_steps | read}
        resumed = self._fed | {name: known[name] for name in of_steps}
        result: list[ValueDifference] = []
        size = _BLOCK
        while len(result) < len(names):
            block = names[len(result) : len(result) + size]
            expected = self._run(self._inputs, block)
            found = self._mirrored(resumed, [name for name in block if name not in of_steps])
            for name in block:
                if name in of_steps:
                    step = self._producers[name]
                    at = {item: known[item] for item in step.inputs if item in known}
                    found |= self._mirrored(self._fed | at, [name])
                result.append(self._difference(name, found.pop(name), expected[name]))
            held_bytes = sum(getattr(value, "nbytes", 0) for value in expected.values())
            size = max(_BLOCK, min(8 * size, _HELD_BYTES * len(block) // max(held_bytes, 1)))
        return result

    def _mirrored(self, fed: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        with torch.no_grad():
            return self._mirror(fed, names) if names else {}

    def _difference(self, name: str, found: Any, expected: Any) -> ValueDifference:
        kind = self._producers[name].op_type if name in self._producers else ""
        array = to_numpy(found, self._mirror.types.get(name, 0))
        scale = 1.0 if kind in _UNIT_RANGE else 0.0
        return ValueDifference(name, kind, *difference(array, expected, scale))


def _reachable(mirror: Mirror, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values that need no node without a mirror, and notes on those that do."""
    lost: set[str] = set()
    for node in mirror.nodes:
        if node.name in mirror.unsupported or any(name in lost for name in (*node.inputs, *node.captured())):
            lost.update(name for name in node.outputs if name)
    notes = [f"no mirror: {error.message}" for error in mirror.unsupported.values()]
    return [name for name in names if name not in lost], notes


def difference(found: Any, expected: Any, scale: float = 0.0) -> tuple[float, float]:
    """The largest absolute difference of two values, and that over the largest magnitude expected.

    Args:
        found: By the mirror.
        expected: By ONNX Runtime.
        scale: The least magnitude.
    """
    if isinstance(expected, (list, tuple)) or isinstance(found, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(expected):
            return math.inf, math.inf
        pairs = [difference(*pair, scale) for pair in zip(found, expected, strict=True)]
        return max((pair[0] for pair in pairs), default=0.0), max((pair[1] for pair in pairs), default=0.0)
    if found is None or expected is None:
        return (0.0, 0.0) if found is expected else (math.inf, math.inf)
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return math.inf, math.inf
    if expected.dtype.kind in "OUS":
        return (0.0, 0.0) if np.array_equal(found, expected) else (math.inf, math.inf)
    if expected.size == 0:
        return 0.0, 0.0
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    ours, theirs = found.astype(wide), expected.astype(wide)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    finite = np.isfinite(ours) & np.isfinite(theirs)
    if not (same | finite).all():
        return math.inf, math.inf
    gaps = np.abs(np.where(finite, ours - np.where(finite, theirs, 0), 0))
    absolute = float(np.where(finite, gaps, 0).max())
    magnitude = max(scale, float(np.abs(theirs[finite]).max()) if finite.any() else 0.0)
    return absolute, absolute / magnitude if magnitude else (math.inf if absolute else 0.0)


def _runtime_version() -> str:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise Unsupported("ONNX Runtime is not installed", reason="NO_ONNX_RUNTIME")


def _without_infinities(told: Any) -> Any:
    if isinstance(told, dict):
        return {name: _without_infinities(value) for name, value in told.items()}
    if isinstance(told, (list, tuple)):
        return [_without_infinities(item) for item in told]
    return str(told) if isinstance(told, float) and not math.isfinite(told) else told

"""Gradients of arithmetic, activations and choices against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# Where each function is smooth enough, and defined.
_RANGES: dict[str, tuple[float, float]] = {
    "Sqrt": (0.2, 3),
    "Log": (0.2, 3),
    "Reciprocal": (0.3, 3),
    "Tan": (-1.2, 1.2),
    "Asin": (-0.8, 0.8),
    "Acos": (-0.8, 0.8),
    "Acosh": (1.3, 3),
    "Atanh": (-0.8, 0.8),
}
_UNARY = [
    *("Abs", "Neg", "Sqrt", "Exp", "Log", "Reciprocal", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan"),
    *("Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Relu", "Sigmoid", "Tanh", "Softsign", "Softplus", "Mish"),
    *("HardSwish", "Identity", "com.microsoft::Gelu"),
]


def _unary(name: str) -> Any:
    low, high = _RANGES.get(name, (-4, 4))
    return lambda d: {"inputs": {"x": d.array(d.int(1, 3), d.int(2, 4), low=low, high=high)}}


def _with_floats(**ranges: tuple[float, float]) -> Any:
    def make(d: Any) -> dict[str, Any]:
        chosen = {key: d.float(*bounds) for key, bounds in ranges.items()}
        return {"inputs": {"x": d.array(3, 5, low=-4, high=4)}, **chosen}

    return make


def _binary(low: float = -2.0, high: float = 2.0) -> Any:
    def make(d: Any) -> dict[str, Any]:
        shapes = d.choice(
            [(2, 3), (2, 3)], [(2, 3), (3,)], [(2, 1), (1, 3)], [(), (2, 2)], [(4, 1, 2), (3, 1)]
        )
        arrays = [d.array(*shape, low=low, high=high) for shape in shapes]
        return {"inputs": dict(zip("ab", arrays, strict=True))}

    return make


def _variadic(d: Any) -> dict[str, Any]:
    # Told apart: between equal numbers the gradient of Max is anybody's.
    every = d.array(d.int(1, 4), 2, 3)
    return {"inputs": {f"x{index}": part for index, part in enumerate(every)}}


def _mod(d: Any) -> dict[str, Any]:
    return {"inputs": {"a": d.array(2, 3, low=0.1, high=0.9) + 3, "b": np.full(3, 2.0)}, "fmod": 1}


def _clip(d: Any) -> dict[str, Any]:
    low, high = d.float(-1, 0), d.float(0.2, 1)
    if d.bool():
        return {"inputs": {"x": d.array(3, 4)}, "min": low, "max": high, "version": 6}
    inputs = {"x": d.array(3, 4), "low": np.float64(low), "high": np.float64(high)}
    order = d.choice(["x", "low", "high"], ["x", "low"], ["x", "", "high"])
    inputs = {name: inputs[name] for name in order if name}
    return {"inputs": inputs, "order": order, "constants": d.choice([], list(inputs)[1:])}


def _along_axis(d: Any) -> dict[str, Any]:
    return {"inputs": {"x": d.array(2, 3, 4)}, "axis": d.int(-3, 2), "version": d.choice(11, 13)}


def _where(d: Any) -> dict[str, Any]:
    inputs = {"c": d.ints(2, 3, low=0, high=2).astype(bool), "a": d.array(2, 3), "b": d.array(3)}
    return {"inputs": inputs}


def _dropout(d: Any) -> dict[str, Any]:
    if d.bool():
        return {"inputs": {"x": d.array(3, 4)}}
    inputs = {"x": d.array(3, 4), "ratio": np.float32(0.4), "train": np.array(True)}
    return {"inputs": inputs, "seed": d.int(0, 9)}


CASES: dict[str, Any] = {name: _unary(name) for name in _UNARY} | {
    "LeakyRelu": _with_floats(alpha=(0.01, 0.9)),
    "PRelu": lambda d: {"inputs": {"x": d.array(2, 3, 4), "slope": d.array(*d.choice((3, 1), (1,), (4,)))}},
    "Elu": _with_floats(alpha=(0.2, 2)),
    "Selu": _with_floats(alpha=(0.2, 2), gamma=(0.2, 2)),
    "Celu": _with_floats(alpha=(0.2, 2)),
    "HardSigmoid": _with_floats(alpha=(0.1, 0.5), beta=(0.3, 0.6)),
    "ThresholdedRelu": _with_floats(alpha=(0.2, 2)),
    "Swish": lambda d: _with_floats(alpha=(0.2, 2))(d) | {"version": 24},
    "Shrink": _with_floats(bias=(0.1, 0.4), lambd=(0.2, 0.9)),
    "Gelu": lambda d: _unary("Gelu")(d) | {"approximate": d.choice("none", "tanh")},
    "Softmax": _along_axis,
    "LogSoftmax": _along_axis,
    "Add": _binary(),
    "Sub": _binary(),
    "Mul": _binary(),
    "Div": _binary(0.4, 2),
    "Pow": _binary(0.4, 2),
    "Mod": _mod,
    "Max": _variadic,
    "Min": _variadic,
    "Sum": _variadic,
    "Mean": _variadic,
    "Clip": _clip,
    "Where": _where,
    "Dropout": _dropout,
    "com.microsoft::QuickGelu": _with_floats(alpha=(0.5, 2)),
    "com.microsoft::BiasGelu": lambda d: {"inputs": {"x": d.array(2, 4), "b": d.array(4)}},
    "com.microsoft::FastGelu": lambda d: {"inputs": {"x": d.array(2, 4), "b": d.array(4)}},
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_gradient(name: str, data: st.DataObject, check_gradient: Any) -> None:
    check_gradient(name, CASES[name], data)

"""Gradients of what moves, picks, repeats and sums elements, against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ints = lambda *values: np.array(values, np.int64)  # noqa: E731


def _reduction(positive: bool = False) -> Any:
    def make(d: Any) -> dict[str, Any]:
        x = d.array(2, 3, 4, low=0.3 if positive else -2, high=2)
        axes = d.choice([1], [0, 2], [-1], [0, 1, 2])
        if d.bool():
            return {"inputs": {"x": x}, "axes": axes, "keepdims": d.int(0, 1), "version": 11}
        inputs = {"x": x, "axes": ints(*axes)} if d.bool() else {"x": x}
        return {
            "inputs": inputs,
            "keepdims": d.int(0, 1),
            "version": 21,
            "constants": d.choice([], [name for name in inputs if name == "axes"]),
        }

    return make


def _cumulative(d: Any) -> dict[str, Any]:
    inputs = {"x": d.array(2, 3, 2), "axis": np.int64(d.int(-3, 2))}
    return {"inputs": inputs, "exclusive": d.int(0, 1), "reverse": d.int(0, 1), "version": 26}


def _top(d: Any) -> dict[str, Any]:
    options = {"axis": d.int(-2, 1), "outputs": 1, "largest": d.int(0, 1)}
    return {"inputs": {"x": d.array(3, 4), "k": ints(d.int(1, 3))}, **options}


def _unique(d: Any) -> dict[str, Any]:
    return {"inputs": {"x": d.array(5)}, "sorted": d.int(0, 1)}


def _reshape(d: Any) -> dict[str, Any]:
    shape = d.choice([6, 4], [-1], [2, -1, 2], [0, 0, 4])
    return {"inputs": {"x": d.array(2, 3, 4), "shape": ints(*shape)}, "constants": d.choice([], ["shape"])}


def _axes(squeezed: bool) -> Any:
    def make(d: Any) -> dict[str, Any]:
        x, axes = (
            (d.array(2, 1, 3, 1), d.choice([1], [-1], [1, 3]))
            if squeezed
            else (
                d.array(2, 3),
                d.choice([0], [-1], [1, 3]),
            )
        )
        if d.bool():
            return {"inputs": {"x": x}, "axes": axes, "version": 11}
        return {"inputs": {"x": x, "axes": ints(*axes)}, "constants": d.choice([], ["axes"])}

    return make


def _slice(d: Any) -> dict[str, Any]:
    starts, ends, axes, steps = d.choice(
        ([1], [3], [1], [1]),
        ([0, -1], [9, -9], [0, 2], [2, -1]),
        ([-3], [-1], [-1], [2]),
        ([3, 1], [0, 2], [2, 0], [-2, 1]),
    )
    if d.bool() and min(steps) == 1 == max(steps):
        return {"inputs": {"x": d.array(2, 4, 4)}, "starts": starts, "ends": ends, "axes": axes, "version": 9}
    inputs = {"x": d.array(2, 4, 4), "starts": ints(*starts), "ends": ints(*ends)}
    inputs |= {"axes": ints(*axes), "steps": ints(*steps)}
    return {"inputs": inputs, "constants": d.choice([], ["starts", "ends", "axes", "steps"])}


def _split(d: Any) -> dict[str, Any]:
    x = d.array(2, 5)
    if d.bool():
        return {"inputs": {"x": x}, "axis": 1, "split": [2, 3], "outputs": 2, "version": 11}
    if d.bool():
        return {"inputs": {"x": x}, "axis": 1, "num_outputs": 2, "outputs": 2}
    return {"inputs": {"x": x, "s": ints(1, 4)}, "axis": -1, "outputs": 2, "constants": d.choice([], ["s"])}


def _concat(d: Any) -> dict[str, Any]:
    axis = d.int(-2, 1)
    shapes = [(2, 3), (2, 1), (2, 2)] if axis % 2 else [(2, 3), (1, 3)]
    return {"inputs": {f"x{i}": d.array(*shape) for i, shape in enumerate(shapes)}, "axis": axis}


def _pad(d: Any) -> dict[str, Any]:
    mode = d.choice("constant", "reflect", "edge", "wrap")
    pads = d.choice([0, 1, 0, 1, 0, 1], [0, 0, 2, 0, 1, 0], [0, -1, 1, 0, 0, 0])
    if mode != "constant":
        pads = [abs(count) for count in pads]
    if d.bool() and mode != "wrap":
        return {"inputs": {"x": d.array(2, 3, 4)}, "pads": pads, "mode": mode, "version": 10}
    inputs = {"x": d.array(2, 3, 4), "pads": ints(*pads)}
    return {"inputs": inputs, "mode": mode, "constants": d.choice([], ["pads"])}


def _gather(d: Any) -> dict[str, Any]:
    indices = d.choice(np.array(1), ints(0, -1, 2, 2), np.array([[0, 1], [-2, 1]]))
    return {
        "inputs": {"x": d.array(3, 3), "i": indices},
        "axis": d.int(-2, 1),
        "constants": d.choice([], ["i"]),
    }


def _gather_elements(d: Any) -> dict[str, Any]:
    return {"inputs": {"x": d.array(3, 3), "i": d.ints(2, 3, low=-3, high=3)}, "axis": d.int(-2, 1)}


def _gather_nd(d: Any) -> dict[str, Any]:
    batch = d.int(0, 1)
    indices = d.choice(ints([[0, 1]], [[1, -1]]).reshape(2, 1, 2), ints([1], [0]).reshape(2, 1))
    return {
        "inputs": {"x": d.array(2, 3, 4), "i": indices if not batch else indices % 2},
        "batch_dims": batch,
    }


def _scatter(d: Any) -> dict[str, Any]:
    axis, reduction = d.int(-2, 1), d.choice("none", "add", "mul", "max", "min")
    places = d.random.permutation(3)[:2]
    indices = np.broadcast_to(places[:, None] if axis % 2 == 0 else places, (2, 2))
    both = d.array(13)
    inputs = {"x": both[:9].reshape(3, 3), "i": indices.copy(), "u": both[9:].reshape(2, 2)}
    return {"inputs": inputs, "axis": axis, "reduction": reduction}


def _scatter_plain(d: Any) -> dict[str, Any]:
    case = _scatter(d)
    del case["reduction"]
    return case | {"version": 9}


def _scatter_nd(d: Any) -> dict[str, Any]:
    both = d.array(12 + 6)
    inputs = {"x": both[:12].reshape(4, 3), "i": ints(2, 0)[:, None], "u": both[12:].reshape(2, 3)}
    return {"inputs": inputs, "reduction": d.choice("none", "add", "mul", "max", "min")}


def _tensor_scatter(d: Any) -> dict[str, Any]:
    inputs = {"past": d.array(2, 1, 4, 3), "new": d.array(2, 1, 2, 3), "at": ints(1, 2)}
    mode = d.choice("linear", "circular")
    return {"inputs": inputs, "mode": mode, "version": 24}


def _compress(d: Any) -> dict[str, Any]:
    condition = np.array([True, False, True])
    return {"inputs": {"x": d.array(3, 3), "c": condition}} | d.choice({}, {"axis": 0}, {"axis": -1})


def _reverse(d: Any) -> dict[str, Any]:
    time = d.int(0, 1)
    return {
        "inputs": {"x": d.array(3, 3, 2), "n": d.ints(3, low=1, high=4)},
        "time_axis": time,
        "batch_axis": 1 - time,
    }


def _one_hot(d: Any) -> dict[str, Any]:
    inputs = {"i": d.ints(2, 2, low=-4, high=5), "depth": np.int64(4), "values": d.array(2)}
    return {"inputs": inputs, "axis": d.int(-3, 2)}


def _trilu(d: Any) -> dict[str, Any]:
    return {"inputs": {"x": d.array(3, 4), "k": np.int64(d.int(-1, 1))}, "upper": d.int(0, 1)}


def _blocks(shape: tuple[int, ...]) -> Any:
    return lambda d: {"inputs": {"x": d.array(*shape)}, "blocksize": 2, "mode": d.choice("DCR", "CRD")}


CASES: dict[str, Any] = {
    "ReduceSum": _reduction(),
    "ReduceMean": _reduction(),
    "ReduceMax": _reduction(),
    "ReduceMin": _reduction(),
    "ReduceProd": _reduction(),
    "ReduceL1": _reduction(),
    "ReduceL2": _reduction(),
    "ReduceLogSum": _reduction(positive=True),
    "ReduceLogSumExp": _reduction(),
    "ReduceSumSquare": _reduction(),
    "CumSum": _cumulative,
    "CumProd": _cumulative,
    "TopK": _top,
    "Unique": _unique,
    "Reshape": _reshape,
    "Transpose": lambda d: {"inputs": {"x": d.array(2, 3, 4)}, "perm": d.choice([0, 2, 1], [2, 0, 1])},
    "Flatten": lambda d: {"inputs": {"x": d.array(2, 3, 4)}, "axis": d.int(-3, 3)},
    "Squeeze": _axes(squeezed=True),
    "Unsqueeze": _axes(squeezed=False),
    "Expand": lambda d: {"inputs": {"x": d.array(3, 1), "s": ints(*d.choice([2, 3, 4], [1, 1], [3, 2]))}},
    "DepthToSpace": _blocks((1, 8, 2, 2)),
    "SpaceToDepth": lambda d: {"inputs": {"x": d.array(1, 2, 4, 4)}, "blocksize": 2},
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Tile": lambda d: {"inputs": {"x": d.array(2, 3), "n": ints(*d.choice([2, 1], [1, 3], [2, 2]))}},
    "Pad": _pad,
    "Trilu": _trilu,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter,
    "Scatter": _scatter_plain,
    "ScatterND": _scatter_nd,
    "TensorScatter": _tensor_scatter,
    "Compress": _compress,
    "ReverseSequence": _reverse,
    "OneHot": _one_hot,
    "CenterCropPad": lambda d: {
        "inputs": {"x": d.array(3, 4), "s": ints(*d.choice([2, 6], [5, 2], [3, 3]))},
        "constants": ["s"],
    },
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_gradient(name: str, data: st.DataObject, check_gradient: Any) -> None:
    check_gradient(name, CASES[name], data)

"""The mirror itself: any value by name, only what is needed is run, cuts, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

from endoscope_server.errors import InvalidInput, NotFound
from endoscope_server.mirror import from_onnx, operator

TEXT = """
<ir_version: 10, opset_import: ["" : 21, "endoscope.test" : 1]>
g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z)
<float two = {2.0}>
{
    a = Mul (x, two)
    b = Relu (a)
    c = Add (b, a)
    y = Sigmoid (c)
    w = endoscope.test.Counted (a)
    z = Neg (w)
}
"""
_counted: list[int] = []


@operator("Counted", domain="endoscope.test")
def _counted_operator(_: Any) -> Any:
    def apply(x: torch.Tensor) -> torch.Tensor:
        _counted.append(1)
        return x + 1

    return apply


@pytest.fixture(scope="module")
def mirror() -> Any:
    return from_onnx(onnx.parser.parse_model(TEXT))


def rows(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("count", [1, 4, 7])
def test_any_value_by_name(mirror: Any, count: int) -> None:
    x = rows(count)
    found = mirror({"x": x}, ["a", "c", "y"])
    assert list(found) == ["a", "c", "y"]
    torch.testing.assert_close(found["a"], 2 * x)
    # Relu is fed by what is also read beside it: nothing may be overwritten.
    torch.testing.assert_close(found["c"], torch.relu(2 * x) + 2 * x)
    torch.testing.assert_close(found["y"], torch.sigmoid(found["c"]))
    assert set(mirror({"x": x})) == {"y", "z"}


def test_only_the_needed_part_is_run(mirror: Any) -> None:
    _counted.clear()
    mirror({"x": rows()}, ["y"])
    assert not _counted
    mirror({"x": rows()}, ["z"])
    assert len(_counted) == 1
    _counted.clear()
    mirror({"w": rows()}, ["z"])
    assert not _counted


def test_values_that_are_fed_cut_the_graph(mirror: Any) -> None:
    b = rows()
    c = mirror({"x": rows(), "b": b}, ["c"])["c"]
    torch.testing.assert_close(c, b + 2 * rows())
    torch.testing.assert_close(mirror({"c": b}, ["y"])["y"], torch.sigmoid(b))
    # A weight may be fed too, and then has a gradient.
    two = torch.tensor(3.0, requires_grad=True)
    mirror({"x": rows(), "two": two}, ["a"])["a"].sum().backward()
    torch.testing.assert_close(two.grad, rows().sum())
    torch.testing.assert_close(mirror({"x": rows()}, ["a"])["a"], 2 * rows())


def test_the_same_call_gives_the_same_bits(mirror: Any) -> None:
    results = [mirror({"x": rows()})["y"] for _ in range(4)]
    assert all(torch.equal(results[0], other) for other in results)


def test_reused_values_keep_what_they_were() -> None:
    """One Relu's result read by three, one of them another Relu: the trouble of hooks on modules."""
    text = """
        <ir_version: 10, opset_import: ["" : 21]> g (float[N, 3] x) => (float y)
        { r = Relu (x)  n = Neg (r)  s = Relu (n)  t = Add (r, s)  y = Mul (t, r) }
    """
    mirror = from_onnx(onnx.parser.parse_model(text))
    x = rows().requires_grad_()
    found = mirror({"x": x}, ["r", "n", "s", "t", "y"])
    relu = torch.relu(x)
    for name, expected in (
        ("r", relu),
        ("n", -relu),
        ("s", torch.zeros_like(x)),
        ("t", relu),
        ("y", relu**2),
    ):
        torch.testing.assert_close(found[name], expected)
    (gradient,) = torch.autograd.grad(found["y"].sum(), x)
    torch.testing.assert_close(gradient, 2 * relu)


def test_substituted_operators(mirror: Any) -> None:
    changed = mirror.substituting({"Relu": lambda _: lambda a: a})
    torch.testing.assert_close(changed({"x": rows()}, ["c"])["c"], 4 * rows())
    torch.testing.assert_close(mirror({"x": rows()}, ["c"])["c"], torch.relu(2 * rows()) + 2 * rows())


def test_unknown_names(mirror: Any) -> None:
    with pytest.raises(NotFound, match=r"'yy'.*nearest.*'y'"):
        mirror({"x": rows()}, ["yy"])
    with pytest.raises(NotFound, match="'xx'"):
        mirror({"xx": rows()}, ["y"])


def test_missing_and_misshapen_inputs(mirror: Any) -> None:
    with pytest.raises(InvalidInput, match="'x' is missing"):
        mirror({}, ["y"])
    with pytest.raises(InvalidInput, match=r"node 'Add_2' \(Add\) fails"):
        mirror({"x": rows(), "b": torch.zeros(4, 5)}, ["c"])


def test_constants_are_folded_and_model_is_left_alone() -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 21]> g (float[N, 2, 3] x) => (float y)
        <int64[1] one = {-1}, int64[1] six = {6}>
        { s = Concat <axis = 0> (one, six)  y = Reshape (x, s) }
    """
    model = onnx.parser.parse_model(text)
    before = model.SerializeToString()
    mirror = from_onnx(model)
    assert mirror.constants["s"].tolist() == [-1, 6]
    for count in (1, 1, 5):
        assert mirror({"x": torch.zeros(count, 2, 3)})["y"].shape == (count, 6)
    assert model.SerializeToString() == before


def test_functions_of_the_model_are_inlined() -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 21, "mine" : 1]> g (float[N, 3] x) => (float y)
        { a = mine.twice (x)  y = mine.twice (a) }
        <domain: "mine", opset_import: ["" : 21]> twice (u) => (v) { v = Add (u, u) }
    """
    mirror = from_onnx(onnx.parser.parse_model(text))
    torch.testing.assert_close(mirror({"x": rows()})["y"], 4 * rows())


def test_double() -> None:
    mirror = from_onnx(onnx.parser.parse_model(TEXT)).double()
    x = rows().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mirror({"x": x}, ["y"])["y"], (x,))


def test_numpy_in_numpy_out_of_the_backend() -> None:
    from endoscope_server.mirror import backend

    assert backend.supports_device("CPU")
    assert not backend.supports_device("CUDA")
    y, z = backend.run_model(onnx.parser.parse_model(TEXT), [rows().numpy()])
    np.testing.assert_allclose(z, -(2 * rows().numpy() + 1), rtol=1e-6)
    assert y.dtype == np.float32

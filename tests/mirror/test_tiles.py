"""Products in integer tiles against products in float64, as exact as those in float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.fusion.replay import Recorder
from endoscope_server.mirror.kernels import activation
from endoscope_server.mirror.kernels.linear import Linear
from endoscope_server.mirror.tiles import instructions, product

pytestmark = pytest.mark.skipif(not instructions.available(), reason="a processor with integer tiles")

NORMAL = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=NORMAL)


def error(found: Tensor, x: Tensor, matrix: Tensor) -> float:
    """Of the worst row, relative to its norm."""
    exact = x.double() @ matrix.double().t()
    return float(((found.double() - exact).norm(dim=1) / exact.norm(dim=1)).max())


@pytest.mark.parametrize("rows", [1, 16, 45])
@pytest.mark.parametrize("inputs", [16, 64, 80, 3072])
@pytest.mark.parametrize("outputs", [16, 528])
def test_shapes(rows: int, inputs: int, outputs: int) -> None:
    x, matrix = normal(rows, inputs), normal(outputs, inputs)
    found = product.product(x, matrix, product.pack(matrix))
    assert error(found, x, matrix) < 3e-6


def test_ends() -> None:
    x, matrix, bias, other = normal(37, 96), normal(48, 96), normal(48), normal(37, 48)
    packed = product.pack(matrix)
    exact = functional.linear(x.double(), matrix.double(), bias.double())
    for bounds in ((-math.inf, math.inf), (0.0, math.inf), (-1.0, 6.0)):
        for added in (None, other):
            found = product.product(x, matrix, packed, bias, added, bounds)
            expected = (exact if added is None else exact + added).clamp(*bounds)
            assert torch.allclose(found.double(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "most"),
    [("relu", 3e-6), ("loud", 2e-5), ("wide", 2e-5), ("disjoint", 2e-5), ("tiny", 3e-6), ("huge", 3e-6)],
)
def test_numbers_of_all_sizes(case: str, most: float) -> None:
    x, matrix = normal(40, 768), normal(64, 768)
    if case == "relu":
        x = x.relu()
    elif case == "loud":
        x[:, 5] *= 1000
    elif case == "wide":
        x = x * (2 * normal(40, 768)).exp()
    elif case == "disjoint":
        # What is large for one is nothing to the other.
        x[:, 5] *= 1000
        matrix[:, 5] /= 1000
        x[:, 9] /= 1000
        matrix[:, 9] *= 1000
    elif case == "tiny":
        x, matrix = x * 1e-25, matrix * 1e-8
    else:
        x, matrix = x * 1e25, matrix * 1e8
    matrix[:, 7] = 0
    assert error(product.product(x, matrix, product.pack(matrix)), x, matrix) < most


def test_rows_and_matrices_of_zeros() -> None:
    x, matrix = normal(20, 64), normal(32, 64)
    x[3], matrix[5] = 0, 0
    found = product.product(x, matrix, product.pack(matrix))
    assert not found[3].any()
    assert not found[:, 5].any()
    zeros = torch.zeros(32, 64)
    assert not product.product(x, zeros, product.pack(zeros)).any()


def test_gradients_of_few_rows(threads: Callable[[int], None]) -> None:
    """Blocks of zeros are left out, before and behind others, and with other rows beside."""
    x, matrix, bias, other = normal(120, 192), normal(256, 192), normal(256), normal(120, 256)
    x[:33], x[34:80], x[97:] = 0, 0, 0
    for count in (1, 2):
        threads(count)
        found = product.product(x, matrix, product.pack(matrix), bias, other)
        expected = functional.linear(x.double(), matrix.double(), bias.double()) + other
        assert torch.allclose(found.double(), expected, atol=1e-4)
        assert torch.equal(found[:33], other[:33] + bias)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_none(value: float) -> None:
    """They are computed with as torch does, and a matrix of them is not packed."""
    x, matrix, bias, other = normal(20, 64), normal(32, 64), normal(32), normal(20, 32)
    x[3, 4] = value
    found = product.product(x, matrix, product.pack(matrix), bias, other, (0.0, math.inf))
    expected = (functional.linear(x, matrix, bias) + other).clamp(min=0)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.allclose(found, expected, equal_nan=True)
    matrix[0, 0] = value
    assert not product.fits(matrix)


def test_the_same_bytes_in_any_company(threads: Callable[[int], None]) -> None:
    x, matrix = normal(200, 320), normal(1024, 320)
    packed = product.pack(matrix)
    whole = product.product(x, matrix, packed)
    assert torch.equal(product.product(x[31:50].contiguous(), matrix, packed), whole[31:50])
    threads(1)
    assert torch.equal(product.product(x, matrix, packed), whole)


def test_signs_and_powers_of_two_change_nothing_else() -> None:
    x, matrix = normal(50, 320), normal(64, 320)
    found = product.product(x, matrix, product.pack(matrix))
    assert torch.equal(product.product(-4 * x, matrix, product.pack(matrix)), -4 * found)
    assert torch.equal(product.product(x, -matrix, product.pack(-matrix)), -found)


def test_threads_keep_to_their_rows(threads: Callable[[int], None]) -> None:
    x, matrix = normal(1100, 768), normal(16, 768)
    threads(2)
    assert error(product.product(x, matrix, product.pack(matrix)), x, matrix) < 1e-5


def test_packing_is_not_taken_down() -> None:
    x, matrix = normal(20, 64), normal(32, 64)
    kernel = Linear(matrix, None)
    with Recorder([x]) as recorder:
        result = kernel(x)
    assert recorder.finish([result]) is None
    with Recorder([x]) as recorder:
        result = kernel(x)
    recording = recorder.finish([result])
    assert recording is not None
    [again] = recording([x])
    assert again is not None
    assert torch.equal(again, result)


def test_without_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    x, matrix, bias = normal(20, 64), normal(32, 64), normal(32)
    tiled = Linear(matrix, bias)(x)
    monkeypatch.setattr(product, "available", lambda: False)
    plain = Linear(matrix, bias)(x)
    assert torch.allclose(plain, tiled, atol=1e-4)
    assert not torch.equal(plain, tiled)


@pytest.mark.parametrize("joined", [False, True])
def test_gelu_on_the_way(joined: bool) -> None:
    """Forward after the product, and backward before the other one; also of numbers far out."""
    matrix, bias, x, other = normal(96, 64), normal(96), normal(50, 64), normal(50, 96)
    x[7] *= 3
    x[8] = 0
    inputs = [x, other] if joined else [x]
    kernel = Linear(matrix, bias, activation.gelu("none"))
    y, saved = kernel.forward(inputs, [True] * len(inputs))
    leaves = [tensor.double().requires_grad_() for tensor in inputs]
    plain = functional.linear(leaves[0], matrix.double(), bias.double())
    exact = functional.gelu(plain + leaves[1] if joined else plain)
    assert torch.allclose(y.double(), exact, atol=1e-4)
    gradient = normal(50, 96)
    expected = torch.autograd.grad(exact, leaves, gradient.double())
    found = kernel.backward((gradient, False), saved, [True] * len(inputs), None)
    for result, wanted in zip(found, expected, strict=True):
        assert result is not None
        assert torch.allclose(result[0].double(), wanted, atol=1e-4)


def test_gelu_everywhere() -> None:
    """Values and slopes of GELU from -15 to 15, where the other tensor is multiplied by one."""
    x = torch.linspace(-15, 15, 160 * 16).view(160, 16)
    one = torch.eye(16)
    y, plain = product.product_gelu(x, one, product.pack(one))
    assert torch.allclose(y.double(), functional.gelu(plain.double()), atol=1e-9, rtol=1e-6)
    leaf = x.double().requires_grad_()
    [slope] = torch.autograd.grad(functional.gelu(leaf).sum(), leaf)
    found = product.product(torch.ones_like(x), one, product.pack(one), before=x)
    assert torch.allclose(found.double(), slope, atol=1e-6)

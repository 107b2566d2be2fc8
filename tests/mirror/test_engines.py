"""Convolutions in oneDNN against torch's own, forward and backward, in all geometries."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from endoscope_server.mirror.compiling.machine import machine
from endoscope_server.mirror.kernels import activation
from endoscope_server.mirror.kernels.engines import Engine, Packed, Phased, Pointwise, fastest
from endoscope_server.mirror.kernels.linear import Linear
from endoscope_server.mirror.kernels.weights import Weights
from endoscope_server.mirror.spatial import Window


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


GEOMETRY = list(
    itertools.product(
        [(1, 3, 8), (1, 8, 16), (8, 8, 16), (2, 8, 6)],  # groups, channels in, channels out
        [(1, 1), (3, 3), (2, 5)],
        [(1, 1), (2, 2), (3, 1)],
        [(1, 1), (2, 1)],
        ["none", "same", "more", "uneven", "SAME_UPPER", "SAME_LOWER"],
    )
)


@pytest.mark.parametrize(("channels", "kernel", "strides", "dilations", "padding"), GEOMETRY)
def test_fast_convolutions(
    channels: tuple[int, int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    padding: str,
) -> None:
    groups, into, out = channels
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    pads = {
        "same": tuple((extent // 2, extent // 2) for extent in extents),
        "more": tuple((extent, extent) for extent in extents),
        "uneven": ((1, 0), (0, 2)),
    }.get(padding, ((0, 0), (0, 0)))
    auto = padding if padding.startswith("SAME") else "NOTSET"
    window = Window(kernel, strides, dilations, pads, auto, ceil=False)
    generator = torch.Generator().manual_seed(0)
    weights = Weights(
        torch.randn(out, into // groups, *kernel, generator=generator),
        torch.randn(out, generator=generator),
        torch.rand(out, generator=generator).double() + 0.5,
        torch.randn(out, generator=generator).double(),
    )
    slow, fast = Engine(weights, window, groups), fastest(weights, window, groups)
    assert fast is not None
    for sizes, batch in (((13, 16), 1), ((8, 9), 3)):
        x = torch.randn(batch, into, *sizes, generator=generator)
        expected, _ = slow.forward(x, None, None)
        found, _ = fast.forward(x, None, None)
        assert_close(found, expected)
        other = torch.randn(expected.shape, generator=generator)
        for term in (other, other.contiguous(memory_format=torch.channels_last), other[:, :, :1, :1]):
            found, done = fast.forward(x, term, ("relu", [], ""))
            assert_close(found if done else found.relu(), (expected + term).relu())
        gradient = torch.randn(expected.shape, generator=generator)
        back = slow.backward(gradient, x.shape, None)
        for term in (
            None,
            torch.zeros_like(x),
            torch.randn(x.shape).contiguous(memory_format=torch.channels_last),
        ):
            total = back if term is None else back + term
            assert_close(fast.backward(gradient, x.shape, term), total)
        assert_close(
            fast.backward(gradient.contiguous(memory_format=torch.channels_last), x.shape, None), back
        )


def test_each_engine_is_chosen() -> None:
    def chosen(into: int, kernel: int, stride: int) -> type[Engine]:
        window = Window((kernel, kernel), (stride, stride), (1, 1), ((0, 0), (0, 0)), "NOTSET", ceil=False)
        return type(fastest(Weights(torch.zeros(8, into, kernel, kernel), None), window, 1))

    assert chosen(3, 7, 2) is Phased
    assert chosen(16, 3, 2) is Packed
    assert chosen(16, 1, 2) is Pointwise
    window = Window((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), "NOTSET", ceil=False)
    assert fastest(Weights(torch.zeros(8, 8, 3, 3, dtype=torch.float64), None), window, 1) is None


def test_padding_that_changes_with_the_size() -> None:
    """One engine serves sizes that are padded differently, the packed weights of the first included."""
    window = Window((3, 3), (2, 2), (1, 1), ((0, 0), (0, 0)), "SAME_UPPER", ceil=False)
    weights = Weights(torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)), None)
    slow, fast = Engine(weights, window, 1), fastest(weights, window, 1)
    assert isinstance(fast, Phased)
    for size in (16, 15, 16, 14, 13):
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))
        expected, _ = slow.forward(x, None, None)
        assert_close(fast.forward(x, None, None)[0], expected)
        assert_close(fast.backward(expected, x.shape, None), slow.backward(expected, x.shape, None))


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("outputs", [16, 10])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_products_with_a_constant_matrix(rows: int, outputs: int, turned: bool, relu: bool) -> None:
    """Whichever way the matrix lies, and however many rows there are, again with other numbers of rows."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(outputs, 24, generator=generator)
    if turned:
        matrix = matrix.t().contiguous().t()
    bias = torch.randn(outputs, generator=generator)
    kernel = Linear(matrix, bias, activation.relu if relu else None)
    for count in (rows, 2 * rows, 1):
        x = torch.randn(count, 24, generator=generator, requires_grad=True)
        expected = functional.linear(x, matrix, bias)
        expected = expected.relu() if relu else expected
        gradient = torch.randn(expected.shape, generator=generator)
        [back] = torch.autograd.grad(expected, x, gradient)
        found, saved = kernel.forward([x.detach()], [True])
        assert_close(found, expected.detach())
        for partial in (None, torch.randn(back.shape, generator=generator)):
            total = back if partial is None else back + partial
            own = None if partial is None else partial.clone()
            [result] = kernel.backward((gradient, False), saved, [True], own)
            assert result is not None
            assert_close(result[0], total)


@pytest.mark.parametrize("count", [1, 2, 8, 15])
@pytest.mark.parametrize("inputs", [2, 8, 1003])
@pytest.mark.parametrize("zeros", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("outputs", [48, 33])
def test_a_few_rows_times_a_matrix_read_what_is_not_zero(
    count: int, inputs: int, zeros: float, outputs: int
) -> None:
    generator = torch.Generator().manual_seed(inputs)
    x = torch.randn(count, inputs, generator=generator)
    x[:, torch.rand(inputs, generator=generator) < zeros] = 0
    matrix = torch.randn(inputs, outputs, generator=generator)
    if outputs % 16 == 0 and machine() is not None:
        # Rows that aren't read can't spoil the result.
        matrix[x[0] == 0] = torch.inf
    kernel = Linear(matrix.t(), None)
    exact = x.double() @ torch.where(matrix.isinf(), 0, matrix).double()
    assert torch.allclose(kernel(x).double(), exact, atol=1e-4)
    x[:, 0] = torch.nan
    assert kernel(x).isnan().all()


def test_a_single_row_times_a_large_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    x, matrix, bias = (
        torch.randn(shape, generator=generator) for shape in ((1, 2048), (2064, 2048), (2064,))
    )
    kernel = Linear(matrix, bias, activation.relu)
    exact = functional.linear(x.double().relu(), matrix.double(), bias.double()).relu()
    assert torch.allclose(kernel(x.relu()).double(), exact, atol=1e-3)
    together = kernel(x.relu().expand(3, -1).contiguous())
    assert torch.allclose(together.double(), exact.expand(3, -1), atol=1e-3)

"""Convolutions in integer tiles against convolutions in float64, as exact as those in float32."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.compiling.machine import Machine, machine
from endoscope_server.mirror.kernels.activation import Activation, clip, relu
from endoscope_server.mirror.kernels.convolution import Convolution
from endoscope_server.mirror.kernels.weights import Weights
from endoscope_server.mirror.native import tiled
from endoscope_server.mirror.native.stretch import Stretch
from endoscope_server.mirror.spatial import Window
from endoscope_server.mirror.tiles import gathered
from endoscope_server.mirror.tiles.instructions import available

pytestmark = pytest.mark.skipif(not available(), reason="a processor with integer tiles")

MOST = 2e-6
"""Errors relative to the norm; float32 has 3e-7."""

NORMAL = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=NORMAL)


def convolution(
    into: int,
    out: int,
    kernel: tuple[int, int] = (3, 3),
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    pads: tuple[int, int] = (1, 1),
    activation: Activation | None = None,
) -> tuple[Convolution, Callable[..., Tensor]]:
    """The kernel, and the same by torch in float64."""
    weight, bias = normal(out, into, *kernel), normal(out)
    window = Window(kernel, strides, dilations, tuple((pad, pad) for pad in pads), "NOTSET", ceil=False)

    def exact(x: Tensor, other: Tensor | None = None) -> Tensor:
        y = functional.conv2d(x, weight.double(), bias.double(), strides, pads, dilations)
        y = y if other is None else y + other
        return y if activation is None else activation.apply(y)

    return Convolution(Weights(weight, bias), window, 1, activation), exact


def stretch(kernel: Convolution, inputs: int = 1) -> Stretch:
    def refuse(*_: Tensor) -> tuple[Tensor, ...]:
        raise AssertionError

    return Stretch([(kernel, tuple(range(inputs)), inputs)], inputs, [inputs], refuse)


def in_tiles(function: Stretch) -> bool:
    """Whether all programs that were made multiply in tiles, forward and back."""
    cases = [case for case in function._cases.values() if case is not None]
    emitters = [case.forward._emitter for case in cases]
    return all(any(one.build is gathered.build for one in emitter.operations) for emitter in emitters)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("channels", [(64, 64), (48, 128), (192, 64)])
@pytest.mark.parametrize(
    ("kernel", "strides", "dilations", "pads"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1)),
        ((2, 3), (1, 2), (1, 1), (0, 1)),
        ((3, 3), (2, 2), (1, 1), (1, 1)),
        ((3, 2), (1, 1), (2, 3), (2, 0)),
        ((3, 1), (3, 2), (1, 1), (0, 0)),
        ((5, 5), (1, 1), (1, 1), (2, 2)),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_geometries(
    channels: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int],
    batch: int,
) -> None:
    made, exact = convolution(*channels, kernel, strides, dilations, pads)
    function = stretch(made)
    x = normal(batch, channels[0], 13, 10).requires_grad_()
    leaf = x.detach().double().requires_grad_()
    [y], expected = function(x), exact(leaf)
    assert error(y.detach(), expected.detach()) < MOST
    gradient = normal(*y.shape)
    [back], [wanted] = (
        torch.autograd.grad(value, source, gradient.to(value.dtype))
        for value, source in ((y, x), (expected, leaf))
    )
    assert error(back, wanted) < MOST
    assert in_tiles(function)


@pytest.mark.parametrize("activation", [None, relu, clip(-1.0, 6.0)])
@pytest.mark.parametrize("size", [4, 9])
def test_what_is_added_and_clipped(activation: Activation | None, size: int) -> None:
    made, exact = convolution(64, 64, activation=activation)
    function = stretch(made, 2)
    given = [normal(2, 64, size, size).requires_grad_() for _ in range(2)]
    leaves = [value.detach().double().requires_grad_() for value in given]
    [y], expected = function(*given), exact(*leaves)
    assert error(y.detach(), expected.detach()) < MOST
    gradient = normal(*y.shape)
    found = torch.autograd.grad(y, given, gradient)
    wanted = torch.autograd.grad(expected, leaves, gradient.double())
    # What is within rounding of a bound may be passed on or not.
    unclear = torch.zeros(2, 64, size, size, dtype=torch.bool)
    if activation is not None and activation.bounds is not None:
        plain = functional.conv2d(
            leaves[0], made.weights.folded.double(), made.weights.bias.double(), padding=1
        )
        near = [
            (plain + leaves[1] - bound).abs() < 1e-4 for bound in activation.bounds if math.isfinite(bound)
        ]
        unclear = torch.stack(near).any(0)
    assert not unclear.any()
    for result, exact_result in zip(found, wanted, strict=True):
        assert error(result, exact_result) < MOST


def test_bytes_of_an_image_in_any_company(threads: Callable[[int], None]) -> None:
    made, _ = convolution(64, 128)
    function = stretch(made)
    images = normal(5, 64, 12, 12) * torch.tensor([1, 1e-3, 50, 1, 7]).view(-1, 1, 1, 1)
    with torch.no_grad():
        [together] = function(images)
        for number, count in itertools.product(range(5), (1, 2)):
            threads(count)
            assert torch.equal(function(images[number : number + 1])[0], together[number : number + 1])


def test_gradients_of_other_signs_are_the_same_but_for_those() -> None:
    made, _ = convolution(64, 64, strides=(2, 2))
    x, gradient = normal(2, 64, 9, 9).requires_grad_(), normal(2, 64, 5, 5)
    [y] = stretch(made)(x)
    [back] = torch.autograd.grad(y, x, gradient, retain_graph=True)
    [turned] = torch.autograd.grad(y, x, -gradient)
    assert torch.equal(turned, -back)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_with_what_is_no_number_has_no_numbers(value: float) -> None:
    made, exact = convolution(64, 64)
    images = normal(3, 64, 8, 8)
    images[1, 5, 2, 2] = value
    [found] = stretch(made)(images)
    assert found[1].isnan().all()
    for number in (0, 2):
        assert error(found[number : number + 1], exact(images[number : number + 1].double())) < MOST


def test_images_of_zeros_and_of_very_large_and_small_numbers() -> None:
    made, exact = convolution(64, 64)
    made.weights.bias = None
    images = normal(4, 64, 8, 8) * torch.tensor([0, 1e-30, 1e30, 1]).view(-1, 1, 1, 1)
    [found] = stretch(made)(images)
    bias = exact(torch.zeros(1, 64, 8, 8, dtype=torch.float64))
    assert not found[0].any()
    for number in (2, 3):
        expected = exact(images[number : number + 1].double()) - bias
        assert error(found[number : number + 1], expected) < MOST
    assert error(found[1:2] * 1e30, exact(images[1:2].double() * 1e30) - bias) < 1e-5


def test_which_are_taken() -> None:
    processor = machine()
    assert processor is not None

    def takes(out: int, into: int, *kernel: int) -> bool:
        return tiled.takes(processor, Weights(normal(out, into, *kernel), None))

    assert takes(64, 64, 3, 3)
    assert takes(128, 256, 1, 1)
    # Few sums, half empty tiles, parts of vectors, more than a block can gather.
    assert not takes(64, 64, 1, 1)
    assert not takes(64, 80, 3, 3)
    assert not takes(60, 64, 3, 3)
    assert not takes(64, 1024, 3, 3)
    weights = Weights(normal(64, 64, 3, 3), None)
    assert not tiled.takes(Machine(8, 16), weights)
    weights.folded[0, 0, 0, 0] = math.inf
    assert not tiled.takes(processor, Weights(weights.folded, None))

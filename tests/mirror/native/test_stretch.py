"""Programs compute what torch's functions do, and their gradients: to the last bit where sums are exact."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from endoscope_server.mirror.compiling.machine import Machine, machine
from endoscope_server.mirror.kernels.activation import clip, relu
from endoscope_server.mirror.native import stretch as stretch_module
from endoscope_server.mirror.native import tiled
from tests.mirror.native.networks import MACHINES, Network, random_network

pytestmark = pytest.mark.skipif(machine() is None, reason="no kernels for this machine")


def differentiated(
    run: Callable[..., tuple[Tensor, ...]], values: list[Tensor], factors: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Results and gradients of their sum, weighted."""
    leaves = [value.clone().requires_grad_() for value in values]
    results = run(*leaves)
    total = sum((result * factor).sum() for result, factor in zip(results, factors, strict=True))
    return [result.detach() for result in results], list(torch.autograd.grad(total, leaves))


def check(network: Network, random: np.random.Generator) -> None:
    """Results and gradients against torch's in float64, and the results without gradients."""
    stretch, values = network.stretch(), network.values(random)
    factors = [
        torch.from_numpy(random.integers(-2, 3, network.shapes[slot]).astype(np.float32))
        for slot in network.results
    ]
    exact = differentiated(
        network.exact, [value.double() for value in values], [factor.double() for factor in factors]
    )
    found = differentiated(stretch, values, factors)
    plain = stretch(*values)
    for result, expected, same in zip(found[0], exact[0], plain, strict=True):
        assert torch.equal(result.double(), expected)
        assert torch.equal(result, same)
    for gradient, expected in zip(found[1], exact[1], strict=True):
        assert torch.equal(gradient.double(), expected)


@pytest.mark.parametrize("processor", MACHINES, ids=str)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_networks(processor: Machine, seed: int) -> None:
    random = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretch_module, "machine", lambda: processor)
        # Integer tiles round even sums of small integers.
        patch.setattr(tiled, "available", lambda: False)
        check(random_network(random), random)


def residual(random: np.random.Generator, batch: int, size: int) -> Network:
    """Blocks as in a residual network: a strided first convolution, pooling, and additions."""
    network = Network([(batch, 3, size, size)])
    stem = network.convolution(random, 0, 16, (7, 7), (2, 2), pads=((3, 3), (3, 3)))
    pooled = network.max_pool(stem, 3, 2, 1, False)
    within = network.convolution(random, pooled, 16)
    block = network.convolution(random, within, 16, (1, 1), pads=((0, 0), (0, 0)), other=pooled)
    short = network.convolution(random, block, 32, (1, 1), (2, 2), pads=((0, 0), (0, 0)), activation=None)
    inner = network.convolution(random, block, 32, (3, 3), (2, 2), activation=clip(0.0, 6.0))
    network.convolution(random, inner, 32, other=short)
    network.results = [len(network.shapes) - 1]
    return network


def branches(random: np.random.Generator, batch: int) -> Network:
    """Concatenations of concatenations, and parts that are read elsewhere, too."""
    network = Network([(batch, 16, 9, 7)])
    first = network.convolution(random, 0, 32)
    second = network.convolution(random, 0, 16)
    inner = network.concatenate([first, second])
    third = network.convolution(random, inner, 16, (1, 1), pads=((0, 0), (0, 0)))
    outer = network.concatenate([inner, third, 0, second])
    network.convolution(random, outer, 24)
    network.results = [outer, len(network.shapes) - 1]
    return network


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_residual_blocks(batch: int) -> None:
    random = np.random.default_rng(batch)
    check(residual(random, batch, 37), random)


@pytest.mark.parametrize("batch", [1, 3])
def test_branches(batch: int) -> None:
    random = np.random.default_rng(batch)
    check(branches(random, batch), random)


def test_what_is_added_to_a_convolution_of_itself() -> None:
    random = np.random.default_rng(0)
    network = Network([(2, 16, 12, 12)])
    x = network.convolution(random, 0, 16, activation=None)
    for _ in range(3):
        x = network.convolution(random, x, 16, activation=None, other=x)
    network.results = [x]
    check(network, random)


def test_images_by_themselves_and_in_a_batch_are_alike(threads: Callable[[int], None]) -> None:
    """A batch whose first layers are computed image by image: the same bytes, with any number of threads."""
    random = np.random.default_rng(3)
    network = residual(random, 4, 224)
    stretch, image = network.stretch(), torch.randn(4, 3, 224, 224)
    (shape,) = [network.shapes[slot] for slot in network.results]
    factors = [torch.randn(shape)]
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(differentiated(stretch, [image], factors))
    for results, gradients in found[1:]:
        assert torch.equal(results[0], found[0][0][0])
        assert torch.equal(gradients[0], found[0][1][0])
    for index in range(4):
        part = slice(index, index + 1)
        results, gradients = differentiated(stretch, [image[part]], [factors[0][part]])
        assert torch.equal(results[0], found[0][0][0][part])
        assert torch.equal(gradients[0], found[0][1][0][part])


def test_a_backward_pass_keeps_a_bit_for_each_number() -> None:
    network = residual(np.random.default_rng(0), 2, 64)
    held = []

    def hold(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        network.stretch()(torch.randn(2, 3, 64, 64).requires_grad_())
    numbers = sum(int(np.prod(shape)) for shape in network.shapes)
    assert 0 < sum(tensor.nbytes for tensor in held) < numbers / 2


def test_gradients_twice_and_of_some_results() -> None:
    random = np.random.default_rng(1)
    network = branches(random, 2)
    (value,) = network.values(random)
    stretch, leaf, exact_leaf = network.stretch(), value.clone().requires_grad_(), value.double()
    exact_leaf.requires_grad_()
    results, exact = stretch(leaf), network.exact(exact_leaf)
    for index in (0, 1, 0):
        (gradient,) = torch.autograd.grad(results[index].sum(), leaf, retain_graph=True)
        (expected,) = torch.autograd.grad(exact[index].sum(), exact_leaf, retain_graph=True)
        assert torch.equal(gradient.double(), expected)


def test_inputs_without_gradients_get_none() -> None:
    random = np.random.default_rng(2)
    network = Network([(1, 16, 6, 6), (1, 16, 6, 6)])
    first = network.convolution(random, 0, 16)
    network.convolution(random, first, 16, other=1)
    network.results = [3]
    stretch, (a, b) = network.stretch(), network.values(random)
    for needs in ((True, False), (False, True)):
        a.requires_grad_(needs[0])
        b.requires_grad_(needs[1])
        (result,) = stretch(a, b)
        x, y = a.detach().double().requires_grad_(needs[0]), b.detach().double().requires_grad_(needs[1])
        (expected,) = network.exact(x, y)
        leaf, same = (a, x) if needs[0] else (b, y)
        assert torch.equal(
            torch.autograd.grad(result.sum(), leaf)[0].double(), torch.autograd.grad(expected.sum(), same)[0]
        )


@pytest.mark.parametrize("activation", [relu, clip(0.0, 6.0), None], ids=["relu", "clip", "none"])
def test_what_is_no_number_stays_so(activation: Any) -> None:
    random = np.random.default_rng(4)
    network = Network([(1, 16, 8, 8)])
    x = network.convolution(random, 0, 16, activation=activation)
    network.max_pool(x, 3, 2, 1, False)
    network.results = [1, 2]
    (value,) = network.values(random)
    value[0, 3, 2, 2], value[0, 5, 6, 6] = torch.nan, torch.inf
    found = differentiated(network.stretch(), [value], [torch.ones(network.shapes[slot]) for slot in (1, 2)])
    exact = differentiated(
        network.exact, [value.double()], [torch.ones(network.shapes[slot]).double() for slot in (1, 2)]
    )
    # Whether hardtanh's gradient passes what is no number depends in torch on the tensor's size.
    gradients = [] if activation is not None and activation.bounds[1] == 6.0 else [(found[1], exact[1])]
    for results, expectations in [(found[0], exact[0]), *gradients]:
        for result, expected in zip(results, expectations, strict=True):
            assert torch.equal(result.isnan(), expected.isnan())
            assert torch.equal(result.nan_to_num(), expected.float().nan_to_num())


def test_other_inputs_are_computed_otherwise() -> None:
    random = np.random.default_rng(5)
    network = residual(random, 1, 32)
    calls: list[tuple[Tensor, ...]] = []

    def otherwise(*values: Tensor) -> tuple[Tensor, ...]:
        calls.append(values)
        return values

    stretch = network.stretch(otherwise)
    for value in (
        torch.zeros(1, 3, 32, 32, dtype=torch.float64),
        torch.zeros(1, 4, 32, 32),
        torch.zeros(0, 3, 32, 32),
        torch.zeros(3, 32, 32),
        torch.zeros(1, 3, 32, 32, device="meta"),
    ):
        assert stretch(value)[0] is value
    assert len(calls) == 5
    assert stretch(torch.zeros(1, 3, 32, 32))[0].shape == network.shapes[-1]


def test_many_threads_of_a_server_at_once() -> None:
    random = np.random.default_rng(6)
    network = residual(random, 2, 48)
    stretch, factors = network.stretch(), [torch.ones(network.shapes[-1])]
    images = [torch.randn(2, 3, 48, 48) for _ in range(4)]
    expected = [differentiated(stretch, [image], factors) for image in images]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            found = differentiated(stretch, [images[index]], factors)
            if not (
                torch.equal(found[0][0], expected[index][0][0])
                and torch.equal(found[1][0], expected[index][1][0])
            ):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong

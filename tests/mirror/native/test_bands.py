"""Forward passes band by band, of pictures read where they are: exactly what layers by themselves give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from endoscope_server.mirror.compiling.machine import Machine, machine
from endoscope_server.mirror.kernels.pooling import Mean
from endoscope_server.mirror.native import bands, support
from endoscope_server.mirror.native.bands import schedule
from endoscope_server.mirror.native.forward import Forward
from endoscope_server.mirror.native.support import Layer, Misfit, Shape, layer
from tests.mirror.native.networks import MACHINES, Network, random_network

pytestmark = pytest.mark.skipif(machine() is None, reason="no kernels for this machine")

NONE = ((0, 0), (0, 0))


def layers_of(network: Network) -> list[Layer]:
    """The network's layers, none of which needs gradients."""
    known: dict[int, Shape] = dict(enumerate(network.inputs))  # type: ignore[arg-type]
    made = []
    for kernel, inputs, output in network.places:
        one = layer(kernel, inputs, output, (False,) * len(inputs), [known[slot] for slot in inputs])
        known[output] = one.shape
        made.append(one)
    return made


def results_of(
    network: Network, processor: Machine, value: Tensor, outside: bool, threads: int = 1
) -> Sequence[Tensor]:
    forward = Forward(
        processor, layers_of(network), network.inputs, network.results, False, banded=True, outside=outside
    )
    if outside:
        return [torch.from_numpy(found) for found in forward.run_outside(value.numpy(), threads)]
    return forward.run([value])[0]


@pytest.mark.parametrize("processor", MACHINES, ids=str)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 64, 500, 4000]))
def test_random_networks(processor: Machine, seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    network = random_network(random)
    (value,) = network.values(random)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "_BAND", size)
        patch.setattr(support, "_LARGE", 0)
        found = results_of(network, processor, value, outside=False)
    for result, exact in zip(found, network.exact(value.double()), strict=True):
        assert torch.equal(result.double(), exact)


def mobile(random: np.random.Generator, shape: tuple[int, int, int, int]) -> Network:
    """Depthwise convolutions, wide maps between narrow ones, an addition, pooling, and a mean at the end."""
    network = Network([shape])
    x = network.convolution(random, 0, 16, (3, 3), (2, 2))
    for width, kernel, strides in ((48, 3, 1), (96, 5, 2), (48, 3, 1)):
        wide = network.convolution(random, x, width, (1, 1), pads=NONE)
        deep = network.convolution(
            random, wide, 0, (kernel, kernel), (strides, strides), pads=((2, 2), (2, 2)), depthwise=True
        )
        x = network.convolution(random, deep, 16, (1, 1), pads=NONE, activation=None)
        x = network.convolution(random, x, 16, activation=None, other=x)
    x = network.max_pool(x, 3, 2, 1, False)
    network.add(Mean(None, True), [x], lambda values: values.mean((2, 3), keepdim=True))
    network.results = [len(network.shapes) - 1]
    return network


@pytest.mark.parametrize("processor", MACHINES, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_are_read_where_they_are(processor: Machine, channels: int) -> None:
    random = np.random.default_rng(channels)
    network = mobile(random, (3, channels, 75, 83))
    # Weights that are not integers, so that the order of sums would be seen.
    value = torch.randn(network.inputs[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "_BAND", 20_000)
        patch.setattr(support, "_LARGE", 20_000)
        (found,) = results_of(network, processor, value, outside=True)
        (alone,) = results_of(mobile_of(network, 1), processor, value[1:2].contiguous(), outside=True)
    (same,) = Forward(processor, layers_of(network), network.inputs, network.results, False).run([value])[0]
    (two,) = results_of(network, processor, value, outside=True, threads=2)
    assert torch.equal(found, same)
    assert torch.equal(found, two)
    assert torch.equal(found[1:2], alone)
    (exact,) = network.exact(value.double())
    assert torch.allclose(found.double(), exact, atol=1e-5 * float(exact.abs().max()))


def mobile_of(network: Network, batch: int) -> Network:
    """The same layers for another batch."""
    made = Network([(batch, *network.inputs[0][1:])])
    made.places, made.results = network.places, network.results
    return made


def test_only_some_rows_of_what_passes_are_kept() -> None:
    network = mobile(np.random.default_rng(0), (2, 3, 448, 448))
    layers = layers_of(network)
    whole = Forward(MACHINES[0], layers, network.inputs, network.results, False)
    some = Forward(MACHINES[0], layers, network.inputs, network.results, False, banded=True, outside=True)
    assert sum(map(Tensor.numel, some.program.allocate())) < 0.3 * sum(
        map(Tensor.numel, whole.program.allocate())
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 64, 500]))
def test_every_row_is_computed_once_and_while_what_it_reads_is_kept(seed: int, size: int) -> None:
    network = random_network(np.random.default_rng(seed))
    layers = layers_of(network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "_BAND", size)
        plan = schedule(layers, set(network.results), banded=True)
    done: dict[int, int] = dict.fromkeys(range(len(network.shapes)), 0)
    for band in plan.bands:
        one = band.layer
        assert band.first == done[one.output] < band.last <= one.shape[2]
        for slot in one.inputs:
            if slot < len(network.inputs):
                continue
            geometry = one.geometry
            rows = np.arange(band.first, band.last)
            if geometry is not None:
                taps = np.arange(geometry.kernel[0]) * geometry.dilations[0] - geometry.starts[0]
                reached = rows[:, None] * geometry.strides[0] + taps
                rows = reached[(reached >= 0) & (reached < geometry.size[0])]
            if rows.size:
                assert done[slot] - plan.rings[slot] <= rows.min()
                assert rows.max() < done[slot]
        done[one.output] = band.last
    assert all(done[one.output] == one.shape[2] for one in layers)


def test_inputs_that_are_read_elsewhere_are_not_read_outside() -> None:
    random = np.random.default_rng(0)
    network = Network([(1, 3, 8, 8)])
    x = network.convolution(random, 0, 3, activation=None)
    network.sum(x, 0, None)
    network.results = [len(network.shapes) - 1]
    with pytest.raises(Misfit):
        Forward(MACHINES[0], layers_of(network), network.inputs, network.results, False, outside=True)

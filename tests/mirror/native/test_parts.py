"""How work, sums and memory are divided."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from endoscope_server.mirror import from_onnx
from endoscope_server.mirror.compiling.arena import Buffer, place
from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.fusion import region
from endoscope_server.mirror.native import dense, stretch, tables
from endoscope_server.mirror.native.stretch import Stretch
from endoscope_server.mirror.native.support import is_supported
from endoscope_server.mirror.native.tables import Geometry
from tests.mirror.native.networks import MACHINES, Network


@given(st.sampled_from(MACHINES), st.integers(1, 200))
def test_panels_cover_all_columns(machine: Machine, vectors: int) -> None:
    widths = dense.panels(machine, vectors)
    assert sum(widths) == vectors
    assert len(set(widths)) <= 2
    for width in widths:
        assert dense.heights(machine, width)[-1] == 1


@given(st.integers(0, 49), st.integers(1, 3000), st.sampled_from([4, 24, 48, 64]))
def test_slices_cover_every_tap_and_channel_once(taps: int, channels: int, width: int) -> None:
    seen = np.zeros((taps, channels), int)
    for first, last, start, end in dense.slices(taps, channels, width):
        seen[first:last, start:end] += 1
    assert (seen == 1).all()


def test_large_tables_are_forgotten() -> None:
    sizes = range(700, 720)
    found = [
        tables.forward(Geometry((size, size), (size, size), (3, 3), (1, 1), (1, 1), (1, 1))) for size in sizes
    ]
    assert sum(table.nbytes for table in found) > 10 * tables._REMEMBERED
    assert tables._cache.currsize <= tables._REMEMBERED
    small = Geometry((8, 8), (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    assert tables.forward(small) is tables.forward(small)


@given(
    st.lists(
        st.tuples(st.integers(1, 9 << 20), st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=30
    )
)
def test_buffers_that_are_used_at_once_lie_apart(spans: list[tuple[int, int, int, bool]]) -> None:
    buffers = [
        (Buffer(size, kept=kept), min(times), max(times))
        for size, *times, kept in ((size, first, last, kept) for size, first, last, kept in spans)
    ]
    sizes, passing = place(buffers)
    for index, (one, begins, ends) in enumerate(buffers):
        assert one.offset + one.size <= sizes[one.block]
        assert (one.block >= passing) == one.kept
        for other, first, last in buffers[:index]:
            if other.block == one.block and begins <= last and first <= ends:
                assert one.offset >= other.offset + other.size or other.offset >= one.offset + one.size


def test_programs_are_let_go_when_others_need_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    network = Network([(1, 16, 40, 40)])
    network.results = [network.convolution(random, 0, 16)]
    made = network.stretch()
    monkeypatch.setattr(stretch, "_KEPT", 250_000)
    results = [made(torch.ones(1, 16, 40 + step, 40))[0] for step in range(8)]
    gc.collect()
    alive = [ref() for ref in stretch._kept]
    assert 1 <= len([one for one in alive if one is not None]) < 8
    for step, result in enumerate(results):
        assert torch.equal(made(torch.ones(1, 16, 40 + step, 40))[0], result)


def test_where_no_kernels_can_be_made_there_are_only_regions(
    lite0_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region, "machine", lambda: None)
    mirror = from_onnx(lite0_path)
    (given_name,), (wanted,) = mirror.input_names, mirror.output_names
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    steps = mirror.plan({given_name: image}, [wanted]).steps
    assert not any(isinstance(step.function, Stretch) for step in steps)
    monkeypatch.undo()
    compiled = from_onnx(lite0_path)
    found, expected = (one({given_name: image}, [wanted])[wanted] for one in (compiled, mirror))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_what_a_model_claims_leads_to_no_endless_tables_or_kernels() -> None:
    random = np.random.default_rng(0)
    network = Network([(1, 1, 160, 160)])
    network.results = [network.convolution(random, 0, 1, (99, 99), pads=((49, 49), (49, 49)))]
    calls = []
    network.stretch(lambda *values: calls.append(values) or values)(torch.zeros(1, 1, 160, 160))
    assert len(calls) == 1
    wide = Network([(1, 16, 20, 20)])
    wide.convolution(random, 0, 16, (9, 9), pads=((4, 4), (4, 4)), depthwise=True)
    assert not is_supported(wide.places[0][0])

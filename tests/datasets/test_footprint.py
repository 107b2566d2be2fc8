"""What scans are told to take."""

from __future__ import annotations

from pathlib import Path

import pytest

from endoscope_server.datasets import LocalEngine, RayEngine, ScanParameters, peaks_of, scan_memory
from endoscope_server.models import Model, ModelFile


@pytest.fixture
def model(digits_cnn_path: Path, tmp_path: Path) -> Model:
    return Model(ModelFile("digits", digits_cnn_path, {}, False, 0.0), tmp_path)


def told(model: Model, value: str, count: int = 10_000, batch_size: int = 64, workers: int = 2) -> int:
    preprocessing = model.preprocessing({})
    parameters = ScanParameters((value,), batch_size)
    return scan_memory(LocalEngine(workers), model.graph, model.value_bytes, preprocessing, count, parameters)


def test_more_at_once_takes_more(model: Model) -> None:
    assert told(model, "view", batch_size=256) > 2 * told(model, "view", batch_size=64)
    assert told(model, "view", workers=4) > 1.5 * told(model, "view", workers=2)
    assert told(model, "view", count=8) < told(model, "view") / 4
    # However many pictures there are: what is stored is let go.
    assert told(model, "view", count=10**6) == told(model, "view", count=10**5)


def test_of_peaks_little_is_held(model: Model) -> None:
    assert told(model, peaks_of("conv2d")) < told(model, "conv2d") / 2


def test_workers_elsewhere_take_their_own(model: Model) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install endoscope[ray]")
    preprocessing, parameters = model.preprocessing({}), ScanParameters(("conv2d",), 16)
    width = model.value_bytes["conv2d"]
    elsewhere = scan_memory(RayEngine(), model.graph, model.value_bytes, preprocessing, 10_000, parameters)
    # One task's features beside three copies of those that wait to be stored.
    assert elsewhere == (32 + 3 * (256 + 16)) * width
    assert elsewhere < told(model, "conv2d", batch_size=16)

"""Neighbours by FAISS, asked of a running server whose threshold is low."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from endoscope.v1 import activation_pb2, activation_pb2_grpc, dataset_pb2, dataset_pb2_grpc
from endoscope_zoo.recipes.digits_cnn import pictures

ITEMS = range(0, 1700, 17)


@pytest.fixture(scope="module")
def digits_server(start_server, digits_cnn_path: Path, tmp_path_factory) -> Any:
    """A server with all 1,797 digits as ``datasets/digits``, approximate beyond 1,000 items."""
    pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install endoscope[faiss]")
    root = tmp_path_factory.mktemp("digits")
    for index, (picture, label) in enumerate(pictures()):
        folder = root / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{index:04d}.png")
    few = root / "few"
    few.mkdir()
    for path in sorted(root.glob("digits/*/*0.png")):
        (few / path.name).write_bytes(path.read_bytes())
    options = ("--datasets-root", str(root), "--approximate-above", "1000")
    with start_server(tmp_path_factory.mktemp("state"), digits_cnn_path.parent, *options) as running:
        datasets = dataset_pb2_grpc.DatasetServiceStub(running.channel)
        for name in ("digits", "few"):
            request = dataset_pb2.CreateDatasetRequest(dataset_id=name, path=str(root / name))
            datasets.CreateDataset(request, timeout=30)
        yield running


def search(server: Any, **fields: Any) -> activation_pb2.FindNeighborsResponse:
    request = activation_pb2.FindNeighborsRequest(
        **{"model": "digits-cnn", "dataset": "digits", "items": ITEMS, "k": 10, "thumbnail_size": 0, **fields}
    )
    return activation_pb2_grpc.ActivationServiceStub(server.channel).FindNeighbors(request, timeout=120)


@pytest.mark.parametrize("metric", ["METRIC_L2", "METRIC_COSINE"])
def test_an_approximate_answer_tells_its_recall(digits_server, metric: str) -> None:
    exact = search(digits_server, metric=metric)
    found = search(digits_server, metric=metric, approximate=True)
    assert exact.recall == 1
    # Some are missed, or it was not FAISS that answered.
    assert 0.95 <= found.recall < 1
    hits = 0
    for near, truth in zip(found.results, exact.results, strict=True):
        distances = [one.distance for one in near.neighbors]
        assert distances == sorted(distances)
        expected = {one.item: one.distance for one in truth.neighbors}
        for one in near.neighbors:
            if one.item in expected:
                hits += 1
                # Whatever is found is measured exactly.
                assert one.distance == pytest.approx(expected[one.item], rel=1e-9)
    assert hits / (10 * len(ITEMS)) == pytest.approx(found.recall, abs=0.04)
    again = search(digits_server, metric=metric, approximate=True)
    assert again.results == found.results


def test_below_the_threshold_the_answer_is_exact(digits_server) -> None:
    fields = {"dataset": "few", "items": range(0, 100, 9)}
    found = search(digits_server, approximate=True, **fields)
    assert found.recall == 1
    assert found.results == search(digits_server, **fields).results


def test_pixels_are_always_compared_exactly(digits_server) -> None:
    asked = {"items": [3, 800], "pixel_space": True}
    exact, found = search(digits_server, **asked), search(digits_server, approximate=True, **asked)
    for near, truth in zip(found.results, exact.results, strict=True):
        assert list(near.pixel_neighbors) == list(truth.pixel_neighbors)

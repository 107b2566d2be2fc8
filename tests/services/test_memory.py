"""Scans, embeddings and searches are granted memory before they take it, and give it back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from PIL import Image

from endoscope.v1 import (
    activation_pb2,
    activation_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
)
from endoscope_server.datasets import FeatureTable
from endoscope_server.datasets.store import digest
from endoscope_server.errors import LimitExceeded
from endoscope_server.models import MemoryBudget
from endoscope_server.services.activation.neighbors import Indexes
from endoscope_server.techniques.neighbors import Metric
from tests.services.metrics import metrics_port, read_metrics

MODEL = "models/digits-cnn"
GREY = "datasets/grey"
MANY = "datasets/many"
PICTURES = 60
BUDGET = 40 * 2**20
REFUSED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "MEMORY_BUDGET")


@dataclass(frozen=True)
class Running:
    """A server of little memory.

    Attributes:
        datasets: A stub.
        activations: A stub.
        jobs: A stub.
        models: A stub.
        granted: Bytes that are granted now, as its metrics tell.
    """

    datasets: Any
    activations: Any
    jobs: Any
    models: Any
    granted: Callable[[], int]

    def extract(self, dataset: str, **fields: Any) -> Any:
        request = dataset_pb2.ExtractFeaturesRequest(model=MODEL, dataset=dataset, **fields)
        return self.datasets.ExtractFeatures(request, timeout=120)

    def embed(self, dataset: str, **fields: Any) -> Any:
        request = activation_pb2.EmbedFeaturesRequest(model=MODEL, dataset=dataset, **fields)
        return self.activations.EmbedFeatures(request, timeout=120)

    def search(self, dataset: str, **fields: Any) -> Any:
        request = activation_pb2.FindNeighborsRequest(model=MODEL, dataset=dataset, **fields)
        return self.activations.FindNeighbors(request, timeout=120)

    def names_of_jobs(self) -> list[str]:
        return [job.name for job in self.jobs.ListJobs(job_service_pb2.ListJobsRequest(), timeout=30).jobs]

    def stored(self, dataset: str) -> list[str]:
        request = dataset_pb2.GetDatasetRequest(name=dataset)
        return [found.value for found in self.datasets.GetDataset(request, timeout=30).dataset.features]

    def unload(self) -> None:
        self.models.UnloadModel(model_pb2.UnloadModelRequest(name=MODEL), timeout=30)


@pytest.fixture(scope="module")
def running(start_server, digits_models, tmp_path_factory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name, count in (("grey", PICTURES), ("many", 4000)):
        (root / name).mkdir()
        for index in range(count):
            picture = generator.integers(0, 256, (32, 32), np.uint8)
            Image.fromarray(picture).save(root / name / f"{index:04d}.png", compress_level=0)
    (root / "broken").mkdir()
    for index in range(3):
        (root / "broken" / f"{index}.png").write_bytes(b"no picture %d" % index)
    options = ("--datasets-root", str(root), "--memory-budget", str(BUDGET), "--threads", "1")
    options += ("--metrics-listen", "127.0.0.1:0")
    with start_server(tmp_path_factory.mktemp("little"), digits_models, *options) as server:
        port = metrics_port(server.state / "log")
        found = Running(
            dataset_pb2_grpc.DatasetServiceStub(server.channel),
            activation_pb2_grpc.ActivationServiceStub(server.channel),
            job_service_pb2_grpc.JobServiceStub(server.channel),
            model_pb2_grpc.ModelServiceStub(server.channel),
            lambda: granted(port),
        )
        for name in ("grey", "many", "broken"):
            request = dataset_pb2.CreateDatasetRequest(dataset_id=name, path=str(root / name))
            found.datasets.CreateDataset(request, timeout=30)
        yield found


def granted(port: int) -> int:
    return int(read_metrics(port)["endoscope_memory_granted_bytes", frozenset()])


def is_at_last(size: int, found: Callable[[], int]) -> bool:
    """Whether so much is granted soon: a client may know of the end before the memory is back."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if found() == size:
            return True
        time.sleep(0.02)
    return False


def test_what_can_not_fit_is_refused_before_anything_is_computed(running: Running, failure) -> None:
    pictures = activation_pb2.FindNeighborsRequest(items=range(30))
    calls = {
        "a scan of dataset 'grey' takes": lambda: list(
            running.extract(GREY, layers=["conv2d", "relu", "conv2d_1", "relu_1"], batch_size=1024)
        ),
        "embed_features takes": lambda: list(running.embed(GREY, layer="conv2d")),
        "find_neighbors takes": lambda: running.search(GREY, items=pictures.items, thumbnail_size=512, k=9),
    }
    for sentence, call in calls.items():
        code, _, reason, told = failure(call)
        assert (code, reason) == REFUSED
        assert told.startswith(sentence)
        assert told.endswith("of memory, expected at most 40 MiB")
    assert running.stored(GREY) == []
    assert running.names_of_jobs() == []
    # The same of less is done.
    assert list(running.extract(GREY, layers=["conv2d"]))[-1].result.computed_count == PICTURES


def test_what_ends_gives_its_memory_back(running: Running) -> None:
    running.unload()
    assert running.granted() == 0
    assert list(running.extract(GREY, layers=["view"]))[-1].HasField("result")
    # The model stays in memory, and is counted until it goes.
    model = running.granted()
    assert 0 < model < 3 * 2**20
    assert list(running.embed(GREY, layer="view"))[-1].HasField("result")
    assert is_at_last(model, running.granted)
    for call in (
        lambda: list(running.embed("datasets/broken", layer="view")),
        lambda: running.search("datasets/broken", items=[1], layer="view"),
        lambda: list(running.embed(GREY, layer="view", dimensions=61)),
    ):
        with pytest.raises(grpc.RpcError):
            call()
        assert is_at_last(model, running.granted)
    assert running.search(GREY, items=[1], layer="view").results
    # So does the index of a search.
    index = running.granted() - model
    assert 4 * PICTURES * 256 <= index < 8 * PICTURES * 256
    assert running.search(GREY, items=[2], layer="view").results
    assert is_at_last(model + index, running.granted)
    running.unload()
    assert is_at_last(index, running.granted)


@contextlib.contextmanager
def scan_under_way(running: Running, layer: str) -> Iterator[None]:
    """A scan that was granted its memory, about 16 MiB, and is cancelled at the end of the block."""
    idle = running.granted()
    stream = running.extract(MANY, layers=[layer])
    name = next(stream).header.job
    deadline = time.monotonic() + 20
    while running.granted() < idle + 12 * 2**20:
        assert time.monotonic() < deadline
    try:
        yield
    finally:
        running.jobs.CancelJob(job_service_pb2.CancelJobRequest(name=name), timeout=30)
        with pytest.raises(grpc.RpcError) as cancelled:
            list(stream)
        assert cancelled.value.code() is grpc.StatusCode.CANCELLED


def test_a_scan_that_is_cancelled_gives_its_memory_back(running: Running) -> None:
    running.unload()
    idle = running.granted()
    with scan_under_way(running, "conv2d_2"):
        pass
    running.unload()
    assert is_at_last(idle, running.granted)


def test_what_does_not_fit_now_is_refused_with_the_time_to_try_again(running: Running) -> None:
    with scan_under_way(running, "relu_2"), pytest.raises(grpc.RpcError) as caught:
        list(running.extract(GREY, layers=["relu", "relu_1", "conv2d_1"]))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "are left beside other work; try again later" in error.details()
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)


def test_an_index_goes_where_room_is_needed_and_is_made_again(tmp_path: Path) -> None:
    table = FeatureTable(tmp_path)
    keys = [digest(bytes([number])) for number in range(50)]
    table.append(keys, np.random.default_rng(0).random((50, 64), np.float32))
    budget = MemoryBudget(2**20)
    indexes = Indexes(1000, budget)

    def get(metric: Metric) -> Any:
        steps = indexes.get(table, keys, metric, approximate=False)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    index = get(Metric.L2)
    kept = indexes.memory(50, 64, approximate=False).kept
    assert budget.granted == kept
    assert get(Metric.L2) is index
    get(Metric.COSINE)
    assert budget.granted == 2 * kept
    with budget.lent(budget.limit - kept, "a job"):
        assert budget.granted == budget.limit
        with pytest.raises(LimitExceeded), budget.lent(kept + 1, "a job that does not fit"):
            pass
    assert budget.granted == 0
    assert get(Metric.L2) is not index
    # One that is left unfinished leaves nothing.
    steps = indexes.get(table, keys, Metric.COSINE, approximate=False)
    next(steps)
    assert budget.granted > 2 * kept
    steps.close()
    assert budget.granted == kept

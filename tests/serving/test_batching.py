"""Requests of many clients, joined: real networks, real runs."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from endoscope_server.errors import InvalidInput, LimitExceeded, NotFound
from endoscope_server.models import Model, ModelFile
from endoscope_server.serving import Answer, Batcher
from endoscope_server.serving.demand import Demand
from endoscope_server.serving.pace import SAMPLES

SIDE = 64


def load(path: Path, folder: Path) -> Model:
    return Model(ModelFile(path.stem, path, {}, False, 0.0), folder, threads=1)


@pytest.fixture(scope="module")
def lite0(lite0_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(lite0_path, tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def lookup(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Rows of a table of four."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["rows"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor("table", TensorProto.FLOAT, [4, 2], np.arange(8.0))],
    )
    path = tmp_path_factory.mktemp("lookup") / "lookup.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return load(path, path.parent)


def images(count: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(side).uniform(-1, 1, (count, 3, side, side)).astype(np.float32)


def answer_all(
    model: Model,
    requests: Sequence[np.ndarray],
    name: str = "input",
    output: str = "logits",
    **options: float,
) -> tuple[list[Answer | BaseException], dict[int, int]]:
    """The answers to requests that are made at once, and how many runs had how many rows."""

    async def work() -> tuple[list[Answer | BaseException], dict[int, int]]:
        batcher = Batcher(**options)
        calls = [batcher.run(model, {name: array}, [output]) for array in requests]
        found = await asyncio.gather(*calls, return_exceptions=True)
        batcher.close()
        return found, {rows: runs.count for rows, runs in batcher.statistics[model.name].runs.items()}

    return asyncio.run(work())


def test_what_waits_together_is_run_together_and_right(lite0) -> None:
    batch = images(8)
    found, runs = answer_all(lite0, [image[None] for image in batch], runners=1, max_delay=0)
    assert runs == {1: 1, 7: 1}
    expected = lite0.run({"input": batch}, ["logits"])["logits"]
    for row, answer in zip(expected, found, strict=True):
        assert answer.values["logits"].shape == (1, 1000)
        assert np.abs(answer.values["logits"][0] - row).max() < 1e-5 * np.abs(expected).max()
        assert answer.rows == 1
        assert answer.computing_ns > 0


def test_no_batch_is_larger_than_allowed_unless_one_client_sent_it(lite0) -> None:
    sizes = [1, 2, 1, 9, 3, 1, 2, 1, 1, 4]
    batches = [images(size) for size in sizes]
    found, runs = answer_all(lite0, batches, runners=1, max_rows=4)
    assert sum(rows * count for rows, count in runs.items()) == sum(sizes)
    assert max(rows for rows in runs if rows != 9) <= 4
    assert runs[9] == 1
    assert [answer.values["logits"].shape[0] for answer in found] == sizes
    _, runs = answer_all(lite0, batches[:3], max_rows=1)
    assert runs == {1: 2, 2: 1}


def test_shapes_are_kept_apart(lite0) -> None:
    requests = [images(1, side) for side in (64, 96, 64, 96, 64, 32)]
    found, _ = answer_all(lite0, requests, runners=1)
    for array, answer in zip(requests, found, strict=True):
        expected = lite0.run({"input": array}, ["logits"])["logits"]
        assert np.abs(answer.values["logits"] - expected).max() < 1e-5 * np.abs(expected).max()


def test_one_bad_request_fails_alone(lookup) -> None:
    found, _ = answer_all(lookup, [np.array([index]) for index in (0, 1, 99, 2, 3)], "x", "y", runners=1)
    assert isinstance(found.pop(2), InvalidInput)
    assert [answer.values["y"].tolist() for answer in found] == [[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]]]
    found, runs = answer_all(lookup, [np.array([99])], "x", "y")
    assert isinstance(found[0], InvalidInput)
    assert runs == {}


def test_what_can_not_be_run_is_refused_before_it_waits(lookup) -> None:
    found, _ = answer_all(lookup, [np.array([1.0]), np.array([[1]])], "x", "y")
    assert [error.field for error in found] == ["inputs[x]", "inputs[x]"]
    found, _ = answer_all(lookup, [np.array([1])], "x", "z")
    assert isinstance(found[0], NotFound)


def test_too_many_requests_are_refused(lookup) -> None:
    found, _ = answer_all(lookup, [np.array([1])] * 6, "x", "y", max_waiting=4)
    assert [isinstance(answer, LimitExceeded) for answer in found] == [False] * 4 + [True] * 2


def test_what_nobody_waits_for_is_not_run(lite0) -> None:
    async def work() -> dict[int, int]:
        batcher = Batcher(runners=1)
        await batcher.run(lite0, {"input": images(1)}, ["logits"])
        first = asyncio.create_task(batcher.run(lite0, {"input": images(9, 96)}, ["logits"]))
        await asyncio.sleep(0)
        calls = [
            asyncio.create_task(batcher.run(lite0, {"input": image[None]}, ["logits"])) for image in images(6)
        ]
        await asyncio.sleep(0)
        for call in calls[:4]:
            call.cancel()
        await asyncio.gather(first, *calls, return_exceptions=True)
        batcher.close()
        return {rows: runs.count for rows, runs in batcher.statistics[lite0.name].runs.items()}

    assert asyncio.run(work()) == {1: 1, 9: 1, 2: 1}


def test_sizes_are_learned_under_load(lite0) -> None:
    batch = images(8)
    expected = lite0.run({"input": batch}, ["logits"])["logits"]

    async def work() -> dict[int, int]:
        batcher = Batcher(max_rows=8)

        async def client(image: np.ndarray, row: np.ndarray) -> None:
            for _ in range(80):
                answer = await batcher.run(lite0, {"input": image[None]}, ["logits"])
                assert np.abs(answer.values["logits"][0] - row).max() < 1e-5 * np.abs(expected).max()

        await asyncio.gather(*map(client, batch, expected))
        batcher.close()
        return {rows: runs.count for rows, runs in batcher.statistics[lite0.name].runs.items()}

    runs = asyncio.run(work())
    assert sum(rows * count for rows, count in runs.items()) == 8 * 80
    # All eight never wait together for long: two runs go on.
    assert min(runs.get(1, 0), runs.get(2, 0)) >= SAMPLES


def test_a_model_that_is_let_go_is_not_kept(lookup, tmp_path) -> None:
    async def work() -> weakref.ref[Model]:
        batcher = Batcher()
        model = load(lookup.file.path, tmp_path)
        await batcher.run(model, {"x": np.array([1])}, ["y"])
        return weakref.ref(model)

    reference = asyncio.run(work())
    gc.collect()
    assert reference() is None


def test_demand_tells_how_many_are_still_to_come() -> None:
    demand = Demand()
    for _ in range(20):
        demand.arrive(1)
        assert demand.missing == 0
        demand.leave(1)
    demand.arrive(8)
    demand.leave(4)
    assert demand.missing == 4
    assert demand.share(2) == 4
    demand.arrive(1)
    assert demand.missing == 3
    demand.leave(5)
    for _ in range(200):
        demand.arrive(1)
        demand.leave(1)
    assert demand.missing == 1
    demand.arrive(1)
    assert demand.missing == 0

"""Memory is granted before it is taken; idle models make room, and what can't fit is refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from endoscope_server.errors import LimitExceeded
from endoscope_server.graph.sessions import FAST_COPIES
from endoscope_server.models import MemoryBudget, Model, Repository, machine_memory
from endoscope_server.models.budget import Allowance
from endoscope_server.models.repository import MEMORY_BASE, MEMORY_PER_BYTE
from endoscope_server.serving import Batcher


@pytest.fixture
def models(tmp_path: Path, digits_cnn_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("a", "b", "c"):
        shutil.copy(digits_cnn_path, folder / f"{name}.onnx")
    return folder


@pytest.fixture
def size(digits_cnn_path: Path) -> int:
    return MEMORY_BASE + MEMORY_PER_BYTE * digits_cnn_path.stat().st_size


def names(repository: Repository) -> list[str]:
    return [model.name for model in repository.in_memory()]


def test_the_least_recently_used_model_makes_room(tmp_path: Path, models: Path, size: int) -> None:
    budget = MemoryBudget(2 * size + size // 2)
    repository = Repository(tmp_path / "state", models, budget=budget)
    for name in ("a", "b", "a", "c"):
        repository.get(name)
    assert names(repository) == ["a", "c"]
    assert budget.granted == pytest.approx(2 * size, rel=0.01)
    repository.unload("a")
    repository.unload("c")
    assert budget.granted == 0


def test_a_model_that_can_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, models: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("endoscope_server.models.repository.Model", None)
    budget = MemoryBudget(size // 2)
    repository = Repository(tmp_path / "state", models, budget=budget)
    with pytest.raises(LimitExceeded, match="model 'a' takes about") as caught:
        repository.get("a")
    assert (caught.value.reason, caught.value.retry_after) == ("MEMORY_BUDGET", None)
    assert budget.granted == 0


def test_an_upload_that_can_not_fit_leaves_nothing(tmp_path: Path, digits_cnn_path: Path, size: int) -> None:
    budget = MemoryBudget(size // 2)
    repository = Repository(tmp_path / "state", budget=budget)
    with pytest.raises(LimitExceeded):
        repository.add("large", [digits_cnn_path.read_bytes()], {})
    assert repository.files() == []
    assert budget.granted == 0


def test_a_broken_model_gives_its_memory_back(tmp_path: Path, models: Path, size: int) -> None:
    (models / "a.onnx").write_bytes(b"no model")
    budget = MemoryBudget(10 * size)
    repository = Repository(tmp_path / "state", models, budget=budget)
    with pytest.raises(Exception, match="not an ONNX"):
        repository.get("a")
    assert budget.granted == 0


def test_work_that_would_fit_later_is_told_when() -> None:
    budget = MemoryBudget(100)
    with budget.lent(80, "one job"):
        with pytest.raises(LimitExceeded, match="try again later") as caught:
            budget.grant(30, "another job")
        assert caught.value.retry_after is not None
        with budget.lent(20, "a small job"):
            assert budget.granted == 100
    assert budget.granted == 0


def test_who_was_named_last_lets_go_first() -> None:
    budget, gone = MemoryBudget(100), []

    def idle(name: str, size: int) -> None:
        def evict(_sparing: str) -> bool:
            if name in gone:
                return False
            gone.append(name)
            budget.release(size)
            return True

        budget.grant(size, name)
        budget.let_evict(evict)

    idle("first", 40)
    idle("second", 40)
    budget.grant(60, "a job")
    assert gone == ["second"]
    budget.grant(40, "another job")
    assert gone == ["second", "first"]
    with pytest.raises(LimitExceeded):
        budget.grant(1, "a third job")
    assert budget.granted == 100


def weights_of(model: Model) -> int:
    return sum(array.nbytes for array in model.graph.weights.values())


def infer_side_by_side(model: Model) -> None:
    """Requests that can't be joined, so that both runners have work at once; each answer is right."""
    pictures = [np.full((1, 1, 32, 32), value, np.float32) for value in np.linspace(-1, 1, 8)]

    async def work() -> list[np.ndarray]:
        batcher = Batcher(runners=2, max_rows=1)
        answers = await asyncio.gather(
            *(batcher.run(model, {"input": picture}, ["logits"]) for picture in pictures)
        )
        batcher.close()
        return [np.asarray(answer.values["logits"]) for answer in answers]

    for picture, found in zip(pictures, asyncio.run(work()), strict=True):
        expected = model.sessions.run({"input": picture}, ["logits"])["logits"]
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no second set of sessions")
def test_sessions_beside_the_first_are_counted_and_given_back(
    tmp_path: Path, models: Path, size: int
) -> None:
    budget = MemoryBudget(10 * size)
    repository = Repository(tmp_path / "state", models, budget=budget)
    model = repository.get("a")
    base = budget.granted
    infer_side_by_side(model)
    assert budget.granted == MEMORY_BASE + (1 + 2 * FAST_COPIES) * weights_of(model) > base
    repository.unload("a")
    assert budget.granted == 0
    # Work that still has it takes nothing that nobody would give back.
    infer_side_by_side(model)
    assert budget.granted == 0


def test_without_memory_for_a_second_set_the_first_answers(tmp_path: Path, models: Path, size: int) -> None:
    budget = MemoryBudget(size + size // 4)
    repository = Repository(tmp_path / "state", models, budget=budget)
    model = repository.get("a")
    base = budget.granted
    infer_side_by_side(model)
    assert budget.granted == base
    assert names(repository) == ["a"]


def test_sessions_for_other_values_make_room_for_each_other(tmp_path: Path, models: Path, size: int) -> None:
    budget = MemoryBudget(2 * size + size // 2)
    repository = Repository(tmp_path / "state", models, budget=budget)
    repository.get("b")
    model = repository.get("a")
    picture = {"input": np.zeros((1, 1, 32, 32), np.float32)}
    wanted = [layer.value for layer in model.graph.layers]
    for value in wanted:
        model.fast_sessions.run(picture, [value])
        assert budget.granted <= budget.limit
    # What nobody used went first, but never the model at work.
    assert names(repository) == ["a"]
    model.fast_sessions.run(picture, [wanted[0]])
    repository.unload("a")
    assert budget.granted == 0


def test_a_session_that_can_not_fit_is_refused_with_the_time_to_try_again(
    tmp_path: Path, models: Path, size: int
) -> None:
    budget = MemoryBudget(size + size // 4)
    repository = Repository(tmp_path / "state", models, budget=budget)
    allowance = Allowance(budget, "a", 0, 0)
    with pytest.raises(LimitExceeded) as caught:
        allowance.take(2 * size, spare=False)
    assert caught.value.reason == "MEMORY_BUDGET"
    with budget.lent(size, "a job"), pytest.raises(LimitExceeded) as caught:
        allowance.take(size, spare=False)
    assert caught.value.retry_after is not None
    assert budget.granted == 0
    assert repository.in_memory() == []


def test_allowances_add_up_from_many_threads() -> None:
    budget = MemoryBudget(1000)
    allowances = [Allowance(budget, name, 0, 0) for name in "ab"]

    def work(allowance: Allowance) -> None:
        for _ in range(500):
            if allowance.take(300, spare=True):
                assert budget.granted <= 1000
                allowance.give_back(300)

    threads = [threading.Thread(target=work, args=(allowances[index % 2],)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.granted == 0


def test_the_machine_has_memory() -> None:
    assert 2**28 < machine_memory() < 2**50

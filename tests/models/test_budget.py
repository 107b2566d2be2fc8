"""Memory is granted before it is taken; idle models make room, and what can't fit is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from endoscope_server.errors import LimitExceeded
from endoscope_server.models import MemoryBudget, Repository, machine_memory
from endoscope_server.models.repository import MEMORY_PER_BYTE


@pytest.fixture
def models(tmp_path: Path, digits_cnn_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("a", "b", "c"):
        shutil.copy(digits_cnn_path, folder / f"{name}.onnx")
    return folder


@pytest.fixture
def size(digits_cnn_path: Path) -> int:
    return MEMORY_PER_BYTE * digits_cnn_path.stat().st_size


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


def test_the_machine_has_memory() -> None:
    assert 2**28 < machine_memory() < 2**50

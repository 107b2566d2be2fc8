"""Jobs kept on disk, taken up, expired, and what becomes of them when the disk fails."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endoscope_server.errors import EndoscopeError, LimitExceeded, NotFound, PreconditionFailed
from endoscope_server.jobs import Job, JobManager, JobState, Keeping, Order, Progress, Work
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step

COUNT = "count"


def count(request: bytes, pause: float = 0.0, size: int = 100) -> Callable[[Memory], Work]:
    """Work that adds up its steps; the request says how many."""

    def start(memory: Memory) -> Work:
        at = memory.variables("at", index=0, total=np.zeros(3))
        steps = int(request)
        while at.index < steps:
            at.index += 1
            at.total = at.total + at.index
            time.sleep(pause)
            images = np.full((1, 1, 2, 2), at.index / steps, np.float32) if at.index % 5 == 0 else None
            yield Step(at.index, steps, {"total": float(at.total[0])}, images)
        return at.total.tobytes() + bytes(size)

    return start


@contextlib.contextmanager
def manager(folder: Path | None, pause: float = 0.0, size: int = 100, **keeping: Any) -> Iterator[JobManager]:
    made = JobManager(keeping=Keeping(folder, **{"checkpoint_interval": 0.0, **keeping}))
    made.revive_with(COUNT, lambda request, _header: count(request, pause, size))
    made.resume()
    try:
        yield made
    finally:
        made.shut_down(5)


def submit(jobs: JobManager, steps: int, pause: float = 0.0, size: int = 100, **order: Any) -> Job:
    request = str(steps).encode()
    wanted = Order(COUNT, request, **{"detached": True, **order})
    return jobs.submit(wanted, lambda name: name.encode(), count(request, pause, size))


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def watched(job: Job, after: int = 0) -> list[Progress]:
    return [progress async for progress in job.watch(after)]


def numbers(steps: list[Progress]) -> list[tuple[int, float]]:
    return [(step.index, step.losses["total"]) for step in steps]


EXPECTED = [(index, index * (index + 1) / 2) for index in range(1, 41)]


def test_a_job_that_ended_is_read_from_disk(tmp_path: Path) -> None:
    with manager(tmp_path) as jobs:
        job = submit(jobs, 40, owner="ada")
        until(lambda: job.state.ended and not job.held)
        steps = asyncio.run(watched(job, 10))
        assert numbers(steps) == EXPECTED[10:]
        assert [step.index for step in steps if step.images is not None] == [40]
        result = job.result()
    with manager(tmp_path) as jobs:
        again = jobs.get(job.identifier)
        assert again.state is JobState.SUCCEEDED
        assert again.header == job.identifier.encode()
        assert again.order.owner == "ada"
        assert again.latest is not None
        assert again.latest.index == 40
        assert again.result() == result
        steps = asyncio.run(watched(again))
        assert numbers(steps) == EXPECTED
        assert steps[-1].images.tobytes() == np.ones((1, 1, 2, 2), np.float32).tobytes()
        jobs.delete(job.identifier)
        with pytest.raises(NotFound):
            jobs.get(job.identifier)
    with manager(tmp_path) as jobs:
        assert not jobs.list()
    assert not any((tmp_path / "files").iterdir())


def test_a_server_that_stops_leaves_its_jobs_to_the_next(tmp_path: Path) -> None:
    with manager(tmp_path, 0.01) as jobs:
        going = submit(jobs, 40, 0.01)
        waiting = [submit(jobs, 40, 0.01) for _ in range(5)]
        tied = submit(jobs, 10_000, 0.01, detached=False)
        until(lambda: going.latest is not None and going.latest.index > 5)
    assert going.suspended
    assert tied.state is JobState.CANCELLED
    assert going.latest is not None
    with manager(tmp_path) as jobs:
        assert jobs.get(tied.identifier).state is JobState.CANCELLED
        for before in (going, *waiting):
            job = jobs.get(before.identifier)
            assert numbers(asyncio.run(watched(job))) == EXPECTED
            assert job.state is JobState.SUCCEEDED


def test_a_job_that_was_cancelled_as_the_server_stopped_does_not_come_back(tmp_path: Path) -> None:
    with manager(tmp_path, 0.3) as jobs:
        job = submit(jobs, 40, 0.3)
        until(lambda: job.latest is not None)
        # In the middle of a step.
        jobs.cancel(job)
    assert job.state is JobState.CANCELLED
    with manager(tmp_path) as jobs:
        assert jobs.get(job.identifier).state is JobState.CANCELLED


def test_a_job_without_watchers_is_cancelled_some_time_after_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not detached, after a crash: its client has a while to come back."""
    monkeypatch.setattr("endoscope_server.jobs.manager._ORPHAN_GRACE", 0.3)
    jobs = JobManager(keeping=Keeping(tmp_path))
    jobs.resume()
    left, taken_up = (submit(jobs, 10_000, 0.01, detached=False) for _ in range(2))
    until(lambda: left.latest is not None and not left.new and not taken_up.new)
    copy_of(tmp_path, tmp_path.with_name("crashed"))
    left.cancel()
    taken_up.cancel()
    jobs.shut_down(5)
    with manager(tmp_path.with_name("crashed"), 0.01) as jobs:

        async def watch() -> int:
            async for progress in jobs.get(taken_up.identifier).watch():
                if progress.elapsed > 1:
                    return progress.index
            return 0

        assert asyncio.run(watch())
        assert jobs.get(left.identifier).state is JobState.CANCELLED
        assert jobs.get(taken_up.identifier).state is JobState.RUNNING


def copy_of(folder: Path, to: Path) -> None:
    """What a crash at this moment would leave."""
    to.mkdir()
    for path in sorted(folder.rglob("*")):
        target = to / path.relative_to(folder)
        if path.is_dir():
            target.mkdir()
        else:
            with contextlib.suppress(FileNotFoundError):
                target.write_bytes(path.read_bytes())


def test_a_checkpoint_that_is_damaged_is_done_without(tmp_path: Path, caplog: Any) -> None:
    with manager(tmp_path, 0.01) as jobs:
        job = submit(jobs, 40, 0.01)
        until(lambda: job.latest is not None and job.latest.index > 5)
    (checkpoint,) = (tmp_path / "files" / job.identifier).glob("checkpoint-*")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-30])
    with manager(tmp_path) as jobs:
        again = jobs.get(job.identifier)
        assert numbers(asyncio.run(watched(again))) == EXPECTED
        assert again.result() == np.full(3, EXPECTED[-1][1]).tobytes() + bytes(100)
    assert "begins anew, its checkpoint is damaged" in caplog.text


def test_a_technique_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    with manager(tmp_path, 0.01) as jobs:
        job = submit(jobs, 400, 0.01)
        until(lambda: job.latest is not None)
    jobs = JobManager(keeping=Keeping(tmp_path))
    jobs.resume()
    again = jobs.get(job.identifier)
    until(lambda: again.state.ended)
    assert again.state is JobState.FAILED
    assert isinstance(again.error, PreconditionFailed)
    assert "count" in again.error.message
    jobs.shut_down(5)
    with manager(tmp_path) as jobs:
        error = jobs.get(job.identifier).error
        assert isinstance(error, PreconditionFailed)
        assert error.reason == "CANNOT_RESUME"


def test_results_expire_by_age_whatever_the_clock_does(tmp_path: Path, monkeypatch: Any) -> None:
    with manager(tmp_path) as jobs:
        job = submit(jobs, 5)
        until(lambda: job.state.ended and not job.held)
        real = time.time
        # Ten years later, all of a sudden.
        monkeypatch.setattr(time, "time", lambda: real() + 3e8)
        other = submit(jobs, 5)
        until(lambda: other.state.ended and not other.held)
        monkeypatch.setattr(time, "time", real)
        assert jobs.get(job.identifier).state is JobState.SUCCEEDED
    # An age below zero counts as none.
    with manager(tmp_path, retention=3600.0) as jobs:
        assert {one.identifier for one in jobs.list()} == {job.identifier, other.identifier}
    monkeypatch.setattr("endoscope_server.jobs.recorder._PAUSE", 0.05)
    time.sleep(0.3)
    with manager(tmp_path, retention=0.25) as jobs:
        until(lambda: len(jobs.list()) == 1)
        assert jobs.list()[0].identifier == other.identifier


def test_the_oldest_make_room_and_what_can_never_fit_is_refused(tmp_path: Path) -> None:
    quota = 4 * 2**20
    with manager(tmp_path, quota=quota) as jobs:
        ended = []
        for _ in range(6):
            job = submit(jobs, 3, size=10**6)
            until(lambda job=job: job.state.ended and not job.held)
            ended.append(job)
        kept = {one.identifier for one in jobs.list()}
        assert kept == {job.identifier for job in ended[-4:]}
        assert sum(path.stat().st_size for path in (tmp_path / "files").rglob("*") if path.is_file()) < quota
        large = submit(jobs, 3, size=5 * 10**6)
        until(lambda: large.state.ended and not large.new)
        result = large.result()
        assert result is not None
        assert len(result) > quota
        with pytest.raises(LimitExceeded) as caught:
            jobs.submit(Order(COUNT, b"9" * quota), lambda name: name.encode(), count(b"3"))
        assert caught.value.reason == "DISK_QUOTA"
    with manager(tmp_path, quota=quota) as jobs:
        error = jobs.get(large.identifier).error
        assert isinstance(error, LimitExceeded)
        assert error.reason == "DISK_QUOTA"


def damage(path: Path) -> None:
    """Overwrite the middle of a database."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[1024 : len(content) - 1024] = b"\xa5" * (len(content) - 2048)
    path.write_bytes(content)


@pytest.mark.parametrize("how", [damage, lambda path: path.write_bytes(b"no database" * 999)])
def test_a_damaged_database_is_moved_aside(tmp_path: Path, how: Callable[[Path], Any], caplog: Any) -> None:
    folder = tmp_path / "jobs"
    with manager(folder) as jobs:
        job = submit(jobs, 40)
        until(lambda: job.state.ended and not job.held)
    how(folder / "jobs.sqlite3")
    with manager(folder) as jobs:
        assert not jobs.list()
        new = submit(jobs, 40)
        until(lambda: new.state.ended and not new.held)
    (aside,) = tmp_path.glob("jobs-damaged-*")
    assert (aside / "files" / job.identifier / "result").is_file()
    assert "damaged" in caplog.text
    assert str(aside) in caplog.text
    with manager(folder) as jobs:
        assert jobs.get(new.identifier).state is JobState.SUCCEEDED


def test_a_page_that_is_damaged_while_it_runs_is_a_clear_error(tmp_path: Path) -> None:
    with manager(tmp_path) as jobs:
        job = submit(jobs, 40)
        until(lambda: job.state.ended and not job.held)
        damage(tmp_path / "jobs.sqlite3")
        with pytest.raises(EndoscopeError) as caught:
            asyncio.run(watched(job))
        assert caught.value.reason == "DATA_LOSS"
        other = submit(jobs, 40)
        until(lambda: other.state.ended)
        assert numbers(asyncio.run(watched(other))) == EXPECTED


def test_without_a_disk_jobs_live_in_memory(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "jobs").write_text("a file where the folder should be")
    with manager(tmp_path / "jobs") as jobs:
        job = submit(jobs, 40)
        assert numbers(asyncio.run(watched(job))) == EXPECTED
        assert job.result()
    assert "they live in memory" in caplog.text


def test_two_servers_do_not_share_jobs(tmp_path: Path, caplog: Any) -> None:
    with manager(tmp_path) as jobs, manager(tmp_path) as others:
        assert "another server uses them" in caplog.text
        mine, theirs = submit(jobs, 40), submit(others, 40)
        assert numbers(asyncio.run(watched(theirs))) == EXPECTED
        until(lambda: mine.state.ended and not mine.held)
    with manager(tmp_path) as jobs:
        assert [job.identifier for job in jobs.list()] == [mine.identifier]

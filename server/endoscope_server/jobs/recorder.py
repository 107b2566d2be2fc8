"""The thread that brings the disk in line with the jobs, so that whoever computes never waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from endoscope_server.errors import LimitExceeded
from endoscope_server.jobs.archive import Unsaved, preview_to_bytes
from endoscope_server.jobs.job import Job
from endoscope_server.jobs.records import JobState, Record
from endoscope_server.jobs.store import CHECKPOINT, PREVIEW, REQUEST, RESULT, Failure, JobStore
from endoscope_server.techniques.parts.memory import to_bytes

logger = logging.getLogger(__name__)

_TICK = 0.25
"""Seconds in which steps are gathered before they are written at once."""
_PAUSE = 5.0
"""Seconds until something that could not be written is tried again, and between looks at what expires."""
_RESERVE = 2**20
"""Bytes that a new job must find free beside its request."""
QUOTA_RETRY_AFTER = 30.0
"""Seconds after which jobs that fill the quota may have ended."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How jobs are kept.

    Attributes:
        folder: Where; None for memory alone.
        retention: Seconds that jobs which ended are kept.
        quota: Bytes that jobs may take; the oldest that ended go first.
        checkpoint_interval: Seconds between two checkpoints of a job.
    """

    folder: Path | None = None
    retention: float = 7 * 24 * 3600.0
    quota: int = 10 * 2**30
    checkpoint_interval: float = 10.0


class Recorder:
    """Writes jobs to disk.

    What can't be written stays in memory, is tried again, and told once in the log; the jobs go on.

    Args:
        keeping: How jobs are kept.
        forget: Called with the identifier of each job that has expired or made room.
    """

    def __init__(self, keeping: Keeping, forget: Callable[[str], None]) -> None:
        self._keeping = keeping
        self._forget = forget
        self._store: JobStore | None = None
        self._dirty: dict[str, Job] = {}
        self._deletions: list[str] = []
        self._expiries: dict[str, float] = {}
        self._urgent = False
        self._closing = False
        self._failing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        if keeping.folder is not None:
            try:
                self._store = JobStore(keeping.folder)
            except Failure as error:
                why = "another server uses them" if isinstance(error, BlockingIOError) else error
                logger.error("jobs can't be kept in %s: %s; they live in memory", keeping.folder, why)

    @property
    def store(self) -> JobStore | None:
        """Where jobs are kept; None for memory alone."""
        return self._store

    def start(self) -> list[Record]:
        """All jobs that were kept; from now on jobs are written."""
        records: list[Record] = []
        if self._store is not None:
            try:
                records = self._store.load()
            except (*Failure, ValueError) as error:
                logger.error("the jobs can't be read: %s; new ones live in memory", error)
                self._store = None
        now, clock = time.monotonic(), time.time()
        ended = sorted((record.ended, record.identifier) for record in records if record.ended is not None)
        for when, identifier in ended:
            # Ages count on by the monotonic clock, so that a jump of the other can't wipe them all out.
            self._expiries[identifier] = now + self._keeping.retention - max(0.0, clock - when)
        self._thread.start()
        return records

    def admit(self, size: int) -> None:
        """Whether a job with a request of so many bytes could be kept.

        Jobs that ended are in nobody's way: they go where room is needed.

        Raises:
            LimitExceeded: if it is larger than the disk's quota, or jobs that have not ended fill that; then
                with the time to try again, and the largest of them.
        """
        store, quota = self._store, self._keeping.quota
        if store is None:
            return
        needed = size + min(_RESERVE, quota // 4)
        if needed > quota:
            raise LimitExceeded(
                f"the job needs {needed} bytes of disk, expected at most {quota}", reason="DISK_QUOTA"
            )
        going_on = {name: taken for name, taken in store.sizes().items() if name not in self._expiries}
        taken = sum(going_on.values())
        if taken + needed > quota:
            largest = max(going_on, key=going_on.__getitem__)
            raise LimitExceeded(
                f"jobs that have not ended take {taken} of {quota} bytes of disk, which leaves no room for "
                f"the {needed} that this one needs; try again when they have ended, or cancel one, such as "
                f"jobs/{largest} of {going_on[largest]} bytes",
                reason="DISK_QUOTA",
                metadata={"largest_job": f"jobs/{largest}"},
                retry_after=QUOTA_RETRY_AFTER,
            )

    def touch(self, job: Job, *, urgent: bool = False) -> None:
        """A job has changed.

        Args:
            job: The job.
            urgent: Whether somebody waits for it to be written.
        """
        if self._store is None or not job.order.durable or job.deleted:
            if not job.stored.done():
                job.stored.set_result(None)
            return
        with self._changed:
            first = not self._dirty
            self._dirty[job.identifier] = job
            self._urgent = self._urgent or urgent
            if first or urgent:
                self._changed.notify()

    def delete(self, job: Job) -> None:
        """Forget a job."""
        job.deleted = True
        with self._changed:
            self._dirty.pop(job.identifier, None)
            self._deletions.append(job.identifier)
            self._urgent = True
            self._changed.notify()

    def close(self, timeout: float) -> None:
        """Write what is left, and let others use the folder."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        if self._store is not None:
            self._store.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._urgent or self._closing, _PAUSE)
                # A failing disk gets its pause even if somebody waits.
                self._changed.wait_for(
                    lambda: self._closing or (self._urgent and not self._failing),
                    _PAUSE if self._failing else _TICK if self._dirty else 0,
                )
                jobs, self._dirty = list(self._dirty.values()), {}
                deletions, self._deletions = self._deletions, []
                self._urgent, closing = False, self._closing
            store = self._store
            if store is not None:
                self._remove(store, deletions)
                self._write(store, jobs)
                self._expire(store)
            if closing:
                return

    def _write(self, store: JobStore, jobs: list[Job]) -> None:
        failure: BaseException | None = None
        for job in jobs:
            if job.deleted:
                continue
            try:
                self._save(store, job)
            except Failure as error:
                failure = error
                if not job.stored.done():
                    job.stored.set_result(None)
                with self._changed:
                    self._dirty.setdefault(job.identifier, job)
        if jobs and (failure is not None) != self._failing:
            self._failing = failure is not None
            if failure is not None:
                logger.error("jobs can't be written: %s; they go on in memory", failure)
            else:
                logger.info("jobs are written again")

    def _save(self, store: JobStore, job: Job) -> None:
        unsaved = job.unsaved()
        name, cost = self._write_checkpoint(store, job, unsaved)
        error, state = unsaved.error, unsaved.state
        with store.transaction():
            if job.new:
                store.add(job.identifier, job.order, job.header, job.created)
            store.add_steps(job.identifier, unsaved.steps)
            if unsaved.state.ended:
                if unsaved.result is not None:
                    if self._make_room(store, len(unsaved.result), job):
                        store.write(job.identifier, RESULT, unsaved.result)
                    else:
                        state, error = JobState.FAILED, _too_large(len(unsaved.result), self._keeping.quota)
                        logger.warning("the result of job %s: %s", job.identifier, error.message)
                if unsaved.preview[1] is not None:
                    store.write(job.identifier, PREVIEW, preview_to_bytes(unsaved.preview))
                name = ""
            if name is not None:
                store.point_to(job.identifier, name)
            store.update(job.identifier, state, error, unsaved.ended)
        if state.ended:
            store.drop_files(job.identifier, (RESULT, PREVIEW))
            self._expiries[job.identifier] = time.monotonic() + self._keeping.retention
        elif name:
            store.drop_files(job.identifier, (REQUEST, name))
        # A result that is not on disk stays where it is.
        job.saved(unsaved, store, self._keeping.checkpoint_interval, cost, released=state is unsaved.state)

    def _write_checkpoint(self, store: JobStore, job: Job, unsaved: Unsaved) -> tuple[str | None, float]:
        """The file's name, None if there is no new one, and how long it took in seconds."""
        began = time.monotonic()
        if unsaved.checkpoint is None:
            return None, 0.0
        name = f"{CHECKPOINT}-{unsaved.checkpoint.told}"
        try:
            content = to_bytes(unsaved.checkpoint.content)
            if self._make_room(store, len(content), job):
                store.write(job.identifier, name, content)
                return name, time.monotonic() - began
            logger.warning("a checkpoint of job %s does not fit into the disk's quota", job.identifier)
        except Failure as error:
            logger.warning("a checkpoint of job %s can't be written: %s", job.identifier, error)
        return None, time.monotonic() - began

    def _make_room(self, store: JobStore, size: int, job: Job) -> bool:
        """Whether so many bytes fit into the quota; jobs that ended go for them, the oldest first."""
        while store.used + size > self._keeping.quota:
            oldest = next((name for name in self._expiries if name != job.identifier), None)
            if oldest is None:
                return False
            self._drop(store, oldest)
        return True

    def _remove(self, store: JobStore, identifiers: list[str]) -> None:
        for identifier in identifiers:
            try:
                self._drop(store, identifier)
            except Failure as error:
                logger.error("job %s can't be deleted from disk: %s", identifier, error)

    def _expire(self, store: JobStore) -> None:
        now = time.monotonic()
        due = [identifier for identifier, when in self._expiries.items() if when <= now]
        self._remove(store, due)

    def _drop(self, store: JobStore, identifier: str) -> None:
        self._expiries.pop(identifier, None)
        self._forget(identifier)
        store.remove(identifier)


def _too_large(size: int, quota: int) -> LimitExceeded:
    return LimitExceeded(
        f"it has {size} bytes, which don't fit into the disk's quota, and could be had only until the server "
        "stopped",
        reason="DISK_QUOTA",
        # What would fit was kept out by jobs that had not ended.
        retry_after=QUOTA_RETRY_AFTER if size <= quota else None,
    )

"""The queue of jobs and the threads that work it off."""

from __future__ import annotations

import enum
import itertools
import logging
import queue
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from endoscope_server.errors import LimitExceeded, NotFound, PreconditionFailed
from endoscope_server.jobs.job import Job, JobState, Work

logger = logging.getLogger(__name__)


class Priority(enum.IntEnum):
    """Which of two waiting jobs runs first: the smaller."""

    INTERACTIVE = 0
    BATCH = 1
    LAST = 2


class JobManager:
    """Runs jobs, and remembers them.

    Args:
        workers: How many jobs run at once.
        capacity: How many jobs may wait; more are refused.
        memory: How many jobs that ended are remembered; the oldest go first.
    """

    def __init__(self, workers: int = 2, capacity: int = 256, memory: int = 256) -> None:
        self._capacity = capacity
        self._memory = memory
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()
        self._order = itertools.count()
        self._queue: queue.PriorityQueue[tuple[int, int, Job | None, Callable[[], Work] | None]]
        self._queue = queue.PriorityQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"job-worker-{index}", daemon=True)
            for index in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        technique: str,
        header: Callable[[str], Any],
        start: Callable[[], Work],
        priority: Priority = Priority.INTERACTIVE,
    ) -> Job:
        """Queue a job.

        Args:
            technique: Such as ``visualize_class``.
            header: Makes the header of the job's identifier.
            start: Starts the work, in the worker's thread.
            priority: Which waiting job is next.

        Raises:
            LimitExceeded: if too many wait.
        """
        if self._queue.qsize() >= self._capacity:
            raise LimitExceeded(
                f"{self._capacity} jobs are waiting already, expected fewer; try again later",
                reason="QUEUE_FULL",
            )
        identifier = secrets.token_hex(8)
        job = Job(identifier, technique, header(identifier))
        with self._lock:
            self._jobs[identifier] = job
            ended = [name for name, other in self._jobs.items() if other.state.ended]
            for name in ended[: max(0, len(ended) - self._memory)]:
                del self._jobs[name]
        self._queue.put((priority, next(self._order), job, start))
        return job

    def list(self) -> list[Job]:
        """All jobs that are remembered, newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def get(self, identifier: str) -> Job:
        """One job.

        Raises:
            NotFound: if there is none of that name.
        """
        with self._lock:
            if identifier in self._jobs:
                return self._jobs[identifier]
        raise NotFound(f"there is no job {identifier[:80]!r}", field="name", reason="UNKNOWN_JOB")

    def delete(self, identifier: str) -> None:
        """Forget a job.

        Raises:
            PreconditionFailed: if it has not ended.
        """
        if not self.get(identifier).state.ended:
            raise PreconditionFailed(
                f"job {identifier!r} still runs, expected one that ended; cancel it first",
                field="name",
                reason="JOB_RUNS",
            )
        with self._lock:
            self._jobs.pop(identifier, None)

    def shut_down(self, timeout: float) -> None:
        """Cancel all jobs, and wait for the step that each is at."""
        for job in self.list():
            job.cancel()
        for _ in self._threads:
            self._queue.put((Priority.LAST, next(self._order), None, None))
        for thread in self._threads:
            thread.join(timeout)

    def _work(self) -> None:
        while True:
            _, _, job, start = self._queue.get()
            if job is None or start is None:
                return
            if job.state is not JobState.QUEUED:
                continue
            try:
                job.run(start)
            except Exception:
                logger.exception("job %s (%s) failed inside", job.identifier, job.technique)

"""The queue of jobs, and the one thread that computes.

All work in torch is done in this thread. Each thread that starts parallel work in torch gets a team of
threads of its own from OpenMP, and as soon as two teams have more threads than there are cores, OpenMP
makes all of them wait asleep: measured, each step then takes three times as long. So jobs take turns, step
by step, and short work that needs torch is done between two steps.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import logging
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from endoscope_server.errors import Cancelled, LimitExceeded, NotFound, PreconditionFailed
from endoscope_server.jobs.job import Job, JobState, Work

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Priority(enum.IntEnum):
    """Whose turn it is: batch jobs advance when no interactive one does."""

    INTERACTIVE = 0
    BATCH = 1


Turn = tuple[Priority, int, Job]
"""A job, how urgent it is, and its place in the order of arrival."""


class JobManager:
    """Runs jobs, and remembers them.

    Args:
        concurrency: How many jobs take turns; others wait.
        capacity: How many jobs may wait; more are refused.
        memory: How many jobs that ended are remembered; the oldest go first.
    """

    def __init__(self, concurrency: int = 4, capacity: int = 256, memory: int = 256) -> None:
        self._concurrency = concurrency
        self._capacity = capacity
        self._memory = memory
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._order = itertools.count()
        self._waiting: list[Turn] = []
        self._active: list[Turn] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

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
            start: Starts the work, in the computing thread.
            priority: Whose turn it is.

        Raises:
            LimitExceeded: if too many wait.
        """
        identifier = secrets.token_hex(8)
        job = Job(identifier, technique, header(identifier), start)
        with self._changed:
            if len(self._waiting) >= self._capacity:
                raise LimitExceeded(
                    f"{self._capacity} jobs are waiting already, expected fewer; try again later",
                    reason="QUEUE_FULL",
                )
            self._jobs[identifier] = job
            ended = [name for name, other in self._jobs.items() if other.state.ended]
            for name in ended[: max(0, len(ended) - self._memory)]:
                del self._jobs[name]
            heapq.heappush(self._waiting, (priority, next(self._order), job))
            self._changed.notify()
        return job

    def run(self, function: Callable[[], T]) -> T:
        """The function's result, computed between two steps of the jobs; blocks until then.

        Raises:
            Cancelled: if the server is stopping.
            Exception: what the function raises.
        """
        if threading.current_thread() is self._thread:
            return function()
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        with self._changed:
            if self._stopping:
                raise Cancelled("the server is stopping", reason="STOPPING")
            self._calls.append(call)
            self._changed.notify()
        return future.result()

    def list(self) -> Sequence[Job]:
        """All jobs that are remembered, newest first."""
        with self._changed:
            return tuple(reversed(self._jobs.values()))

    def get(self, identifier: str) -> Job:
        """One job.

        Raises:
            NotFound: if there is none of that name.
        """
        with self._changed:
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
        with self._changed:
            self._jobs.pop(identifier, None)

    def shut_down(self, timeout: float) -> None:
        """Cancel all jobs, and wait for the step that is under way."""
        for job in self.list():
            job.cancel()
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                self._activate()
                idle = not self._calls and not self._active
            if idle:
                return
            self._answer_calls()
            for entry in self._turns():
                if not self._advance(entry[2]):
                    with self._changed:
                        self._active.remove(entry)
                self._answer_calls()

    def _has_work(self) -> bool:
        return self._stopping or bool(self._calls or self._active or self._waiting)

    def _activate(self) -> None:
        while self._waiting and len(self._active) < self._concurrency:
            self._active.append(heapq.heappop(self._waiting))

    def _turns(self) -> Sequence[Turn]:
        """The jobs whose turn it is: all of the most urgent kind."""
        most_urgent = min((entry[0] for entry in self._active), default=Priority.BATCH)
        return tuple(entry for entry in self._active if entry[0] is most_urgent)

    def _answer_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    @staticmethod
    def _advance(job: Job) -> bool:
        try:
            return job.state is not JobState.CANCELLED and job.advance()
        except Exception:
            logger.exception("job %s (%s) failed inside", job.identifier, job.technique)
            return False

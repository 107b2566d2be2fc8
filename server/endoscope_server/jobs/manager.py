"""The queue of jobs, and the one thread that computes.

All work in torch is done in this thread. Each thread that starts parallel work in torch gets a team of
threads of its own from OpenMP, and as soon as two teams have more threads than there are cores, OpenMP
makes all of them wait asleep: measured, each step then takes three times as long. So jobs take turns, step
by step, and short work that needs torch is done between two steps.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from endoscope_server.errors import LimitExceeded, NotFound, PreconditionFailed, Unavailable
from endoscope_server.jobs.job import Job, Start, Work
from endoscope_server.jobs.recorder import Keeping, Recorder
from endoscope_server.jobs.records import JobState, Order, Priority
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.telemetry.jobs import JobObserver

logger = logging.getLogger(__name__)

QUEUE_RETRY_AFTER = 10.0
"""Seconds after which a place in a full queue may be free."""

T = TypeVar("T")

_ORPHAN_GRACE = 60.0
"""Seconds in which a job that is not detached must be watched again after the server was started anew."""

Turn = tuple[Priority, int, Job]
"""A job, how urgent it is, and its place in the order of arrival."""

Revive = Callable[[bytes, bytes], Start]
"""Prepares work again from its request and its header; raises EndoscopeError if that can't be."""


class JobManager:
    """Runs jobs, and remembers them.

    Args:
        concurrency: How many jobs take turns; others wait.
        capacity: How many jobs may wait; more are refused.
        memory: How many jobs that ended are held in memory if they are not on disk; the oldest go first.
        keeping: How jobs are kept on disk; by default they are not.
        observer: Is told of what becomes of jobs.
    """

    def __init__(
        self,
        concurrency: int = 4,
        capacity: int = 256,
        memory: int = 256,
        keeping: Keeping | None = None,
        observer: JobObserver | None = None,
    ) -> None:
        self._concurrency = concurrency
        self._capacity = capacity
        self._held = memory
        self._keeping = keeping or Keeping()
        self._observer = observer or JobObserver()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._revivals: dict[str, Revive] = {}
        self._order = itertools.count()
        self._waiting: list[Turn] = []
        self._active: list[Turn] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._changed = threading.Condition()
        self._recorder = Recorder(self._keeping, self._forget)
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    def revive_with(self, technique: str, revive: Revive) -> None:
        """How jobs of a technique are taken up again; before :meth:`resume`."""
        self._revivals[technique] = revive

    def resume(self) -> None:
        """Take up the jobs that were kept. From now on jobs are kept."""
        records, store = self._recorder.start(), self._recorder.store
        if store is None:
            return
        for record in records:
            start = self._reviving(record.identifier, record.order.technique, record.header)
            job = Job.restored(record, store, start)
            with self._changed:
                self._jobs[record.identifier] = job
                if job.state.ended:
                    continue
                if not record.order.detached:
                    job.orphaned = time.monotonic() + _ORPHAN_GRACE
                self._observer.taken_up(record.identifier, record.order.technique)
                heapq.heappush(self._waiting, (record.order.priority, next(self._order), job))
                self._changed.notify()
        going_on = sum(not record.state.ended for record in records)
        if going_on:
            logger.info("%d jobs go on from before", going_on)

    def submit(self, order: Order, header: Callable[[str], bytes], start: Start) -> Job:
        """Queue a job.

        Args:
            order: What is wanted.
            header: Makes the header of the job's identifier.
            start: Starts the work, in the computing thread.

        Raises:
            LimitExceeded: if too many wait, or it can't be kept within the disk's quota.
            Unavailable: if the server is stopping.
        """
        identifier = secrets.token_hex(8)
        job = Job(identifier, order, header(identifier), start)
        if order.durable:
            self._recorder.admit(len(order.request) + len(job.header))
        with self._changed:
            if self._stopping:
                raise _stopping()
            if len(self._waiting) >= self._capacity:
                raise LimitExceeded(
                    f"{self._capacity} jobs are waiting already, expected fewer; try again later",
                    reason="QUEUE_FULL",
                    retry_after=QUEUE_RETRY_AFTER,
                )
            self._jobs[identifier] = job
            held = [name for name, other in self._jobs.items() if other.held]
            for name in held[: max(0, len(held) - self._held)]:
                del self._jobs[name]
            self._observer.submitted(identifier, order.technique)
            heapq.heappush(self._waiting, (order.priority, next(self._order), job))
            self._changed.notify()
        self._recorder.touch(job, urgent=True)
        return job

    def run(self, function: Callable[[], T]) -> T:
        """The function's result, computed between two steps of the jobs; blocks until then.

        Raises:
            Unavailable: if the server is stopping.
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
                raise _stopping()
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

    def cancel(self, job: Job) -> None:
        """Stop a job before its next step."""
        job.cancel()
        self._recorder.touch(job, urgent=True)

    def delete(self, identifier: str) -> None:
        """Forget a job.

        Raises:
            NotFound: if there is none of that name.
            PreconditionFailed: if it has not ended.
        """
        job = self.get(identifier)
        if not job.state.ended:
            raise PreconditionFailed(
                f"job {identifier!r} still runs, expected one that ended; cancel it first",
                field="name",
                reason="JOB_RUNS",
            )
        self._forget(identifier)
        self._recorder.delete(job)

    def shut_down(self, timeout: float) -> bool:
        """Wait for the step that is under way, and end.

        Jobs that are detached and kept on disk go on when the server is back; all others are cancelled.

        Returns:
            Whether the computing thread has ended; False if a step takes longer than the timeout.
        """
        for job in self.list():
            if not self._goes_on(job):
                job.cancel()
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)
        self._recorder.close(timeout)
        return not self._thread.is_alive()

    def _goes_on(self, job: Job) -> bool:
        return job.order.detached and job.order.durable and self._recorder.store is not None

    def _forget(self, identifier: str) -> None:
        with self._changed:
            self._jobs.pop(identifier, None)

    def _reviving(self, identifier: str, technique: str, header: bytes) -> Start:
        def start(memory: Memory) -> Work:
            store = self._recorder.store
            if store is None or technique not in self._revivals:
                raise PreconditionFailed(
                    f"this server can't take up a job of {technique!r}", reason="CANNOT_RESUME"
                )
            return self._revivals[technique](store.read(identifier, "request"), header)(memory)

        return start

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
        while self._waiting and (self._stopping or len(self._active) < self._concurrency):
            self._active.append(heapq.heappop(self._waiting))

    def _turns(self) -> Sequence[Turn]:
        """The jobs whose turn it is: all of the most urgent kind; all of them when the server stops."""
        if self._stopping:
            return tuple(self._active)
        most_urgent = min((entry[0] for entry in self._active), default=Priority.BATCH)
        return tuple(entry for entry in self._active if entry[0] is most_urgent)

    def _answer_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def _advance(self, job: Job) -> bool:
        """One step of a job; whether more is left for this server."""
        if self._stopping and self._goes_on(job) and not job.unwanted:
            job.suspend()
            self._recorder.touch(job)
            self._observer.left(job.identifier, job.latest.index if job.latest else 0)
            return False
        if job.orphaned is not None and time.monotonic() > job.orphaned:
            job.cancel()
        going_on, before = False, job.latest
        with self._observer.working(job.identifier):
            try:
                going_on = job.state is not JobState.CANCELLED and job.advance()
            except Exception:
                logger.exception("job %s (%s) failed inside", job.identifier, job.order.technique)
        latest = job.latest
        if latest is not before:
            self._observer.stepped(job.order.technique)
        if not going_on:
            steps = latest.index if latest else 0
            self._observer.ended(job.identifier, job.order.technique, job.state.value, steps)
        kept = job.order.durable and self._recorder.store is not None
        if going_on and kept and job.checkpoint_due(self._keeping.checkpoint_interval):
            job.take_checkpoint()
        self._recorder.touch(job, urgent=not going_on)
        return going_on


def _stopping() -> Unavailable:
    return Unavailable("the server is stopping; try again soon", reason="STOPPING")

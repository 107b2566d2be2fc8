"""One piece of long work, and everybody who watches it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np

from endoscope_server.errors import EndoscopeError, of_the_disk
from endoscope_server.jobs.archive import Archive, Unsaved, kept_steps
from endoscope_server.jobs.records import Checkpoint, JobState, Order, Progress, Record
from endoscope_server.techniques.parts.memory import Memory, from_bytes
from endoscope_server.techniques.parts.steps import Step

logger = logging.getLogger(__name__)

Work = Generator[Step | None, None, Any]
"""A technique at work: it yields steps and returns its result, at last as bytes.

Within a long step it may yield None, so that others get their turn, or it can be cancelled.
"""

Start = Callable[[Memory], Work]
"""Starts the work, or goes on with what is remembered."""

_COST_SHARE = 50
"""A checkpoint is due no sooner than so many times the time that the last one took."""


class Job:
    """A job. Made by :class:`JobManager`; every method may be called from any thread.

    Numbers of all steps are kept; of the previews only the latest, so that neither a slow watcher nor a long
    job makes memory grow. Once a job has ended and all is on disk, it is read from there.

    Attributes:
        identifier: The last part of its resource name.
        order: What was wanted.
        header: What the service says of it first; opaque here.
        created: Seconds since 1970.
        ended: Seconds since 1970, or None.
        error: Why it failed, or None.
        stored: Done once it is on disk, or it has turned out that it can't be.
        suspended: Whether the server stops, and will go on with it when it is back.
        orphaned: By the monotonic clock, when to cancel it if nobody has come to watch it; None for never.
        new: Whether nothing of it is on disk.
        deleted: Whether it is to be forgotten.
    """

    def __init__(self, identifier: str, order: Order, header: bytes, start: Start) -> None:
        self.identifier = identifier
        self.order = order
        self.header = header
        self.created = time.time()
        self.ended: float | None = None
        self.error: EndoscopeError | None = None
        self.stored: Future[None] = Future()
        self.suspended = False
        self.orphaned: float | None = None
        self.deleted = False
        self.new = True
        self._start = start
        self._work: Work | None = None
        self._memory = Memory()
        self._recall: Callable[[], Mapping[str, Any]] | None = None
        self._began = 0.0
        self._state = JobState.QUEUED
        self._steps: list[Progress] = []
        self._latest: Progress | None = None
        self._preview: tuple[int, Any] = (0, None)
        self._result: bytes | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._watchers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._saved_steps = 0
        self._saved_checkpoint = 0
        self._checkpoint: Checkpoint | None = None
        self._next_checkpoint: float | None = None
        self._at_step = False
        self._archive: Archive | None = None

    @classmethod
    def restored(cls, record: Record, archive: Archive, start: Start) -> Job:
        """A job as it was left when the server went."""
        job = cls(record.identifier, record.order, record.header, start)
        job.created, job.ended, job.error = record.created, record.ended, record.error
        job._latest = record.latest
        job.new = False
        job.stored.set_result(None)
        if record.state.ended:
            job._state, job._archive = record.state, archive
            return job
        count = record.latest.index if record.latest else 0
        job._steps = archive.steps(record.identifier, 0, count) if count else []
        job._saved_steps = count
        if record.checkpoint:
            job._recall = lambda: from_bytes(archive.read(record.identifier, record.checkpoint))
        return job

    @property
    def state(self) -> JobState:
        """How it stands."""
        return self._state

    @property
    def latest(self) -> Progress | None:
        """The newest step, without pictures; None before the first."""
        return self._latest

    @property
    def over(self) -> bool:
        """Whether watchers have nothing more to wait for."""
        return self._state.ended or self.suspended

    @property
    def unwanted(self) -> bool:
        """Whether it has ended, or was cancelled and does so before its next step."""
        return self._stop.is_set() or self._state.ended

    @property
    def held(self) -> bool:
        """Whether it has ended, and its result is in memory alone."""
        return self._state.ended and self._archive is None

    def result(self) -> bytes | None:
        """What the work returned; None for a job that did not succeed. May read from disk.

        Raises:
            EndoscopeError: if it can't be read.
        """
        with self._lock:
            archive, result = self._archive, self._result
        if result is None and archive is not None and self._state is JobState.SUCCEEDED:
            return archive.read(self.identifier, "result")
        return result

    def cancel(self) -> None:
        """Stop before the next step. A job that ended stays as it is."""
        self._stop.set()
        with self._lock:
            if self._state is JobState.QUEUED:
                self._end(JobState.CANCELLED)

    def suspend(self) -> None:
        """Leave the work to the next server; in the thread that advances it, or once that has ended."""
        if self._at_step and self._memory.used:
            self.take_checkpoint()
        if self._work is not None:
            self._work.close()
        with self._lock:
            self._work = None
            self.suspended = not self._state.ended
            self._notify()

    def advance(self) -> bool:
        """Do one step of the work in this thread.

        Returns:
            Whether more is left.

        Raises:
            Exception: what is no :class:`EndoscopeError` is recorded, and raised again for the log.
        """
        with self._lock:
            if self._state.ended:
                return False
            if self._work is None:
                self._state = JobState.RUNNING
                before = self._latest.elapsed if self._latest else 0.0
                self._began = time.monotonic() - before
        try:
            if self._stop.is_set():
                self._close()
                return False
            if self._work is None:
                self._work = self._begin()
            step = next(self._work)
            self._at_step = step is not None
            if step is not None:
                self._record(step, time.monotonic() - self._began)
        except StopIteration as stop:
            with self._lock:
                self._result = stop.value
                self._end(JobState.SUCCEEDED)
        except EndoscopeError as error:
            self._fail(error)
        except Exception as error:
            foreseen = of_the_disk(error) if isinstance(error, OSError) else None
            self._fail(foreseen or EndoscopeError(f"the job failed inside: {type(error).__name__}"))
            if foreseen is None:
                raise
        return not self._state.ended

    def checkpoint_due(self, interval: float) -> bool:
        """Whether a checkpoint should be taken now, in the thread that advances the job."""
        now = time.monotonic()
        if self._next_checkpoint is None:
            self._next_checkpoint = self._began + interval if self._recall is None else now + interval
        return (
            self._at_step
            and now >= self._next_checkpoint
            and self._checkpoint is None
            and self._memory.used
            and not self._state.ended
        )

    def take_checkpoint(self) -> None:
        """Remember where the work stands, so that it is written; only when a step has just been yielded."""
        snapshot = self._memory.snapshot()
        if snapshot["told"] == self._saved_checkpoint:
            return
        with self._lock:
            number, images = self._preview
            preview = None if images is None else {"step": number, "images": np.asarray(images)}
            self._checkpoint = Checkpoint(snapshot["told"], {"memory": snapshot, "preview": preview})

    def unsaved(self) -> Unsaved:
        """What is not yet on disk."""
        with self._lock:
            ended = self._state.ended
            return Unsaved(
                tuple(self._steps[self._saved_steps :]),
                self._checkpoint if not ended else None,
                self._state,
                self.error,
                self.ended,
                self._preview if ended else (0, None),
                self._result if ended else None,
            )

    def saved(
        self, unsaved: Unsaved, archive: Archive, interval: float, cost: float, *, released: bool
    ) -> None:
        """That is on disk now.

        Args:
            unsaved: What was written.
            archive: Where.
            interval: Seconds between checkpoints.
            cost: How long the checkpoint took, in seconds.
            released: Whether a job that has ended need not be in memory any more.
        """
        self.new = False
        if not self.stored.done():
            self.stored.set_result(None)
        with self._lock:
            self._saved_steps += len(unsaved.steps)
            if unsaved.checkpoint is not None:
                self._saved_checkpoint, self._checkpoint = unsaved.checkpoint.told, None
                self._next_checkpoint = time.monotonic() + max(interval, _COST_SHARE * cost)
            if unsaved.state.ended and released:
                self._archive = archive
                self._steps, self._preview, self._result = [], (0, None), None
                self.order = dataclasses.replace(self.order, request=b"")

    async def watch(self, after_step: int = 0) -> AsyncIterator[Progress]:
        """The steps after a step, as they come; ends when the job has ended.

        Args:
            after_step: 0 for all of them.
        """
        changed = asyncio.Event()
        with self._lock:
            self._watchers[changed] = asyncio.get_running_loop()
            self.orphaned = None
        position = after_step
        try:
            while True:
                changed.clear()
                with self._lock:
                    archive = self._archive
                    fresh = self._steps[position:]
                    preview_step, images = self._preview
                    over = self.over
                if archive is not None:
                    break
                for progress in fresh:
                    position = progress.index
                    due = progress.index == preview_step
                    yield dataclasses.replace(progress, images=images) if due else progress
                if over:
                    return
                await changed.wait()
            async for progress in kept_steps(archive, self.identifier, position):
                yield progress
        finally:
            with self._lock:
                self._watchers.pop(changed, None)

    def _begin(self) -> Work:
        if self._recall is not None:
            try:
                content = self._recall()
                told = content["memory"]["told"]
                if not 0 <= told <= len(self._steps):
                    raise ValueError(f"it has told {told} steps, and there are {len(self._steps)}")
                self._memory = Memory(content["memory"])
                self._saved_checkpoint = told
                preview = content["preview"]
                if preview is not None:
                    with self._lock:
                        self._preview = preview["step"], preview["images"]
            except Exception as error:
                # The work ends with the same bytes from its beginning, only later.
                logger.warning("job %s begins anew, its checkpoint is damaged: %s", self.identifier, error)
                self._memory = Memory()
        return self._start(self._memory)

    def _close(self) -> None:
        if self._work is not None:
            self._work.close()
        with self._lock:
            self._end(JobState.CANCELLED)

    def _record(self, step: Step, elapsed: float) -> None:
        memory = self._memory
        with self._lock:
            if not memory.used:
                # Work that remembers nothing does not repeat its steps: it finds what it did on disk.
                memory.told = len(self._steps)
            memory.told += 1
            if memory.told > len(self._steps):
                told = Progress(memory.told, step.total, dict(step.losses), step.stage, elapsed)
                self._steps.append(told)
                self._latest = told
            if step.images is not None:
                self._preview = (memory.told, step.images)
            self._notify()

    def _fail(self, error: EndoscopeError) -> None:
        with self._lock:
            self.error = error
            self._end(JobState.FAILED)

    def _end(self, state: JobState) -> None:
        self._state = state
        # What they hold, such as the request's pictures, is needed no longer.
        self._start, self._recall, self._work, self._memory = _ended, None, None, Memory()
        self._checkpoint = None
        self.ended = time.time()
        self._notify()

    def _notify(self) -> None:
        for event, loop in self._watchers.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)


def _ended(_memory: Memory) -> Work:
    raise AssertionError("the job has ended")

"""One piece of long work, and everybody who watches it."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from endoscope_server.errors import EndoscopeError
from endoscope_server.techniques.parts.steps import Step

Work = Generator[Step | None, None, Any]
"""A technique at work: it yields steps and returns its result.

Within a long step it may yield None, so that others get their turn, or it can be cancelled.
"""


class JobState(enum.Enum):
    """How a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Progress:
    """One step as watchers see it.

    Attributes:
        index: From 1.
        total: 0 if it is not known.
        losses: Every term by name.
        stage: What the work is at, in a few words.
        elapsed: Seconds since the job began to run.
        images: Batch x channels x height x width in [0, 1] if a preview is due and still the latest one.
    """

    index: int
    total: int
    losses: Mapping[str, float]
    stage: str
    elapsed: float
    images: Any


class Job:
    """A job. Made by :class:`JobManager`; every method may be called from any thread.

    Numbers of all steps are kept; of the previews only the latest, so that neither a slow watcher nor a long
    job makes memory grow.

    Attributes:
        identifier: The last part of its resource name.
        technique: Such as ``visualize_class``.
        header: What the service says of it first; opaque here.
        created: Seconds since 1970.
        ended: Seconds since 1970, or None.
        result: What the technique returned, or None.
        error: Why it failed, or None.
    """

    def __init__(self, identifier: str, technique: str, header: Any, start: Callable[[], Work]) -> None:
        self.identifier = identifier
        self.technique = technique
        self.header = header
        self.created = time.time()
        self.ended: float | None = None
        self.result: Any = None
        self.error: EndoscopeError | None = None
        self._start = start
        self._work: Work | None = None
        self._began = 0.0
        self._state = JobState.QUEUED
        self._steps: list[Progress] = []
        self._preview: tuple[int, Any] = (0, None)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._watchers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @property
    def state(self) -> JobState:
        """How it stands."""
        return self._state

    @property
    def latest(self) -> Progress | None:
        """The newest step, without pictures; None before the first."""
        with self._lock:
            return self._steps[-1] if self._steps else None

    def cancel(self) -> None:
        """Stop before the next step. A job that ended stays as it is."""
        self._stop.set()
        with self._lock:
            if self._state is JobState.QUEUED:
                self._end(JobState.CANCELLED)

    def advance(self) -> bool:
        """Do one step of the work in this thread.

        Returns:
            Whether more is left.

        Raises:
            Exception: what is no :class:`EndoscopeError` is recorded, and raised again for the log.
        """
        with self._lock:
            if self._state is JobState.QUEUED:
                self._state = JobState.RUNNING
                self._began = time.monotonic()
            if self._state.ended:
                return False
        try:
            if self._stop.is_set():
                self._close()
                return False
            if self._work is None:
                self._work = self._start()
            step = next(self._work)
            if step is not None:
                self._record(step, time.monotonic() - self._began)
        except StopIteration as stop:
            with self._lock:
                self.result = stop.value
                self._end(JobState.SUCCEEDED)
        except EndoscopeError as error:
            self._fail(error)
        except Exception as error:
            self._fail(EndoscopeError(f"the job failed inside: {type(error).__name__}"))
            raise
        return not self._state.ended

    async def watch(self, after_step: int = 0) -> AsyncIterator[Progress]:
        """The steps after a step, as they come; ends when the job has ended.

        Args:
            after_step: 0 for all of them.
        """
        changed = asyncio.Event()
        with self._lock:
            self._watchers[changed] = asyncio.get_running_loop()
        position = after_step
        try:
            while True:
                changed.clear()
                with self._lock:
                    fresh = self._steps[position:]
                    preview_step, images = self._preview
                    ended = self._state.ended
                for progress in fresh:
                    position = progress.index
                    due = progress.index == preview_step
                    yield dataclasses.replace(progress, images=images) if due else progress
                if ended:
                    return
                await changed.wait()
        finally:
            with self._lock:
                self._watchers.pop(changed, None)

    def _close(self) -> None:
        if self._work is not None:
            self._work.close()
        with self._lock:
            self._end(JobState.CANCELLED)

    def _record(self, step: Step, elapsed: float) -> None:
        with self._lock:
            progress = Progress(
                len(self._steps) + 1, step.total, dict(step.losses), step.stage, elapsed, None
            )
            self._steps.append(progress)
            if step.images is not None:
                self._preview = (progress.index, step.images)
            self._notify()

    def _fail(self, error: EndoscopeError) -> None:
        with self._lock:
            self.error = error
            self._end(JobState.FAILED)

    def _end(self, state: JobState) -> None:
        self._state = state
        self._work = None
        self.ended = time.time()
        self._notify()

    def _notify(self) -> None:
        for event, loop in self._watchers.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

"""What of a job is on disk, and what is not yet."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import numpy as np

from endoscope_server.errors import EndoscopeError
from endoscope_server.jobs.records import Checkpoint, JobState, Progress
from endoscope_server.techniques.parts.memory import from_bytes, to_bytes

_BATCH = 500
"""Steps that are read from disk at once."""


class Archive(Protocol):
    """Where a job's steps and files are once they are on disk; raises EndoscopeError if they are not."""

    def steps(self, identifier: str, after: int, limit: int) -> list[Progress]:
        """Steps in order."""
        ...

    def read(self, identifier: str, name: str) -> bytes:
        """A file."""
        ...

    def has(self, identifier: str, name: str) -> bool:
        """Whether there is such a file."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Unsaved:
    """What of a job is not yet on disk."""

    steps: tuple[Progress, ...]
    checkpoint: Checkpoint | None
    state: JobState
    error: EndoscopeError | None
    ended: float | None
    preview: tuple[int, Any]
    result: bytes | None


async def kept_steps(archive: Archive, identifier: str, after: int) -> AsyncIterator[Progress]:
    """The steps of a job that has ended, after one; raises EndoscopeError if they can't be read."""
    preview: Mapping[str, Any] = {"step": 0, "images": None}
    if archive.has(identifier, "preview"):
        content = await asyncio.to_thread(archive.read, identifier, "preview")
        preview = from_bytes(content)
    while True:
        steps = await asyncio.to_thread(archive.steps, identifier, after, _BATCH)
        for progress in steps:
            after = progress.index
            due = progress.index == preview["step"]
            yield dataclasses.replace(progress, images=preview["images"]) if due else progress
        if not steps:
            return


def preview_to_bytes(preview: tuple[int, Any]) -> bytes:
    """A step's number and its pictures, as :func:`kept_steps` reads them."""
    return to_bytes({"step": preview[0], "images": np.asarray(preview[1])})

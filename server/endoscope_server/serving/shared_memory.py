"""Tensors that clients of this machine leave in POSIX shared memory, and get there."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import AlreadyExists, InvalidInput, LimitExceeded, NotFound

OBJECTS = Path("/dev/shm")  # noqa: S108  where POSIX shared memory lies on Linux
MAX_REGIONS = 1024


class _Object:
    """An open shared memory object, closed when nobody has it any more: not while one is reading."""

    def __init__(self, key: str) -> None:
        self.descriptor = _open(key)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    @property
    def size(self) -> int:
        """Its bytes now."""
        return os.fstat(self.descriptor).st_size


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a shared memory object.

    Attributes:
        name: What requests call it.
        key: The object's name, as ``shm_open`` has it.
        offset: Bytes of the object before it.
        size: Its bytes.
        content: The open object.
    """

    name: str
    key: str
    offset: int
    size: int
    content: _Object


class SharedMemory:
    """The regions that clients registered. Safe to use from many threads.

    Regions are read and written, not mapped: a client that makes its object smaller meanwhile would otherwise
    end the server.
    """

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Let requests name a region.

        Args:
            name: What they will call it.
            key: Of an object that is there, one name with or without a slash before it.
            offset: Bytes of the object before the region.
            size: Bytes of the region, at least one.

        Raises:
            InvalidInput: if there is no such object, or it is smaller.
            AlreadyExists: if the name is taken.
            LimitExceeded: if there are too many regions.
        """
        if not name:
            raise InvalidInput("the region has no name", field="name")
        if size < 1:
            raise InvalidInput("the region has no bytes, expected at least one", field="byte_size")
        content = _Object(key)
        if offset + size > content.size:
            raise InvalidInput(
                f"the region ends at byte {offset + size} of {key[:140]!r}, expected at most {content.size}",
                field="byte_size",
                reason="REGION_TOO_LARGE",
            )
        with self._lock:
            if name in self._regions:
                raise AlreadyExists(f"there is a region {name[:140]!r} already", field="name")
            if len(self._regions) >= MAX_REGIONS:
                raise LimitExceeded(
                    f"there are {MAX_REGIONS} regions, expected fewer", reason="TOO_MANY_REGIONS"
                )
            self._regions[name] = Region(name, key, offset, size, content)

    def unregister(self, name: str) -> None:
        """Forget a region, or all of them without a name; one that is not there is no error."""
        with self._lock:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def regions(self, name: str = "") -> Mapping[str, Region]:
        """The region of a name, or all of them without one.

        Raises:
            NotFound: if there is none of that name.
        """
        with self._lock:
            if not name:
                return dict(self._regions)
        return {name: self._region(name, "name")}

    def read(self, name: str, offset: int, size: int, field: str) -> NDArray[np.uint8]:
        """A copy of some bytes of a region.

        Args:
            name: Of the region.
            offset: Bytes of the region before them.
            size: How many.
            field: What names them in the request, for errors.

        Raises:
            NotFound: if there is no such region.
            InvalidInput: if it is smaller, or its object has become smaller.
        """
        region = self._part(name, offset, size, field)
        found = np.empty(size, np.uint8)
        view, done = memoryview(found.data), 0
        # One call reads 2 GiB at most.
        while done < size:
            count = os.preadv(region.content.descriptor, [view[done:]], region.offset + offset + done)
            if not count:
                raise _shrunk(name, field)
            done += count
        return found

    def write(self, name: str, offset: int, content: bytes, field: str) -> None:
        """Put bytes into a region; arguments and errors as those of :meth:`read`."""
        region = self._part(name, offset, len(content), field)
        start = region.offset + offset
        # Writing beyond the end would make the object larger.
        if start + len(content) > region.content.size:
            raise _shrunk(name, field)
        rest = memoryview(content)
        while rest:
            count = os.pwrite(region.content.descriptor, rest, start)
            rest, start = rest[count:], start + count

    def _region(self, name: str, field: str) -> Region:
        with self._lock:
            region = self._regions.get(name)
        if region is None:
            raise NotFound(
                f"there is no shared memory region {name[:140]!r}, expected one that was registered",
                field=field,
                reason="NO_SUCH_REGION",
            )
        return region

    def _part(self, name: str, offset: int, size: int, field: str) -> Region:
        region = self._region(name, field)
        if offset < 0 or offset + size > region.size:
            raise InvalidInput(
                f"bytes {offset} to {offset + size} are asked for, expected a part of region {name[:140]!r} "
                f"with its {region.size} bytes",
                field=field,
                reason="BEYOND_REGION",
            )
        return region


def _open(key: str) -> int:
    name = key.removeprefix("/")
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise InvalidInput(
            f"the key is {key[:140]!r}, expected the name of a shared memory object", field="key"
        )
    try:
        # Without waiting: what lies there may be a pipe that nobody writes to.
        descriptor = os.open(OBJECTS / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"the shared memory object {key[:140]!r} can't be opened, expected one of this machine that the "
            "server may read and write",
            field="key",
            reason="NO_SUCH_OBJECT",
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput(f"{key[:140]!r} is no shared memory object", field="key", reason="NO_SUCH_OBJECT")
    return descriptor


def _shrunk(name: str, field: str) -> InvalidInput:
    return InvalidInput(
        f"the object behind region {name[:140]!r} has become smaller than it was when it was registered",
        field=field,
        reason="REGION_SHRUNK",
    )

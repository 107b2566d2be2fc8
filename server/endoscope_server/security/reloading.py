"""Files that are read again when they change."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from endoscope_server.errors import EndoscopeError, InvalidInput

logger = logging.getLogger(__name__)

T = TypeVar("T")

_Signature = tuple[tuple[int, int, int], ...]


class Reloading(Generic[T]):
    """What was read from files, read again when one of them is another than before.

    The files are looked at whenever the content is asked for. If they can't be read any more, or say
    nothing sensible, what was read last stays in force and the log says so, once for each change.

    Args:
        paths: The files.
        read: Reads them.

    Raises:
        EndoscopeError: from ``read``, the first time.
        InvalidInput: if a file can't be read the first time.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._lock = threading.Lock()
        try:
            self._signature: _Signature | None = self._sign()
            self._content = read()
        except OSError as error:
            raise InvalidInput(f"can't read {error.filename}: {error.strerror}") from error

    def get(self) -> tuple[T, bool]:
        """The content, and whether it is new since the last time."""
        with self._lock:
            try:
                signature = self._sign()
            except OSError:
                signature = None
            if signature == self._signature:
                return self._content, False
            self._signature = signature
            try:
                self._content = self._read()
            except (OSError, EndoscopeError) as error:
                reason = error.message if isinstance(error, EndoscopeError) else error.strerror
                logger.error("kept what was read before, since the new one is of no use: %s", reason)
                return self._content, False
            logger.info("read %s again", ", ".join(map(str, self._paths)))
            return self._content, True

    def _sign(self) -> _Signature:
        found = [path.stat() for path in self._paths]
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)

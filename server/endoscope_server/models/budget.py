"""How much memory models and jobs may take together."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from endoscope_server.errors import LimitExceeded

RETRY_AFTER = 15.0
"""Seconds after which running jobs may have given memory back."""

_CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        return min(whole, int(_CONTROL_GROUP.read_text("ascii")))
    return whole


class MemoryBudget:
    """Grants memory before it is allocated. Safe to use from many threads.

    What is granted is an estimate; nothing measures what is really taken.

    Args:
        limit: Bytes in all.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._granted = 0
        self._lock = threading.Lock()
        self._evict: Callable[[], bool] = lambda: False

    @property
    def granted(self) -> int:
        """Bytes that are granted now."""
        with self._lock:
            return self._granted

    def let_evict(self, evict: Callable[[], bool]) -> None:
        """Name who lets something idle go where room is needed, and tells whether it did."""
        self._evict = evict

    def check(self, size: int, what: str) -> None:
        """Refuse what could not fit even if nothing else was there.

        Raises:
            LimitExceeded: naming both sizes.
        """
        if size > self.limit:
            raise LimitExceeded(
                f"{what} takes about {_words(size)} of memory, expected at most {_words(self.limit)}",
                reason="MEMORY_BUDGET",
            )

    def grant(self, size: int, what: str) -> None:
        """Grant memory until :meth:`release`; what is idle goes first where room is needed.

        Raises:
            LimitExceeded: if it does not fit, with the time to try again if it may later.
        """
        self.check(size, what)
        while True:
            with self._lock:
                if self._granted + size <= self.limit:
                    self._granted += size
                    return
            if not self._evict():
                raise LimitExceeded(
                    f"{what} takes about {_words(size)} of memory, {_words(self.limit - self.granted)} are "
                    "left beside other work; try again later",
                    reason="MEMORY_BUDGET",
                    retry_after=RETRY_AFTER,
                )

    def release(self, size: int) -> None:
        """Take back what was granted."""
        with self._lock:
            self._granted -= size

    @contextlib.contextmanager
    def lent(self, size: int, what: str) -> Iterator[None]:
        """Memory for the time of a block; raises as :meth:`grant`."""
        self.grant(size, what)
        try:
            yield
        finally:
            self.release(size)


def _words(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"

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
        self._evictors: list[Callable[[str], bool]] = []

    @property
    def granted(self) -> int:
        """Bytes that are granted now."""
        with self._lock:
            return self._granted

    def let_evict(self, evict: Callable[[str], bool]) -> None:
        """Name who lets something idle go where room is needed, but what it is told to spare.

        It tells whether it did. Who was named last is asked first.
        """
        self._evictors.insert(0, evict)

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

    def grant(self, size: int, what: str, sparing: str = "") -> None:
        """Grant memory until :meth:`release`; what is idle goes first where room is needed.

        Args:
            size: Bytes.
            what: Takes them, in words.
            sparing: The name of what is not idle.

        Raises:
            LimitExceeded: if it does not fit, with the time to try again if it may later.
        """
        self.check(size, what)
        while True:
            with self._lock:
                if self._granted + size <= self.limit:
                    self._granted += size
                    return
            if not any(evict(sparing) for evict in self._evictors):
                raise LimitExceeded(
                    f"{what} takes about {_words(size)} of memory, {_words(self.limit - self.granted)} are "
                    "left beside other work; try again later",
                    reason="MEMORY_BUDGET",
                    retry_after=RETRY_AFTER,
                )

    def try_grant(self, size: int) -> bool:
        """Grant memory if it is free; nobody goes for it."""
        with self._lock:
            fits = self._granted + size <= self.limit
            self._granted += size if fits else 0
        return fits

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


class Allowance:
    """What a model was granted: a base, and more as its sessions outgrow that. Safe to use from many threads.

    Args:
        budget: What grants.
        name: The model's.
        base: Bytes that were granted already.
        own: Those of the base that are not for sessions.
    """

    def __init__(self, budget: MemoryBudget, name: str, base: int, own: int) -> None:
        self._budget = budget
        self._name = name
        self._base = base
        self._taken = own
        self._held = base
        self._closed = False
        self._lock = threading.Lock()

    def take(self, size: int, *, spare: bool) -> bool:
        """Grant a session's memory.

        Args:
            size: Bytes.
            spare: Whether the model can do without: then nobody goes for it, and it may be refused.

        Returns:
            Whether it was granted.

        Raises:
            LimitExceeded: if it is not spare and does not fit.
        """
        with self._lock:
            before = self._needed
            self._taken += size
            more = self._needed - before
        granted = False
        try:
            # Without the lock: room may have to come from a model that at the same time wants room from this.
            if spare:
                granted = self._budget.try_grant(more)
            else:
                self._budget.grant(more, f"a further session of model {self._name!r}", self._name)
                granted = True
        finally:
            with self._lock:
                self._taken -= 0 if granted else size
                self._held += more if granted else 0
                self._settle()
        return granted

    def give_back(self, size: int) -> None:
        """A session has gone."""
        with self._lock:
            self._taken -= size
            self._settle()

    def close(self) -> None:
        """The model is let go: give all of it back. Sessions that are still used end with their work."""
        with self._lock:
            self._closed = True
            self._settle()

    @property
    def _needed(self) -> int:
        return 0 if self._closed else max(self._base, self._taken)

    def _settle(self) -> None:
        excess = max(0, self._held - self._needed)
        self._held -= excess
        self._budget.release(excess)


def _words(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"

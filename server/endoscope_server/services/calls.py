"""What the services share: names, pages, work off the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from endoscope_server.errors import InvalidInput

T = TypeVar("T")

MAX_REQUEST_BYTES = 256 * 2**20
"""The largest message that is taken in."""

MAX_PAGE = 1000
DEFAULT_PAGE = 50


def resource_id(name: str, collection: str, field: str) -> str:
    """The last part of a resource name; that part alone will do.

    Raises:
        InvalidInput: if it is empty, or of another collection.
    """
    head, slash, tail = name.rpartition("/")
    if not tail or (slash and head != collection):
        raise InvalidInput(f"{name[:140]!r} is no name, expected '{collection}/…'", field=field)
    return tail


def page(items: Sequence[T], size: int, token: str) -> tuple[Sequence[T], str]:
    """One page of a list, and the token of the next.

    Raises:
        InvalidInput: for a size out of its range or a token that was never given.
    """
    if not 0 <= size <= MAX_PAGE:
        raise InvalidInput(f"page_size is {size}, expected 1 to {MAX_PAGE}", field="page_size")
    start = int(token) if token.isascii() and token.isdecimal() else -1
    if token and not 0 < start <= len(items):
        raise InvalidInput("page_token was not given by this method", field="page_token")
    start = max(start, 0)
    end = start + (size or DEFAULT_PAGE)
    return items[start:end], str(end) if end < len(items) else ""


class Workers:
    """Threads for short work, so that the event loop stays free.

    Args:
        count: How many of them.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="call-worker")

    async def run(self, function: Callable[[], T]) -> T:
        """The function's result, computed in a thread."""
        return await self.start(function)

    def start(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """The same, to be awaited later."""
        # What is logged in the thread is about the same call.
        context = contextvars.copy_context()
        return asyncio.get_running_loop().run_in_executor(self._pool, context.run, function)

    async def put(self, items: queue.Queue[Any], item: Any, consumer: asyncio.Future[Any]) -> None:
        """Hand an item to a consumer in a thread, waiting while it is behind, and not if it has ended."""
        while not consumer.done():
            try:
                items.put_nowait(item)
            except queue.Full:
                await asyncio.sleep(0.005)
            else:
                return

    def shut_down(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

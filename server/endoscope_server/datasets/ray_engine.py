"""Features computed by the workers of a Ray cluster.

Workers open the model and the images by their paths, so these must be the same on all machines. Batches are
those of the local engine and come back in their order: the store gets the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import math
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from endoscope_server.datasets.engine import (
    PATIENCE,
    Engine,
    Extracted,
    Extraction,
    Extractor,
    Load,
    LocalEngine,
)
from endoscope_server.datasets.sources import Source, open_source
from endoscope_server.errors import EndoscopeError, InvalidInput, PreconditionFailed

logger = logging.getLogger(__name__)

_PARTITION_IMAGES = 32
_RETRIES = 5
_CONNECT_SECONDS = 5
_STARTS = 3


class RayEngine:
    """Tasks of Ray, each with a partition of the images; a task whose worker is lost runs again elsewhere.

    Args:
        address: Of a cluster; empty for the one that the environment names, or else a cluster of this machine
            alone, which is started when it is first needed.

    Raises:
        InvalidInput: if Ray is not installed.
    """

    def __init__(self, address: str = "") -> None:
        if importlib.util.find_spec("ray") is None:
            raise InvalidInput(
                "the engine is Ray, which is not installed: install endoscope[ray]", field="engine"
            )
        self._address = address
        self._ours = False

    def run(
        self, extraction: Extraction, source: Source, batches: Iterable[Sequence[int]]
    ) -> Iterator[Extracted | None]:
        """The features of each batch, in order, with two partitions a worker under way at once."""
        import ray

        self._connect()
        compute = ray.remote(max_retries=_RETRIES)(_compute)
        shipped, listing = ray.put(replace(extraction, sessions=None)), _listing(source)
        resources: Any = ray.cluster_resources()  # type: ignore[no-untyped-call]
        count = 2 * max(1, int(resources.get("CPU", 1)))
        under_way: deque[Any] = deque()
        try:
            for partition in _partitions(batches):
                if not partition:
                    yield None
                    continue
                under_way.append(compute.remote(shipped, source.path.resolve(), listing, partition))
                while len(under_way) > count:
                    yield from _first(under_way)
            while under_way:
                yield from _first(under_way)
        finally:
            for task in under_way:
                ray.cancel(task)

    def memory(self, load: Load) -> float:
        """Of the batches of one task that has come back: workers take their own."""
        return min(load.batches, math.ceil(_PARTITION_IMAGES / load.images)) * load.features

    def close(self) -> None:
        """Leave the cluster, or end the one that was started here."""
        if self._ours:
            import ray

            ray.shutdown()
            self._ours = False

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        self._ours = True
        if not self._address:
            start_cluster()
            return
        try:
            _reach(self._address)
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.WARNING)
        except Exception as error:  # Ray has no class of its own for what goes wrong in a start.
            raise PreconditionFailed(
                f"the Ray cluster {self._address!r} can't be reached: {error}", reason="ENGINE_UNREACHABLE"
            ) from error


def start_cluster(**options: Any) -> None:
    """Start a cluster of this machine, or join the one that the environment names.

    Ray gives a node 30 seconds to start, which a machine under load may exceed: what it loads is in the
    memory of the machine the next time.

    Args:
        options: Further arguments of `ray.init`.

    Raises:
        PreconditionFailed: if no cluster came up in `_STARTS` tries.
    """
    import ray

    for left in reversed(range(_STARTS)):
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING, **options)
            return
        except Exception as error:  # Ray has no class of its own for what goes wrong in a start.
            ray.shutdown()
            if not left:
                raise PreconditionFailed(
                    f"no Ray cluster could be started: {error}", reason="ENGINE_UNREACHABLE"
                ) from error
            logger.warning("a Ray cluster did not start, trying again: %s", error)


def _reach(address: str) -> None:
    """Whether somebody listens at an address. Ray itself would try for minutes. Raises OSError."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


def _partitions(batches: Iterable[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Batches by the dozen; an empty one passes at once."""
    held: list[Sequence[int]] = []
    for batch in batches:
        if not batch:
            yield []
            continue
        held.append(batch)
        if sum(map(len, held)) >= _PARTITION_IMAGES:
            yield held
            held = []
    if held:
        yield held


def _first(under_way: deque[Any]) -> Iterator[Extracted | None]:
    """What the first task gave; None if it is still at work."""
    import ray

    ready, _ = ray.wait([under_way[0]], timeout=PATIENCE)
    if not ready:
        yield None
        return
    try:
        found = ray.get(under_way.popleft())
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EndoscopeError):
            raise error.cause from None
        raise EndoscopeError(f"a Ray worker failed: {error.cause!r}") from error
    except ray.exceptions.RayError as error:
        raise EndoscopeError(
            f"a Ray worker was lost {_RETRIES + 1} times: {type(error).__name__}", reason="WORKER_LOST"
        ) from error
    yield from found


def _compute(
    extraction: Extraction, path: Path, listing: str, batches: Sequence[Sequence[int]]
) -> list[Extracted]:
    """What a worker does; it keeps the model and the list of images for its next task."""
    source = _opened(path, listing)
    extractor = _extractor(extraction)
    return [extractor(source, batch) for batch in batches]


@functools.lru_cache(maxsize=4)
def _extractor(extraction: Extraction) -> Extractor:
    return Extractor(extraction)


@functools.lru_cache(maxsize=2)
def _opened(path: Path, listing: str) -> Source:
    source = open_source(path)
    if _listing(source) != listing:
        raise PreconditionFailed(
            "a Ray worker sees other images in the dataset than the server, expected the same",
            field="dataset",
            reason="IMAGES_DIFFER",
        )
    return source


def _listing(source: Source) -> str:
    """What tells one list of images from another."""
    return hashlib.sha256("\0".join(item.name for item in source.items).encode()).hexdigest()


def open_engine(name: str, workers: int = 0) -> Engine:
    """The engine that an operator asks for.

    Args:
        name: ``local``; ``ray`` for the cluster that the environment names, or one of this machine; or the
            address of a Ray cluster.
        workers: Threads of the local engine; 0 takes one a processor.

    Raises:
        InvalidInput: if Ray is asked for and not installed.
    """
    if name == "local":
        return LocalEngine(workers)
    return RayEngine("" if name == "ray" else name)

"""One pass over a dataset that leaves every image's features in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from endoscope_server.datasets.digests import Digests
from endoscope_server.datasets.engine import Engine, Extracted, Extraction, images_at_once
from endoscope_server.datasets.sources import Skipped, Source
from endoscope_server.datasets.store import FeatureKey, FeatureStore, FeatureTable
from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.graph import Graph, Sessions
from endoscope_server.images.preprocessing import Preprocessing
from endoscope_server.mirror import scan_sessions

CHUNK_IMAGES = 256
CHUNK_BYTES = 64 * 2**20
"""Features wait to be stored until there are those of so many images, or so many bytes."""

_SMALL_TASK = 8
_SECONDS_BETWEEN_STEPS = 0.25
_SECONDS_WITHOUT_REST = 0.02


@dataclass(frozen=True, slots=True)
class ScanParameters:
    """What is scanned for.

    Attributes:
        values: ONNX names of the values wanted, or :func:`engine.peaks_of` them, or :data:`engine.PIXELS`.
        batch_size: Images that are computed at once, 1 to 1024; 0 for what suits model and device.
        items: Indices of the items that are looked at, rising; None for all.
    """

    values: tuple[str, ...]
    batch_size: int = 0
    items: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.batch_size <= 1024:
            raise InvalidInput(f"batch_size is {self.batch_size}, expected 1 to 1024", field="batch_size")
        if not self.values:
            raise InvalidInput("no layer was asked for, expected at least one", field="layers")

    def sizes(self, graph: Graph, providers: Sequence[str]) -> tuple[int, int]:
        """Images in one run of a model, and in a batch, which a worker computes in one or several runs."""
        at_once = self.batch_size or images_at_once(graph, providers, self.values)
        # A small network is done with many soon; a large one must be able to stop.
        return at_once, _SMALL_TASK if at_once == 1 and not self.batch_size else at_once


Observe = Callable[[Sequence[int], Mapping[str, NDArray[np.generic]]], None]
"""Is told of items and their features, by value; of items of the same content only the first."""


@dataclass(frozen=True, slots=True)
class ScanStep:
    """How far a scan has come.

    Attributes:
        done: Images done, whether computed, reused or skipped.
        count: Images that are looked at.
        numbers: ``images_per_second``, ``seconds_left``, ``skipped``, ``computed``, ``reused``.
    """

    done: int
    count: int
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a scan did.

    Attributes:
        digests: One an item, None for items that could not be decoded or were not looked at. They are the
            tables' keys.
        computed: Items whose features were computed.
        reused: Items whose features were there before, or were another item's, byte for byte.
        skipped: Items that could not be decoded.
        images_per_second: Computed items over the time taken.
        tables: By value.
    """

    digests: tuple[bytes | None, ...]
    computed: int
    reused: int
    skipped: tuple[Skipped, ...]
    images_per_second: float
    tables: Mapping[str, FeatureTable]


def scan(
    model: Path,
    graph: Graph,
    input_name: str,
    preprocessing: Preprocessing,
    source: Source,
    store: FeatureStore,
    engine: Engine,
    parameters: ScanParameters,
    *,
    digests: Digests | None = None,
    observe: Observe | None = None,
    sessions: Sessions | None = None,
    providers: tuple[str, ...] = ("CPUExecutionProvider",),
) -> Generator[ScanStep | None, None, ScanResult]:
    """Compute what the store doesn't have yet, and store it as it comes.

    Closing the generator stops the work; what was stored stays, and the next scan goes on from there. Between
    steps it yields None whenever the caller may do other work.

    Args:
        model: Path of the model file, for engines elsewhere.
        graph: The same model, loaded.
        input_name: The input that takes pictures.
        preprocessing: Between pictures and the model.
        source: The images.
        store: Where features go.
        engine: What computes them.
        parameters: What is wanted.
        digests: What is remembered of the images.
        observe: Is told of features as they come, those that were stored before included.
        sessions: Of the model, by :func:`scan_sessions`; None for new ones.
        providers: ONNX Runtime execution providers.

    Raises:
        InvalidInput: for an empty dataset, or a value that has no axis of pictures.
    """
    if not source.items:
        raise InvalidInput("the dataset has no images", field="dataset", reason="EMPTY_DATASET")
    tables = {
        value: store.table(FeatureKey(graph.fingerprint, value, preprocessing)) for value in parameters.values
    }
    _, batch = parameters.sizes(graph, providers)
    extraction = Extraction(
        graph.fingerprint,
        model,
        parameters.values,
        input_name,
        preprocessing,
        providers,
        parameters.batch_size,
        sessions or scan_sessions(graph, providers),
    )
    wanted = range(len(source.items)) if parameters.items is None else parameters.items
    run = _Run(source, wanted, tables, digests or Digests(), observe)
    results = engine.run(extraction, source, run.batches(batch))
    try:
        for extracted in results:
            if extracted is not None:
                run.take(extracted)
            yield run.step() if run.due() else None
        run.flush()
    finally:
        # Stop the engine's workers at once, not when the collector comes by.
        if isinstance(results, Generator):
            results.close()
    yield run.step()
    return run.result()


@dataclass
class _Run:
    """The books of one scan."""

    source: Source
    wanted: Sequence[int]
    tables: Mapping[str, FeatureTable]
    known: Digests
    observe: Observe | None
    digests: dict[int, bytes] = field(default_factory=dict)
    reused: int = 0
    computed: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    last_step: float = 0.0
    _waiting: list[Extracted] = field(default_factory=list)
    _claimed: set[bytes] = field(default_factory=set)

    def batches(self, size: int) -> Iterator[Sequence[int]]:
        """The items that need computing, each content once; empty now and then, where few need it."""
        batch: list[int] = []
        rested = time.monotonic()
        for index in self.wanted:
            item = self.source.items[index]
            if time.monotonic() - rested > _SECONDS_WITHOUT_REST:
                yield []
                rested = time.monotonic()
            try:
                key = self.known(self.source, item.index)
            except EndoscopeError as error:
                self.skipped.append(Skipped(item.name, error.message))
                continue
            self.digests[index] = key
            stored = all(key in table for table in self.tables.values())
            if stored and key not in self._claimed:
                self._show([item.index], {value: t.gather([key]) for value, t in self.tables.items()})
            if stored or key in self._claimed:
                self._claimed.add(key)
                self.reused += 1
                continue
            self._claimed.add(key)
            batch.append(item.index)
            if len(batch) == size:
                yield batch
                batch = []
                rested = time.monotonic()
        if batch:
            yield batch

    def take(self, extracted: Extracted) -> None:
        """Note a batch; store it with others once they are many."""
        self.skipped.extend(extracted.skipped)
        self.computed += len(extracted.indices)
        if not extracted.indices:
            return
        self._show(extracted.indices, extracted.features)
        self._waiting.append(extracted)
        images = sum(len(waiting.indices) for waiting in self._waiting)
        numbers = sum(array.nbytes for waiting in self._waiting for array in waiting.features.values())
        if images >= CHUNK_IMAGES or numbers >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Store what waits."""
        if not self._waiting:
            return
        keys = [self.digests[index] for waiting in self._waiting for index in waiting.indices]
        for value, table in self.tables.items():
            parts: list[NDArray[np.generic]] = [waiting.features[value] for waiting in self._waiting]
            table.append(keys, np.concatenate(parts))
        self._waiting.clear()

    def due(self) -> bool:
        """Whether watchers should hear of the progress again."""
        return time.monotonic() - self.last_step >= _SECONDS_BETWEEN_STEPS

    def step(self) -> ScanStep:
        """How far it has come."""
        self.last_step = time.monotonic()
        done = self.computed + self.reused + len(self.skipped)
        total = len(self.wanted)
        speed = self._speed()
        return ScanStep(
            done=min(done, total),
            count=total,
            numbers={
                "images_per_second": speed,
                "seconds_left": (total - done) / speed if speed else 0.0,
                "skipped": float(len(self.skipped)),
                "computed": float(self.computed),
                "reused": float(self.reused),
            },
        )

    def result(self) -> ScanResult:
        """What it did."""
        broken = {skipped.name for skipped in self.skipped}
        table = next(iter(self.tables.values()))
        kept = {index: key for index, key in self.digests.items() if key in table}
        digests = tuple(kept.get(index) for index in range(len(self.source.items)))
        names = [self.source.items[index].name for index in self.wanted if index not in kept]
        # A copy of a broken file was not decoded a second time.
        copies = [name for name in names if name not in broken]
        skipped = [
            *self.skipped,
            *(Skipped(name, "it is the same as another file that is broken") for name in copies),
        ]
        return ScanResult(
            digests=digests,
            computed=self.computed,
            reused=self.reused - (len(skipped) - len(self.skipped)),
            skipped=tuple(sorted(skipped, key=lambda item: item.name)),
            images_per_second=self._speed(),
            tables=self.tables,
        )

    def _show(self, indices: Sequence[int], features: Mapping[str, NDArray[np.generic]]) -> None:
        if self.observe is not None:
            self.observe(indices, features)

    def _speed(self) -> float:
        return self.computed / max(time.monotonic() - self.started, 1e-9)

"""What computes features: threads here, or workers elsewhere.

Every engine turns the same batches of images into the same features in the same order, so what is stored
does not depend on the engine.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from endoscope_server.datasets.sources import Skipped, Source
from endoscope_server.errors import EndoscopeError
from endoscope_server.graph import Graph, Sessions, find_stem, run_batch
from endoscope_server.graph.axes import value_axes
from endoscope_server.images.decoding import decode
from endoscope_server.images.preprocessing import Preprocessing
from endoscope_server.mirror import scan_sessions

PIXELS = "#pixels"
"""Stands for the picture itself among values; no ONNX name begins with a number sign in practice."""

PIXEL_SIDE = 64
"""Pictures are compared as pictures at this size of their longer side, as 8-bit numbers."""

_PEAKS = "#peaks:"

_CACHED_BYTES = 24 * 2**20

PATIENCE = 0.01
"""Seconds that an engine waits for a batch before it lets its caller do other work."""


def peaks_of(value: str) -> str:
    """Stands for the largest activation of each channel of a value, and where it is.

    Its features are three numbers a channel: first the activations of all channels, then the rows, then the
    columns of the units. A value without rows and columns has its positions for rows.
    """
    return _PEAKS + value


def value_of(wanted: str) -> str | None:
    """The ONNX value that a wanted feature needs; None for :data:`PIXELS`."""
    return None if wanted == PIXELS else wanted.removeprefix(_PEAKS)


def values_of(wanted: Iterable[str]) -> list[str]:
    """The ONNX values that wanted features need, each once."""
    return list(dict.fromkeys(value for one in wanted if (value := value_of(one)) is not None))


@dataclass(frozen=True, slots=True)
class Extraction:
    """What is to be computed.

    Attributes:
        fingerprint: Of the model.
        model: Path of the model file.
        values: ONNX names of values, :func:`peaks_of` some, and perhaps :data:`PIXELS`.
        input_name: The image input.
        preprocessing: Between the picture and the model.
        providers: ONNX Runtime execution providers.
        at_once: Images in one run of the model; 0 for what suits model and device.
        sessions: Of the model, by :func:`scan_sessions`, if it is loaded already.
    """

    fingerprint: str
    model: Path
    values: tuple[str, ...]
    input_name: str
    preprocessing: Preprocessing
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    at_once: int = 0
    sessions: Sessions | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Extracted:
    """The features of a batch.

    Attributes:
        indices: Items whose features these are.
        features: By value, items x numbers.
        skipped: Items that could not be decoded.
    """

    indices: tuple[int, ...]
    features: Mapping[str, NDArray[np.generic]]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """What a scan is for an engine.

    Attributes:
        batches: How many there are, the last perhaps a part.
        images: Of a batch.
        working: Bytes that a batch takes while it is computed.
        features: Bytes of the features of a batch.
    """

    batches: float
    images: int
    working: int
    features: int


class Engine(Protocol):
    """Computes batches, in their order."""

    def run(
        self, extraction: Extraction, source: Source, batches: Iterable[Sequence[int]]
    ) -> Iterator[Extracted | None]:
        """The features of each batch of item indices, and None whenever the caller may do other work.

        Args:
            extraction: What is to be computed.
            source: Where the images are.
            batches: Taken lazily, a little ahead of what is computed. An empty one is answered by None.
        """
        ...

    def memory(self, load: Load) -> float:
        """About how many bytes a scan's batches take in this process, until they are taken."""
        ...

    def close(self) -> None:
        """Let go of what is held between scans."""
        ...


class Extractor:
    """Computes a batch: read, decode, run. May be shared by threads; each is served on its own.

    Args:
        extraction: What is to be computed.
    """

    def __init__(self, extraction: Extraction) -> None:
        self._extraction = extraction
        self._values = values_of(extraction.values)
        self._sessions = extraction.sessions or scan_sessions(
            Graph.from_file(extraction.model), extraction.providers
        )
        self._memory = threading.local()
        self._at_once = extraction.at_once or images_at_once(
            self._sessions.graph, extraction.providers, extraction.values
        )
        if self._values:
            self._sessions.prepare(self._values)

    def __call__(self, source: Source, indices: Sequence[int]) -> Extracted:
        """The features of some items of a source."""
        kept: list[int] = []
        pictures: list[Image.Image] = []
        skipped: list[Skipped] = []
        batch = self._batch(len(indices))
        # First all are decoded, then all are run: each pushes the other's code and tables out of the cache.
        for index in indices:
            try:
                picture = decode(source.read(index))
            except EndoscopeError as error:
                skipped.append(Skipped(source.items[index].name, error.message))
                continue
            if self._values:
                self._extraction.preprocessing.write(picture, batch[len(kept)])
            if PIXELS in self._extraction.values:
                pictures.append(self._extraction.preprocessing.fit(picture))
            kept.append(index)
        runs = [slice(start, start + self._at_once) for start in range(0, len(kept), self._at_once)]
        parts = [self._features(batch[: len(kept)][run], pictures[run]) for run in runs]
        return Extracted(tuple(kept), _joined(parts), tuple(skipped))

    def features(self, pictures: Sequence[Image.Image]) -> dict[str, NDArray[np.generic]]:
        """The features of pictures: by value, pictures x numbers."""
        preprocessing = self._extraction.preprocessing
        fitted = [preprocessing.fit(picture) for picture in pictures]
        batch = self._batch(len(fitted))
        for picture, planes in zip(fitted, batch, strict=True):
            preprocessing.write(picture, planes)
        return self._features(batch, fitted)

    def _batch(self, count: int) -> NDArray[np.float32]:
        """Memory for inputs, each thread's own: fetching it anew takes longer than filling it."""
        preprocessing = self._extraction.preprocessing
        batch: NDArray[np.float32] | None = getattr(self._memory, "batch", None)
        if batch is None or len(batch) < count:
            batch = np.empty((count, *preprocessing.shape), np.float32)
            self._memory.batch = batch
        return batch[:count]

    def _features(
        self, batch: NDArray[np.float32], fitted: Sequence[Image.Image]
    ) -> dict[str, NDArray[np.generic]]:
        features: dict[str, NDArray[np.generic]] = {}
        if PIXELS in self._extraction.values:
            features[PIXELS] = np.stack([shrink(picture) for picture in fitted])
        if not self._values:
            return features
        name = self._extraction.input_name
        own = batch.astype(self._sessions.graph.values[name].dtype or "float32", copy=False)
        found = run_batch(self._sessions, name, own, self._values)
        for wanted in self._extraction.values:
            if wanted in found:
                # The input itself may be wanted, and its memory is used again.
                kept = found[wanted].copy() if np.may_share_memory(found[wanted], batch) else found[wanted]
                features[wanted] = _storable(kept.reshape(len(batch), -1))
            elif (value := value_of(wanted)) is not None:
                features[wanted] = self._peaks(value, found[value])
        return features

    def _peaks(self, value: str, array: NDArray[np.generic]) -> NDArray[np.floating]:
        axes = value_axes(self._sessions.graph, value, array.ndim)
        dtype = np.float64 if array.dtype == np.float64 else np.float32
        maps = axes.channels_first(array).astype(dtype, copy=False)
        flat = maps.reshape(*maps.shape[:2], -1)
        ranked = np.where(np.isnan(flat), -np.inf, flat)
        places = ranked.argmax(axis=2)
        strongest = np.take_along_axis(ranked, places[..., None], axis=2)[..., 0]
        rows, columns = np.divmod(places, maps.shape[3])
        return np.concatenate([strongest, rows.astype(dtype), columns.astype(dtype)], axis=1)


def images_at_once(graph: Graph, providers: Sequence[str], wanted: Sequence[str]) -> int:
    """How many in one run.

    Some where the first layers take them one by one, or where the processor's cache does not keep the weights
    for the next run; else one.

    Args:
        graph: The model.
        providers: ONNX Runtime execution providers.
        wanted: As :class:`Extraction` has them.
    """
    if providers[0] != "CPUExecutionProvider":
        return 64
    if find_stem(graph, values_of(wanted)) is not None:
        return 8
    return 1 if sum(weight.nbytes for weight in graph.weights.values()) <= _CACHED_BYTES else 4


def _joined(parts: Sequence[dict[str, NDArray[np.generic]]]) -> dict[str, NDArray[np.generic]]:
    if len(parts) < 2:
        return parts[0] if parts else {}
    return {value: np.concatenate([part[value] for part in parts]) for value in parts[0]}


def _storable(features: NDArray[np.generic]) -> NDArray[np.generic]:
    """Features in a type that the store has; what it has not is brought to 32 bits."""
    kept = features.dtype.name in ("float16", "float32", "float64")
    return np.ascontiguousarray(features if kept else features.astype(np.float32))


def shrink(picture: Image.Image) -> NDArray[np.uint8]:
    """The picture's pixels at :data:`PIXEL_SIDE`, as one row of numbers."""
    ratio = min(1.0, PIXEL_SIDE / max(picture.size))
    size = max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))
    small = picture if size == picture.size else picture.resize(size, Image.Resampling.BOX)
    return np.asarray(small).reshape(-1)


class LocalEngine:
    """Threads of this process, each with a batch of its own.

    Args:
        workers: How many; 0 takes one a processor.
    """

    def __init__(self, workers: int = 0) -> None:
        self._workers = workers or len(os.sched_getaffinity(0))

    def run(
        self, extraction: Extraction, source: Source, batches: Iterable[Sequence[int]]
    ) -> Iterator[Extracted | None]:
        """The features of each batch, in order, with a few batches under way at once."""
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="scan")
        under_way: deque[Future[Extracted]] = deque()
        extractor: Extractor | None = None
        try:
            for batch in batches:
                if not batch:
                    yield None
                    continue
                # Only now: what is all stored needs no session.
                extractor = extractor or Extractor(extraction)
                under_way.append(pool.submit(extractor, source, batch))
                while len(under_way) > 2 * self._workers:
                    yield _first(under_way)
            while under_way:
                yield _first(under_way)
        finally:
            pool.shutdown(cancel_futures=True)

    def memory(self, load: Load) -> float:
        """Of batches that are computed, one a worker, and of those that wait in their order, two a worker."""
        computed, waiting = (min(count, load.batches) for count in (self._workers, 2 * self._workers + 1))
        return computed * load.working + waiting * load.features

    def close(self) -> None:
        """Nothing is held."""


def _first(under_way: deque[Future[Extracted]]) -> Extracted | None:
    """What the first of some tasks gave, or None if it is still at work."""
    if not wait([under_way[0]], PATIENCE).done:
        return None
    return under_way.popleft().result()

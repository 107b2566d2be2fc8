"""What computes features: threads here, or workers elsewhere.

Every engine turns the same batches of images into the same features in the same order, so what is stored
does not depend on the engine.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from endoscope_server.datasets.sources import Skipped, Source
from endoscope_server.errors import EndoscopeError
from endoscope_server.graph import Fidelity, Graph, Sessions
from endoscope_server.images.decoding import decode
from endoscope_server.images.preprocessing import Preprocessing

PIXELS = "#pixels"
"""Stands for the picture itself among values; no ONNX name begins with a number sign in practice."""

PIXEL_SIDE = 64
"""Pictures are compared as pictures at this size of their longer side, as 8-bit numbers."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """What is to be computed.

    Attributes:
        model: Path of the model file.
        values: ONNX names of values, and perhaps :data:`PIXELS`.
        input_name: The image input.
        preprocessing: Between the picture and the model.
        providers: ONNX Runtime execution providers.
    """

    model: Path
    values: tuple[str, ...]
    input_name: str
    preprocessing: Preprocessing
    providers: tuple[str, ...] = ("CPUExecutionProvider",)


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


class Engine(Protocol):
    """Computes batches, in their order."""

    def run(
        self, extraction: Extraction, source: Source, batches: Iterable[Sequence[int]]
    ) -> Iterator[Extracted]:
        """The features of each batch of item indices.

        Args:
            extraction: What is to be computed.
            source: Where the images are.
            batches: Taken lazily, a little ahead of what is computed.
        """
        ...


class Extractor:
    """Computes a batch: read, decode, run. May be shared by threads; each is served on its own.

    Args:
        extraction: What is to be computed.
        graph: The model, if it is loaded already.
    """

    def __init__(self, extraction: Extraction, graph: Graph | None = None) -> None:
        self._extraction = extraction
        self._values = [value for value in extraction.values if value != PIXELS]
        self._sessions = Sessions(
            graph or Graph.from_file(extraction.model),
            extraction.providers,
            # One thread a batch, several batches at once: nothing waits for the slowest thread of an
            # operator, and one batch is decoded while another is computed.
            intra_op_threads=1,
            fidelity=Fidelity.FAST,
        )
        if self._values:
            self._sessions.prepare(self._values)

    def __call__(self, source: Source, indices: Sequence[int]) -> Extracted:
        """The features of some items of a source."""
        kept: list[int] = []
        pictures: list[Image.Image] = []
        skipped: list[Skipped] = []
        for index in indices:
            try:
                pictures.append(self._extraction.preprocessing.fit(decode(source.read(index))))
            except EndoscopeError as error:
                skipped.append(Skipped(source.items[index].name, error.message))
            else:
                kept.append(index)
        features = self._compute(pictures) if pictures else {}
        return Extracted(tuple(kept), features, tuple(skipped))

    def _compute(self, pictures: Sequence[Image.Image]) -> dict[str, NDArray[np.generic]]:
        features: dict[str, NDArray[np.generic]] = {}
        if PIXELS in self._extraction.values:
            features[PIXELS] = np.stack([shrink(picture) for picture in pictures])
        if self._values:
            preprocessing = self._extraction.preprocessing
            pixels = np.stack([np.asarray(picture) for picture in pictures])
            batch = preprocessing.normalize(_planes(pixels))
            found = self._sessions.run({self._extraction.input_name: batch}, self._values)
            for name, array in found.items():
                features[name] = np.ascontiguousarray(array.reshape(len(pictures), -1))
        return features


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
        load: Gives the graph for a model path, so that a loaded one is not loaded again.
    """

    def __init__(self, workers: int = 0, load: Callable[[Path], Graph] = Graph.from_file) -> None:
        self._workers = workers or len(os.sched_getaffinity(0))
        self._load = load

    def run(
        self, extraction: Extraction, source: Source, batches: Iterable[Sequence[int]]
    ) -> Iterator[Extracted]:
        """The features of each batch, in order, with a few batches under way at once."""
        extractor = Extractor(extraction, self._load(extraction.model))
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="scan")
        under_way: deque[Future[Extracted]] = deque()
        try:
            for batch in batches:
                under_way.append(pool.submit(extractor, source, batch))
                if len(under_way) > 2 * self._workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _planes(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8-bit pixels as batch x channels x height x width in [0, 1]."""
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return planes * np.float32(1 / 255)

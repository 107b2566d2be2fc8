"""What every method that goes through a dataset makes of its request."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from numpy.typing import NDArray
from PIL import Image

from endoscope_server.datasets import (
    PIXELS,
    Engine,
    Extraction,
    FeatureStore,
    Library,
    ScanParameters,
    ScanResult,
    ScanStep,
    Source,
    feature_bytes,
    scan,
    scan_memory,
)
from endoscope_server.datasets.engine import Extractor
from endoscope_server.datasets.scan import Observe
from endoscope_server.errors import EndoscopeError, InvalidInput, PreconditionFailed, blaming
from endoscope_server.graph import ValueKind
from endoscope_server.images.preprocessing import Preprocessing
from endoscope_server.models import MemoryBudget, Model, Repository
from endoscope_server.services import preprocessing
from endoscope_server.services.calls import resource_id
from endoscope_server.techniques.parts.steps import Step, retold
from endoscope_server.telemetry.metrics import IMAGES_SCANNED


@dataclass(frozen=True, slots=True)
class Survey:
    """A model and a dataset that it is to look at.

    Attributes:
        model: The model.
        dataset: The dataset's name.
        source: Its images.
        preprocessing: Between the two.
    """

    model: Model
    dataset: str
    source: Source
    preprocessing: Preprocessing

    def value(self, layer: str, field: str) -> str:
        """The ONNX name of a layer that is computed from pictures; of the features if it is empty.

        Raises:
            NotFound: if there is no such layer.
            InvalidInput: if it does not depend on pictures.
        """
        graph = self.model.graph
        with blaming(field):
            name = graph.resolve(layer) if layer else graph.features
            value = graph.values[name]
            if value.kind is ValueKind.INITIALIZER or value.dtype == "string":
                raise InvalidInput(
                    f"{layer!r} is no number computed from pictures, expected an activation",
                    reason="NOT_AN_ACTIVATION",
                )
        return name

    @property
    def sizes(self) -> dict[str, int]:
        """About how many bytes each value takes for one picture of the size that the model gets, by name."""
        own = self.model.preprocessing({})
        pixels = self.preprocessing.height * self.preprocessing.width
        ratio = pixels / (own.height * own.width)
        return {name: round(ratio * size) for name, size in self.model.value_bytes.items()}

    def width(self, wanted: str) -> int:
        """About how many numbers the features of one picture are, as they are computed with."""
        size = feature_bytes(self.model.graph, self.sizes, wanted, self.preprocessing)
        return size // (1 if wanted == PIXELS else 4)

    def told(self) -> dict[str, Any]:
        """The preprocessing in protobuf's JSON."""
        return json_format.MessageToDict(
            preprocessing.to_message(self.preprocessing), preserving_proto_field_name=True
        )


class Surveyor:
    """Datasets, their features, and what computes them.

    Args:
        models: The models.
        library: The datasets.
        store: The features.
        engine: What computes them.
    """

    def __init__(self, models: Repository, library: Library, store: FeatureStore, engine: Engine) -> None:
        self.library = library
        self.store = store
        self.budget: MemoryBudget = models.budget
        self._models = models
        self._engine = engine
        self._lock = threading.Lock()
        self._in_use: Counter[str] = Counter()

    def survey(self, request: Any) -> Survey:
        """The model and the dataset that a request names.

        Raises:
            NotFound: if there is none of a name.
            InvalidInput: if the dataset has no images.
            PreconditionFailed: if the dataset's files are gone, or the model takes no picture.
        """
        model = self._models.get(resource_id(request.model, "models", "model"))
        settings = preprocessing.resolve(model, request.preprocessing)
        name = resource_id(request.dataset, "datasets", "dataset")
        return Survey(model, name, self.open(name, "dataset"), settings)

    def open(self, name: str, field: str) -> Source:
        """A dataset's images, at least one.

        Raises:
            NotFound: if there is no such dataset.
            InvalidInput: if it is empty.
            PreconditionFailed: if its files are gone.
        """
        with blaming(field):
            dataset = self.library.get(name)
            try:
                source = dataset.open()
            except EndoscopeError as error:
                raise PreconditionFailed(
                    f"the files of dataset {name!r} can't be had: {error.message}",
                    reason="SOURCE_MISSING",
                ) from error
            if not source.items:
                raise InvalidInput(
                    f"dataset {name!r} has no images, expected at least one", reason="EMPTY_DATASET"
                )
        return source

    def scan(
        self,
        survey: Survey,
        values: Sequence[str],
        batch_size: int = 0,
        observe: Observe | None = None,
        items: Sequence[int] | None = None,
        *,
        granted: bool = False,
    ) -> Generator[Step | None, None, ScanResult]:
        """Bring the features of a dataset up to date; yields steps, and returns what was done.

        Args:
            survey: What is looked at.
            values: As :class:`ScanParameters` has them.
            batch_size: Likewise.
            observe: Is told of features as they come.
            items: As :class:`ScanParameters` has them.
            granted: Whether the caller was granted the memory of it.

        Raises:
            LimitExceeded: if there is no memory for it now.
        """
        model = survey.model
        digests = self.library.digests(survey.dataset)
        count = len(survey.source.items if items is None else items)
        size = 0 if granted else self.memory(survey, values, batch_size, count)
        with self._using(survey.dataset), self.budget.lent(size, _what(survey)):
            work = scan(
                model.file.path,
                model.graph,
                model.card.image_input,
                survey.preprocessing,
                survey.source,
                self.store,
                self._engine,
                ScanParameters(
                    tuple(dict.fromkeys(values)), batch_size, None if items is None else tuple(items)
                ),
                digests=digests,
                observe=observe,
                sessions=model.scan_sessions,
            )
            try:
                result = yield from _steps(work)
            finally:
                work.close()
                digests.save()
            if items is None:
                self.library.note_skipped(survey.dataset, result.skipped)
        return result

    def memory(self, survey: Survey, values: Sequence[str], batch_size: int = 0, count: int = 0) -> int:
        """About how many bytes a scan takes while it runs.

        Args:
            survey: What is looked at.
            values: As :class:`ScanParameters` has them.
            batch_size: Likewise.
            count: Items that are looked at; 0 for all.
        """
        return scan_memory(
            self._engine,
            survey.model.graph,
            survey.sizes,
            survey.preprocessing,
            count or len(survey.source.items),
            ScanParameters(tuple(dict.fromkeys(values)), batch_size),
        )

    def check(self, survey: Survey, values: Sequence[str], batch_size: int = 0) -> None:
        """Refuse a scan that could not fit into memory even if nothing else was there.

        Raises:
            LimitExceeded: naming both sizes.
        """
        self.budget.check(self.memory(survey, values, batch_size), _what(survey))

    def features(
        self, survey: Survey, values: Sequence[str], pictures: Sequence[Image.Image]
    ) -> dict[str, NDArray[Any]]:
        """The features of further pictures: by value, pictures x numbers. Nothing is stored."""
        model = survey.model
        extraction = Extraction(
            model.graph.fingerprint,
            model.file.path,
            tuple(dict.fromkeys(values)),
            model.card.image_input,
            survey.preprocessing,
            sessions=model.scan_sessions,
        )
        return Extractor(extraction).features(pictures)

    def delete(self, name: str) -> None:
        """Delete a dataset, and the features that no other dataset has.

        Raises:
            NotFound: if there is none of that name.
            PreconditionFailed: while a job goes through it.
        """
        self.library.get(name)
        with self._lock:
            if self._in_use[name]:
                raise PreconditionFailed(
                    f"a job goes through dataset {name!r}, expected none; cancel it first",
                    reason="DATASET_IN_USE",
                )
            own = self.library.digests(name).known()
            self.library.delete(name)
            others: set[bytes] = set()
            for other in self.library.names():
                others |= self.library.digests(other).known()
        if own - others:
            self.store.remove(own - others)

    def close(self) -> None:
        """Let the engine go; no scan is at work any more."""
        self._engine.close()

    @contextlib.contextmanager
    def _using(self, name: str) -> Iterator[None]:
        with self._lock:
            self.library.get(name)
            self._in_use[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_use[name] -= 1


def _what(survey: Survey) -> str:
    return f"a scan of dataset {survey.dataset!r}"


def _steps(
    work: Generator[ScanStep | None, None, ScanResult],
) -> Generator[Step | None, None, ScanResult]:
    computed = 0.0

    def tell(step: ScanStep | None) -> Step | None:
        nonlocal computed
        if step is None:
            return None
        IMAGES_SCANNED.inc(step.numbers["computed"] - computed)
        computed = step.numbers["computed"]
        numbers = {**step.numbers, "images_done": float(step.done), "images_total": float(step.count)}
        return Step(0, 0, numbers, stage=f"extracting features: {step.done} of {step.count} pictures")

    return retold(work, tell)

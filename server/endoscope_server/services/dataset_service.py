"""DatasetService."""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator, Generator, Iterable
from pathlib import Path
from typing import Any

from endoscope.v1 import dataset_pb2, dataset_pb2_grpc
from endoscope_server.datasets import Dataset, ScanResult
from endoscope_server.datasets.sources import Skipped, Source
from endoscope_server.errors import EndoscopeError, InvalidInput, blaming
from endoscope_server.images.decoding import decode
from endoscope_server.jobs import JobManager, Start
from endoscope_server.services import streaming
from endoscope_server.services.calls import Workers, page, resource_id
from endoscope_server.services.dataset_items import list_items
from endoscope_server.services.provenance import provenance
from endoscope_server.services.scanning import Survey, Surveyor
from endoscope_server.services.status import Context
from endoscope_server.services.streaming import Methods, Ticket
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step

TECHNIQUE = "extract_features"
MAX_BATCH = 1024
MAX_SKIPPED = 1000
"""How many skipped files one message names."""


class DatasetService(dataset_pb2_grpc.DatasetServiceServicer):
    """See ``dataset.proto``."""

    def __init__(self, surveyor: Surveyor, jobs: JobManager, workers: Workers) -> None:
        self._surveyor = surveyor
        self._library = surveyor.library
        self._workers = workers
        self._methods = Methods(jobs, workers)
        self._methods.add(TECHNIQUE, dataset_pb2.ExtractFeaturesRequest, self._prepare)

    async def ListDatasets(
        self, request: dataset_pb2.ListDatasetsRequest, context: Context
    ) -> dataset_pb2.ListDatasetsResponse:
        """The datasets by name."""

        def work() -> dataset_pb2.ListDatasetsResponse:
            names, token = page(self._library.names(), request.page_size, request.page_token)
            datasets = [self._describe(name, full=False) for name in names]
            return dataset_pb2.ListDatasetsResponse(datasets=datasets, next_page_token=token)

        return await self._workers.run(work)

    async def GetDataset(
        self, request: dataset_pb2.GetDatasetRequest, context: Context
    ) -> dataset_pb2.GetDatasetResponse:
        """One dataset."""
        name = resource_id(request.name, "datasets", "name")
        dataset = await self._workers.run(lambda: self._describe(name))
        return dataset_pb2.GetDatasetResponse(dataset=dataset)

    async def ListItems(
        self, request: dataset_pb2.ListItemsRequest, context: Context
    ) -> dataset_pb2.ListItemsResponse:
        """A dataset's pictures."""
        return await self._workers.run(lambda: list_items(self._surveyor, request))

    async def CreateDataset(
        self, request: dataset_pb2.CreateDatasetRequest, context: Context
    ) -> dataset_pb2.CreateDatasetResponse:
        """A dataset of the operator's files."""
        if not request.path:
            raise InvalidInput("there is no path, expected a folder or a file", field="path")

        def work() -> dataset_pb2.Dataset:
            self._library.create(request.dataset_id, Path(request.path))
            return self._describe(request.dataset_id)

        return dataset_pb2.CreateDatasetResponse(dataset=await self._workers.run(work))

    async def UploadImages(
        self, request: AsyncIterator[dataset_pb2.UploadImagesRequest], context: Context
    ) -> dataset_pb2.UploadImagesResponse:
        """Pictures that are sent; each is there as soon as it has come."""
        first = await anext(aiter(request), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidInput("the first message has no header, expected one", field="header")
        name = first.header.dataset_id
        broken: list[Skipped] = []
        received = 0
        async for message in request:
            if message.WhichOneof("part") != "image":
                raise InvalidInput(f"message {received + 1} has no picture, expected one", field="image")
            received += 1
            skipped = await self._workers.run(functools.partial(self._take, name, message.image))
            broken += [skipped] if skipped else []
        if not received:
            raise InvalidInput("no picture came, expected at least one", field="image")
        if received == len(broken):
            raise InvalidInput(
                f"none of the {received} pictures can be decoded: {broken[0].reason}",
                field="image.image.encoded",
                reason="BROKEN_IMAGE",
            )

        def work() -> dataset_pb2.Dataset:
            if broken:
                before = [item for item in self._library.get(name).skipped if item not in broken]
                self._library.note_skipped(name, [*before, *broken])
            return self._describe(name)

        return dataset_pb2.UploadImagesResponse(dataset=await self._workers.run(work))

    async def DeleteDataset(
        self, request: dataset_pb2.DeleteDatasetRequest, context: Context
    ) -> dataset_pb2.DeleteDatasetResponse:
        """Delete a dataset and its features."""
        name = resource_id(request.name, "datasets", "name")

        def work() -> None:
            with blaming("name"):
                self._surveyor.delete(name)

        await self._workers.run(work)
        return dataset_pb2.DeleteDatasetResponse()

    def ExtractFeatures(
        self, request: dataset_pb2.ExtractFeaturesRequest, context: Context
    ) -> AsyncIterator[dataset_pb2.ExtractFeaturesResponse]:
        """Compute and store features."""
        return self._methods.run(TECHNIQUE, request, dataset_pb2.ExtractFeaturesResponse)

    def _prepare(self, request: dataset_pb2.ExtractFeaturesRequest) -> tuple[Ticket, Start]:
        if not 0 <= request.batch_size <= MAX_BATCH:
            raise InvalidInput(
                f"batch_size is {request.batch_size}, expected 1 to {MAX_BATCH}", field="batch_size"
            )
        streaming.preview_every(request.options)
        survey = self._surveyor.survey(request)
        layers = list(request.layers) or [""]
        values = [survey.value(layer, f"layers[{index}]") for index, layer in enumerate(layers)]
        self._surveyor.check(survey, values, request.batch_size)
        parameters: dict[str, Any] = {
            "dataset": f"datasets/{survey.dataset}",
            "layers": values,
            "batch_size": request.batch_size,
            "preprocessing": survey.told(),
        }
        graph = survey.model.graph
        ticket = Ticket(TECHNIQUE, f"models/{survey.model.name}", graph.fingerprint, parameters)
        made = provenance(TECHNIQUE, ticket.model, ticket.fingerprint, ticket.parameters, 0, "cpu")

        def start(_memory: Memory) -> Generator[Step | None, None, dataset_pb2.ExtractedFeatures]:
            result = yield from self._surveyor.scan(survey, values, request.batch_size)
            message = _extracted(result, survey, values)
            message.provenance.CopyFrom(made)
            return message

        return ticket, start

    def _take(self, dataset: str, image: dataset_pb2.UploadedImage) -> Skipped | None:
        if image.image.WhichOneof("source") != "encoded":
            raise InvalidInput("the picture is no encoded file, expected one", field="image.image.encoded")
        content = image.image.encoded
        try:
            decode(content)
        except EndoscopeError as error:
            return Skipped(image.item_name[:256], error.message)
        try:
            self._library.upload(dataset, image.item_name, image.label, content)
        except EndoscopeError as error:
            error.field = {"item_name": "image.item_name", "dataset_id": "header.dataset_id"}.get(
                error.field, error.field
            )
            raise
        return None

    def _describe(self, name: str, *, full: bool = True) -> dataset_pb2.Dataset:
        with blaming("name"):
            dataset = self._library.get(name)
        message = dataset_pb2.Dataset(
            name=f"datasets/{name}", path="" if dataset.uploaded else str(dataset.path)
        )
        message.create_time.FromNanoseconds(int(dataset.created * 1e9))
        try:
            source = dataset.open()
        except EndoscopeError as error:
            # The operator's files are gone; the dataset can still be seen, and deleted.
            message.skipped.add(item_name=dataset.path.name, reason=error.message)
            return message
        message.item_count = len(source.items)
        message.labels.extend(sorted({item.label for item in source.items} - {""}))
        message.skipped.extend(_skipped(_all_skipped(dataset, source)))
        if full:
            message.features.extend(self._features(name))
        return message

    def _features(self, name: str) -> Iterable[dataset_pb2.StoredFeatures]:
        digests = self._library.digests(name).known()
        found: dict[tuple[str, str], dataset_pb2.StoredFeatures] = {}
        for stored in self._surveyor.store.tables():
            count = sum(key in stored.table for key in digests)
            # What else is stored, such as small pictures, is nothing that was asked for.
            if not count or stored.value.startswith("#"):
                continue
            key = stored.fingerprint, stored.value
            if key not in found or found[key].item_count < count:
                found[key] = dataset_pb2.StoredFeatures(
                    model_fingerprint=stored.fingerprint,
                    value=stored.value,
                    item_count=count,
                    feature_count=stored.table.width,
                )
        return found.values()


def _all_skipped(dataset: Dataset, source: Source) -> Iterable[Skipped]:
    return itertools.chain(source.skipped, dataset.skipped)


def _skipped(items: Iterable[Skipped]) -> Iterable[dataset_pb2.SkippedItem]:
    for item in itertools.islice(items, MAX_SKIPPED):
        yield dataset_pb2.SkippedItem(item_name=item.name, reason=item.reason)


def _extracted(result: ScanResult, survey: Survey, values: list[str]) -> dataset_pb2.ExtractedFeatures:
    message = dataset_pb2.ExtractedFeatures(
        computed_count=result.computed,
        reused_count=result.reused,
        skipped=_skipped(result.skipped),
        images_per_second=result.images_per_second,
    )
    for value in values:
        table = result.tables[value]
        message.features.add(
            model_fingerprint=survey.model.graph.fingerprint,
            value=value,
            item_count=sum(key is not None for key in result.digests),
            feature_count=table.width,
        )
    return message

"""FindNeighbors."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from endoscope.v1 import activation_pb2
from endoscope_server.datasets import PIXELS, FeatureTable, ScanResult
from endoscope_server.errors import InvalidInput
from endoscope_server.images import tiles
from endoscope_server.models import MemoryBudget
from endoscope_server.services.activation.prepared import Prepared
from endoscope_server.services.parameters import resolved, to_parameters
from endoscope_server.services.pictures import ItemPictures
from endoscope_server.services.scanning import Survey, Surveyor
from endoscope_server.services.streaming import Ticket
from endoscope_server.services.tensors import to_image, to_picture
from endoscope_server.techniques.approximate import ApproximateIndex
from endoscope_server.techniques.neighbors import (
    Found,
    IndexMemory,
    Metric,
    NeighborIndex,
    NeighborParameters,
    search_memory,
)
from endoscope_server.techniques.parts.steps import Step

TECHNIQUE = "find_neighbors"
MAX_QUERIES = 256
MAX_RESULTS = 20_000
SHEET_QUERIES, SHEET_NEIGHBORS, SHEET_SIDE = 16, 10, 112

Index = NeighborIndex | ApproximateIndex
Steps = Generator[Step | None, None, Any]


class Indexes:
    """Indexes that are ready, kept for the next request.

    Args:
        approximate_above: With more items than these, an approximate index may be used.
        budget: Grants their memory; where others need it, those that are kept go.
        capacity: How many are kept; the least recently used goes first.
    """

    def __init__(self, approximate_above: int, budget: MemoryBudget, capacity: int = 3) -> None:
        self.approximate_above = approximate_above
        self._capacity = capacity
        self._lock = threading.Lock()
        self._budget = budget
        budget.let_evict(lambda _sparing: self._drop())
        self._kept: OrderedDict[Any, tuple[Index, int]] = OrderedDict()

    def memory(self, count: int, width: int, *, approximate: bool) -> IndexMemory:
        """About how many bytes an index over so many items of so many numbers takes."""
        kind = ApproximateIndex if approximate and count > self.approximate_above else NeighborIndex
        return kind.memory(count, width)

    def get(
        self,
        table: FeatureTable,
        keys: Sequence[bytes],
        metric: Metric,
        *,
        approximate: bool,
        scale: float = 1.0,
    ) -> Generator[None, None, Index]:
        """The index over some images of a table, in their order.

        Raises:
            LimitExceeded: if there is no memory for it now.
        """
        size = self.memory(len(keys), table.width, approximate=approximate)
        approximate = approximate and len(keys) > self.approximate_above
        content = hashlib.sha256(b"".join(keys)).digest()
        name = table.folder, content, metric, approximate
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name][0]
        self._budget.grant(size.kept, "an index of features")
        try:
            view = table.view(keys)
            index: Index = (
                ApproximateIndex(view, metric) if approximate else NeighborIndex(view, metric, scale)
            )
            with self._budget.lent(size.beside, "the making of an index of features"):
                yield from index.build()
        except BaseException:
            self._budget.release(size.kept)
            raise
        with self._lock:
            # Two searches may have made the same.
            _, twice = self._kept.pop(name, (None, 0))
            self._kept[name] = index, size.kept
        self._budget.release(twice)
        while len(self._kept) > self._capacity:
            self._drop()
        return index

    def _drop(self) -> bool:
        """Let the least recently used go; a search that is under way keeps it until it ends."""
        with self._lock:
            if not self._kept:
                return False
            _, (_, size) = self._kept.popitem(last=False)
        self._budget.release(size)
        return True


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked for, checked."""

    surveyor: Surveyor
    indexes: Indexes
    survey: Survey
    spaces: Sequence[str]
    parameters: NeighborParameters
    pictures: Sequence[Image.Image]
    items: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Query:
    """What neighbours are wanted of: a picture, and its item if it is one."""

    picture: Image.Image
    item: int | None


def prepare(surveyor: Surveyor, indexes: Indexes, request: activation_pb2.FindNeighborsRequest) -> Prepared:
    """Checks a request."""
    parameters = to_parameters(request, NeighborParameters)
    survey = surveyor.survey(request)
    value = survey.value(request.layer, "layer")
    count = len(request.images) + len(request.items)
    if not 1 <= count <= MAX_QUERIES:
        raise InvalidInput(
            f"there are {count} pictures and items, expected 1 to {MAX_QUERIES}", field="images"
        )
    if parameters.k * count > MAX_RESULTS:
        raise InvalidInput(
            f"{count} queries with {parameters.k} neighbours each are too many, "
            f"expected at most {MAX_RESULTS} in all",
            field="k",
        )
    items = survey.source.items
    for index, item in enumerate(request.items):
        if not 0 <= item < len(items):
            raise InvalidInput(
                f"items[{index}] is {item}, expected 0 to {len(items) - 1}",
                field=f"items[{index}]",
                reason="OUT_OF_RANGE",
            )
    # A default of "as many as there are" is settled once all are scanned; too many can be told now.
    others = len(items) - (1 if request.items else 0)
    parameters.count(others)
    spaces = [value, PIXELS] if parameters.pixel_space else [value]
    surveyor.check(survey, spaces)
    widths = [survey.width(space) for space in spaces]
    surveyor.budget.check(
        sum(indexes.memory(len(items), width, approximate=parameters.approximate).kept for width in widths)
        + search_memory(len(items), max(widths), count, parameters),
        TECHNIQUE,
    )
    pictures = [to_picture(image, f"images[{index}]") for index, image in enumerate(request.images)]
    asked = _Asked(surveyor, indexes, survey, spaces, parameters, pictures, list(request.items))
    told = {**resolved(request, parameters), "layer": value, "preprocessing": survey.told()}
    graph = survey.model.graph
    ticket = Ticket(TECHNIQUE, f"models/{survey.model.name}", graph.fingerprint, told)
    return Prepared(ticket, lambda _memory: _find(asked))


def _find(asked: _Asked) -> Steps:
    survey, items = asked.survey, asked.items
    scanned = yield from asked.surveyor.scan(survey, asked.spaces)
    usable = [index for index, key in enumerate(scanned.digests) if key is not None]
    there = set(usable)
    for number, item in enumerate(items):
        if item not in there:
            raise InvalidInput(
                f"item {item} ({survey.source.items[item].name!r}) can't be decoded, expected another",
                field=f"items[{number}]",
                reason="BROKEN_ITEM",
            )
    width = max(scanned.tables[space].width for space in asked.spaces)
    queries = len(asked.pictures) + len(items)
    bytes_needed = search_memory(len(usable), width, queries, asked.parameters)
    with asked.surveyor.budget.lent(bytes_needed, TECHNIQUE):
        return (yield from _answer(asked, scanned, usable))


def _answer(asked: _Asked, scanned: ScanResult, usable: Sequence[int]) -> Steps:
    survey, parameters, items = asked.survey, asked.parameters, asked.items
    places = {item: place for place, item in enumerate(usable)}
    k = parameters.count(len(usable) - (1 if items else 0))
    drawn = ItemPictures(survey.source)
    queries = [_Query(picture, None) for picture in asked.pictures]
    queries += [_Query(drawn.picture(item), item) for item in items]
    exclude = [None if query.item is None else places[query.item] for query in queries]
    own = yield from _query_features(asked, scanned, queries)
    response = activation_pb2.FindNeighborsResponse(recall=1.0)
    found: dict[str, Found] = {}
    for space in asked.spaces:
        keys = [key for key in scanned.digests if key is not None]
        pixels = space == PIXELS
        index = yield from asked.indexes.get(
            scanned.tables[space],
            keys,
            Metric.L2 if pixels else parameters.metric,
            approximate=parameters.approximate and not pixels,
            scale=1 / 255 if pixels else 1.0,
        )
        if isinstance(index, ApproximateIndex):
            response.recall = index.recall
        found[space] = yield from index.search(own[space], k, exclude)
    for row in range(len(queries)):
        result = response.results.add()
        for space, neighbors in found.items():
            listed = result.pixel_neighbors if space == PIXELS else result.neighbors
            for place, distance in zip(neighbors.positions[row], neighbors.distances[row], strict=True):
                item = survey.source.items[usable[place]]
                one = listed.add(
                    item=item.index, item_name=item.name, label=item.label, distance=float(distance)
                )
                if parameters.thumbnail_size:
                    small = drawn.thumbnail(item.index, parameters.thumbnail_size)
                    one.thumbnail.CopyFrom(to_image(small))
            yield None
    response.picture.CopyFrom(to_image(_sheet(survey, usable, queries, found, drawn)))
    return response


def _query_features(
    asked: _Asked, scanned: ScanResult, queries: Sequence[_Query]
) -> Generator[Step | None, None, dict[str, NDArray[Any]]]:
    """By space, queries x numbers. An item's are those that are stored."""
    spaces = asked.spaces
    found: dict[str, list[NDArray[Any]]] = {space: [] for space in spaces}
    for query in queries:
        key = None if query.item is None else scanned.digests[query.item]
        if key is not None:
            features = {space: scanned.tables[space].gather([key]) for space in spaces}
        else:
            features = asked.surveyor.features(asked.survey, spaces, [query.picture])
        for space in spaces:
            found[space].append(features[space])
        yield None
    return {space: np.concatenate(parts) for space, parts in found.items()}


def _sheet(
    survey: Survey,
    usable: Sequence[int],
    queries: Sequence[_Query],
    found: dict[str, Found],
    drawn: ItemPictures,
) -> Image.Image:
    rows, captions, titles = [], [], []
    for row, query in enumerate(queries[:SHEET_QUERIES]):
        for space, neighbors in found.items():
            near = [usable[place] for place in neighbors.positions[row][:SHEET_NEIGHBORS]]
            names = [survey.source.items[item].label for item in near]
            rows.append([query.picture, *(drawn.thumbnail(item, SHEET_SIDE) for item in near)])
            captions.append(
                ["query"]
                + [
                    f"{name} {distance:.3g}".strip()
                    for name, distance in zip(names, neighbors.distances[row], strict=False)
                ]
            )
            titles.append("pixels" if space == PIXELS else "features")
    return tiles.sheet(rows, SHEET_SIDE, captions, titles if len(found) > 1 else ())

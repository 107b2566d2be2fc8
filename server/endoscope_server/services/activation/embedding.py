"""EmbedFeatures."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from endoscope.v1 import activation_pb2
from endoscope_server.datasets import Item, ScanResult
from endoscope_server.errors import InvalidInput, LimitExceeded
from endoscope_server.images.scatter import Scatter
from endoscope_server.services.activation.prepared import Prepared
from endoscope_server.services.parameters import resolved, to_parameters
from endoscope_server.services.pictures import ItemPictures
from endoscope_server.services.provenance import as_text, provenance
from endoscope_server.services.scanning import Survey, Surveyor
from endoscope_server.services.streaming import Ticket, preview_every
from endoscope_server.services.tensors import to_image, to_picture, to_tensor
from endoscope_server.techniques.embedding import (
    Embedding,
    EmbeddingMethod,
    EmbeddingParameters,
    check_count,
    embed_features,
    embedding_memory,
    umap,
)
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step, retold

TECHNIQUE = "embed_features"
MAX_NUMBERS = 2**29
"""Features that are embedded at once: 2 GiB of 32-bit numbers."""
MAX_PROJECTED = 1000
PREVIEW_SIZE = (600, 500)
_NUMBER_BYTES = 4


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked for, checked."""

    surveyor: Surveyor
    survey: Survey
    value: str
    parameters: EmbeddingParameters
    pictures: Sequence[Image.Image]
    ticket: Ticket


def prepare(surveyor: Surveyor, request: activation_pb2.EmbedFeaturesRequest) -> Prepared:
    """Checks a request."""
    parameters = to_parameters(request, EmbeddingParameters, preview_every=preview_every(request.options))
    if parameters.method is EmbeddingMethod.UMAP:
        umap.check_installed()
    if request.images and parameters.method is not EmbeddingMethod.PCA:
        raise InvalidInput(
            f"{parameters.method.value} can't place further pictures, expected none, or pca", field="images"
        )
    if len(request.images) > MAX_PROJECTED:
        raise InvalidInput(
            f"there are {len(request.images)} pictures, expected at most {MAX_PROJECTED}", field="images"
        )
    survey = surveyor.survey(request)
    value = survey.value(request.layer, "layer")
    count = len(survey.source.items)
    check_count(parameters, count)
    surveyor.check(survey, [value])
    labelled = any(item.label for item in survey.source.items)
    bytes_needed = embedding_memory(parameters, count, survey.width(value), _NUMBER_BYTES, labelled)
    surveyor.budget.check(bytes_needed, TECHNIQUE)
    pictures = [to_picture(image, f"images[{index}]") for index, image in enumerate(request.images)]
    graph = survey.model.graph
    settled = parameters.settled(count)
    told = {**resolved(request, settled), "layer": value, "preprocessing": survey.told()}
    ticket = Ticket(TECHNIQUE, f"models/{survey.model.name}", graph.fingerprint, told, parameters.seed)
    asked = _Asked(surveyor, survey, value, parameters, pictures, ticket)
    return Prepared(ticket, lambda memory: _embed(asked, memory))


def _embed(asked: _Asked, memory: Memory) -> Generator[Step | None, None, activation_pb2.Embedding]:
    surveyor, survey = asked.surveyor, asked.survey
    # Whoever goes on finds the features on disk, and has told of that before.
    told = _nothing if memory.used else _as_it_is
    scanned = yield from retold(surveyor.scan(survey, [asked.value]), told)
    usable = [item for item, key in zip(survey.source.items, scanned.digests, strict=True) if key is not None]
    labelled = any(item.label for item in usable)
    table = scanned.tables[asked.value]
    if len(usable) * table.width > MAX_NUMBERS:
        raise LimitExceeded(
            f"{len(usable)} pictures of {table.width} numbers are too many, expected at most {MAX_NUMBERS} "
            "numbers in all",
            field="layer",
            reason="TOO_MANY_NUMBERS",
        )
    check_count(asked.parameters, len(usable))
    bytes_needed = embedding_memory(asked.parameters, len(usable), table.width, _NUMBER_BYTES, labelled)
    with surveyor.budget.lent(bytes_needed, TECHNIQUE):
        return (yield from _lay_out(asked, memory, scanned, usable))


def _lay_out(
    asked: _Asked, memory: Memory, scanned: ScanResult, usable: Sequence[Item]
) -> Generator[Step | None, None, activation_pb2.Embedding]:
    survey, ticket, value = asked.survey, asked.ticket, asked.value
    labels = [item.label for item in usable]
    table = scanned.tables[value]
    parameters = asked.parameters.settled(len(usable))
    used = dict(ticket.parameters)
    if parameters.perplexity is not None:
        used["perplexity"] = parameters.perplexity
    features: NDArray[Any] = table.gather([key for key in scanned.digests if key is not None])
    further = None
    if asked.pictures:
        parts = []
        for picture in asked.pictures:
            parts.append(asked.surveyor.features(survey, [value], [picture])[value])
            yield None
        further = np.concatenate(parts)
    small: list[Scatter] = []

    def draw(layout: NDArray[Any]) -> Image.Image:
        if not small:
            small.append(Scatter(labels, layout.shape[1], size=PREVIEW_SIZE, legend=False))
        return small[0].draw(layout)

    found = yield from embed_features(features, labels, parameters, draw, further, memory)
    yield None
    message = _answer(found)
    message.item_names.extend(item.name for item in usable)
    message.labels.extend(labels if any(labels) else [])
    message.provenance.CopyFrom(
        provenance(TECHNIQUE, ticket.model, ticket.fingerprint, used, parameters.seed, "cpu")
    )
    drawn = ItemPictures(survey.source)
    plot = Scatter(labels, parameters.dimensions, _axes(found))
    picture = plot.draw(
        found.coordinates,
        (lambda place: drawn.thumbnail(usable[place].index, 64)) if parameters.thumbnails else None,
    )
    message.picture.CopyFrom(to_image(picture, text=as_text(message.provenance)))
    return message


def _axes(found: Embedding) -> list[str]:
    """Components have a meaning and are named; the axes of other layouts have none."""
    if found.components is None:
        return []
    return [
        f"component {number} ({100 * share:.1f}% of the variance)"
        for number, share in enumerate(found.components.explained[:3], 1)
    ]


def _answer(found: Embedding) -> activation_pb2.Embedding:
    message = activation_pb2.Embedding(
        coordinates=to_tensor(found.coordinates), trustworthiness=found.quality.trustworthiness
    )
    if found.components is not None:
        message.explained_variance_ratio.extend(found.components.explained.tolist())
        message.components.CopyFrom(to_tensor(found.components.directions.astype(np.float32)))
        message.mean.CopyFrom(to_tensor(found.components.mean.astype(np.float32)))
    if found.projected is not None:
        message.projected.CopyFrom(to_tensor(found.projected))
    if found.divergence is not None:
        message.kl_divergence = found.divergence
    if found.quality.silhouette is not None:
        message.silhouette = found.quality.silhouette
    if found.quality.purity is not None:
        message.knn_purity = found.quality.purity
    return message


def _as_it_is(step: Step) -> Step | None:
    return step


def _nothing(_step: Step) -> None:
    return None

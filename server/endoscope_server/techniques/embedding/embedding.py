"""Embedding a dataset's features: the parameters, and which method does what."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from endoscope_server.errors import InvalidInput
from endoscope_server.techniques.embedding import tsne, umap
from endoscope_server.techniques.embedding.pca import Components, principal_components
from endoscope_server.techniques.embedding.quality import Quality, measure
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step, preview_due

DEFAULT_PERPLEXITY = 30.0

Draw = Callable[[NDArray[Any]], Image.Image]
"""Draws a layout, small, for a preview."""


class EmbeddingMethod(enum.Enum):
    """How features are embedded."""

    PCA = "pca"
    TSNE = "tsne"
    UMAP = "umap"


@dataclass(frozen=True, slots=True)
class EmbeddingParameters:
    """What is wanted of EmbedFeatures.

    Attributes:
        method: How; principal components by default.
        dimensions: 2 or 3; for principal components any number.
        perplexity: Of t-SNE, at least 1, below the number of items; None for 30, or a third of the items.
        iterations: Of t-SNE, 250 to 10000.
        seed: Of all random numbers.
        initial_components: Before t-SNE and UMAP features are reduced to so many components; 0: not at all.
        thumbnails: Whether the picture shows thumbnails.
        preview_every: Every how many steps a picture is shown; 0 for never.
    """

    method: EmbeddingMethod = EmbeddingMethod.PCA
    dimensions: int = 2
    perplexity: float | None = None
    iterations: int = 1000
    seed: int = 0
    initial_components: int = 50
    thumbnails: bool = False
    preview_every: int = 10

    def __post_init__(self) -> None:
        if self.dimensions < 1:
            raise InvalidInput(f"dimensions is {self.dimensions}, expected 1 or more", field="dimensions")
        if self.method is not EmbeddingMethod.PCA and self.dimensions not in (2, 3):
            raise InvalidInput(
                f"dimensions is {self.dimensions}, expected 2 or 3 for {self.method.value}",
                field="dimensions",
            )
        if self.perplexity is not None and not 1 <= self.perplexity < np.inf:
            raise InvalidInput(
                f"perplexity is {self.perplexity}, expected a number from 1 on", field="perplexity"
            )
        if not tsne.EXPLORATION <= self.iterations <= 10_000:
            raise InvalidInput(
                f"iterations is {self.iterations}, expected {tsne.EXPLORATION} to 10000", field="iterations"
            )
        if not 0 <= self.seed < 2**32:
            raise InvalidInput(f"seed is {self.seed}, expected 0 to {2**32 - 1}", field="seed")
        if self.initial_components < 0:
            raise InvalidInput(
                f"initial_components is {self.initial_components}, expected 0 or more",
                field="initial_components",
            )

    def settled(self, count: int) -> EmbeddingParameters:
        """With the perplexity that ``count`` items get by default, if none was given."""
        if self.method is not EmbeddingMethod.TSNE or self.perplexity is not None:
            return self
        return dataclasses.replace(self, perplexity=min(DEFAULT_PERPLEXITY, max(1.0, count / 3)))


@dataclass(frozen=True, slots=True)
class Embedding:
    """Features in few dimensions.

    Attributes:
        coordinates: items x dimensions.
        components: Of principal components.
        divergence: The Kullback-Leibler divergence at the end, of t-SNE.
        quality: How much of the truth is left.
        projected: Coordinates of further features, of principal components.
    """

    coordinates: NDArray[np.float32]
    components: Components | None
    divergence: float | None
    quality: Quality
    projected: NDArray[np.float32] | None


def check_count(parameters: EmbeddingParameters, count: int) -> None:
    """Whether so many items can be embedded.

    Raises:
        InvalidInput: if not.
    """
    fewest = 2 if parameters.method is EmbeddingMethod.PCA else 4
    if count < fewest:
        raise InvalidInput(
            f"the dataset has {count} usable pictures, expected at least {fewest} for "
            f"{parameters.method.value}",
            field="dataset",
            reason="TOO_FEW_ITEMS",
        )
    if parameters.perplexity is not None and parameters.perplexity >= count:
        raise InvalidInput(
            f"perplexity is {parameters.perplexity:g}, expected less than the {count} usable pictures",
            field="perplexity",
            reason="TOO_FEW_ITEMS",
        )


def embed_features(
    features: NDArray[Any],
    labels: Sequence[str],
    parameters: EmbeddingParameters,
    draw: Draw,
    further: NDArray[Any] | None = None,
    memory: Memory | None = None,
) -> Generator[Step | None, None, Embedding]:
    """Embed features.

    Args:
        features: items x numbers.
        labels: One an item; may be empty.
        parameters: What is wanted.
        draw: Draws previews.
        further: Features to be projected too, with principal components only.
        memory: To go on from, after any iteration of t-SNE; None to begin.

    Raises:
        InvalidInput: for too few items or features, or features that are not finite.
    """
    check_count(parameters, len(features))
    broken = np.flatnonzero(~np.isfinite(features).all(1))
    if len(broken):
        raise InvalidInput(
            f"the layer's numbers are not finite for {len(broken)} pictures, expected another layer",
            field="layer",
            reason="NOT_FINITE",
        )
    components, divergence, projected = None, None, None
    if parameters.method is EmbeddingMethod.PCA:
        most = min(features.shape)
        if parameters.dimensions > most:
            raise InvalidInput(
                f"dimensions is {parameters.dimensions}, expected at most {most} for {features.shape[0]} "
                f"pictures of {features.shape[1]} numbers",
                field="dimensions",
            )
        yield Step(1, 0, stage="principal components")
        components = principal_components(features, parameters.dimensions, parameters.seed)
        coordinates = components.project(features).astype(np.float32)
        projected = None if further is None else components.project(further).astype(np.float32)
        yield None
    else:
        yield None
        reduced = _reduced(features, parameters)
        yield None
        if parameters.method is EmbeddingMethod.TSNE:
            coordinates, divergence = yield from _tsne(reduced, parameters, draw, memory or Memory())
        else:
            yield Step(1, 0, stage="UMAP")
            coordinates = yield from umap.layout(reduced, parameters.dimensions, parameters.seed)
    quality = yield from measure(features, coordinates, labels, parameters.seed)
    return Embedding(coordinates, components, divergence, quality, projected)


def _reduced(features: NDArray[Any], parameters: EmbeddingParameters) -> NDArray[np.float32]:
    count = min(parameters.initial_components, *features.shape)
    if 0 < count < features.shape[1]:
        features = principal_components(features, count, parameters.seed).project(features)
    return np.ascontiguousarray(features, np.float32)


def _tsne(
    features: NDArray[np.float32], parameters: EmbeddingParameters, draw: Draw, memory: Memory
) -> Generator[Step | None, None, tuple[NDArray[np.float32], float]]:
    count = len(features)
    perplexity = parameters.settled(count).perplexity or DEFAULT_PERPLEXITY
    start = np.zeros((count, parameters.dimensions), np.float32)
    given = min(parameters.dimensions, *features.shape)
    start[:, :given] = principal_components(features, given, parameters.seed).project(features)
    spread = float(start[:, 0].std())
    if spread > 0:
        start *= np.float32(1e-4 / spread)
    else:
        start = np.random.default_rng(parameters.seed).normal(0, 1e-4, start.shape).astype(np.float32)
    at = memory.variables("embedding", index=0, divergence=float("nan"), layout=start)
    total = parameters.iterations
    for found in tsne.layouts(features, start, perplexity, total, memory):
        if found is None:
            yield None
            continue
        at.index += 1
        at.layout, at.divergence, gradient = found
        images = None
        if preview_due(at.index, total, parameters.preview_every):
            images = np.asarray(draw(at.layout), np.float32).transpose(2, 0, 1)[None] / np.float32(255)
        stage = "early exaggeration" if at.index <= tsne.EXPLORATION else "t-SNE"
        losses = {"kl_divergence": at.divergence, "gradient_norm": gradient}
        yield Step(at.index, total, losses, images, f"{stage}: iteration {at.index} of {total}")
    return at.layout.copy(), at.divergence

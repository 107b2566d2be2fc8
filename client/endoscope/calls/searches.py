"""ActivationService over datasets: neighbours, embeddings, activating patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from endoscope.calls.call import Streaming, Unary
from endoscope.calls.options import Encoding, Pictures, PreprocessingLike, job_options
from endoscope.messages import decode, encode
from endoscope.results.searches import ActivatingPatches, Embedding, Neighbors
from endoscope.v1 import activation_pb2, activation_pb2_grpc

_STUB = activation_pb2_grpc.ActivationServiceStub

Selections: TypeAlias = str | Sequence[str] | Mapping[str, Sequence[int]]
"""Layers, each with all of its channels, or channels by layer."""


def find_neighbors(
    model: str,
    dataset: str,
    images: Pictures | None = None,
    *,
    items: int | Sequence[int] = (),
    layer: str | None = None,
    k: int | None = None,
    metric: Literal["l2", "cosine"] = "l2",
    pixel_space: bool = False,
    approximate: bool = False,
    thumbnail_size: int | None = None,
    preprocessing: PreprocessingLike | None = None,
) -> Unary[Neighbors]:
    """The pictures of a dataset that are nearest in a layer's features.

    Args:
        model: ``models/{model}``, or the last part alone.
        dataset: ``datasets/{dataset}``, or the last part alone.
        images: Pictures whose neighbours are wanted. Required unless ``items`` is given.
        items: Items of the dataset whose neighbours are wanted, by index.
        layer: Default: the one before the logits.
        k: How many neighbours, 1 to 1000, at most as many as there are. Default: 10.
        metric: Euclidean distance, or one minus the cosine of the angle.
        pixel_space: True: the neighbours in the space of pixels too.
        approximate: True: an approximate index may be used on a large dataset.
        thumbnail_size: In pixels, 0 to 512; 0: none. Default: 96.
        preprocessing: Overrides the model's own, field by field.
    """
    request = encode(
        activation_pb2.FindNeighborsRequest,
        model=model,
        dataset=dataset,
        images=images,
        items=items,
        layer=layer,
        k=k,
        metric=metric,
        pixel_space=pixel_space,
        approximate=approximate,
        thumbnail_size=thumbnail_size,
        preprocessing=preprocessing,
    )
    return Unary(_STUB, "FindNeighbors", request, lambda response: decode(response, Neighbors))


def embed_features(
    model: str,
    dataset: str,
    *,
    layer: str | None = None,
    method: Literal["pca", "tsne", "umap"] = "pca",
    dimensions: int | None = None,
    perplexity: float | None = None,
    iterations: int | None = None,
    seed: int = 0,
    initial_components: int | None = None,
    images: Pictures | None = None,
    thumbnails: bool = False,
    preprocessing: PreprocessingLike | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[Embedding]:
    """A dataset's features in two or three dimensions.

    Args:
        model: ``models/{model}``, or the last part alone.
        dataset: ``datasets/{dataset}``, or the last part alone.
        layer: Default: the one before the logits.
        method: Principal components, t-SNE (van der Maaten and Hinton 2008) or UMAP (McInnes et al. 2018).
        dimensions: 2 or 3; PCA up to the number of features. Default: 2.
        perplexity: Of t-SNE, at least 1, below the number of items. Default: 30, or a third of the items.
        iterations: Of t-SNE, 250 to 10000. Default: 1000.
        seed: Seed, 0 or more.
        initial_components: What t-SNE and UMAP start from; 0: all features. Default: 50.
        images: Further pictures to be projected (PCA only).
        thumbnails: True: the picture shows thumbnails, not dots.
        preprocessing: Overrides the model's own, field by field.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never.
        priority: Batch jobs advance when no interactive one does.
    """
    request = encode(
        activation_pb2.EmbedFeaturesRequest,
        model=model,
        dataset=dataset,
        layer=layer,
        method=method,
        dimensions=dimensions,
        perplexity=perplexity,
        iterations=iterations,
        seed=seed,
        initial_components=initial_components,
        images=images,
        thumbnails=thumbnails,
        preprocessing=preprocessing,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(_STUB, "EmbedFeatures", request, Embedding)


def find_activating_patches(
    model: str,
    dataset: str,
    selections: Selections,
    *,
    k: int | None = None,
    patch_size: int | None = None,
    omit_patches: bool = False,
    image_format: Encoding | None = None,
    preprocessing: PreprocessingLike | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[ActivatingPatches]:
    """For channels, the patches of a dataset that activate them most.

    Args:
        model: ``models/{model}``, or the last part alone.
        dataset: ``datasets/{dataset}``, or the last part alone.
        selections: Layers (each with all of its channels), or channels by layer.
        k: Patches for each channel, 1 to 100. Default: 9.
        patch_size: Side of a patch on the contact sheet, in pixels, 16 to 512. Default: 96.
        omit_patches: True: the pictures of the patches are left out; where they are is told all the same.
        image_format: Of the patches and the sheet. Default: PNG.
        preprocessing: Overrides the model's own, field by field.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never.
        priority: Batch jobs advance when no interactive one does.
    """
    request = encode(
        activation_pb2.FindActivatingPatchesRequest,
        model=model,
        dataset=dataset,
        selections=_selections(selections),
        k=k,
        patch_size=patch_size,
        omit_patches=omit_patches,
        image_format=image_format,
        preprocessing=preprocessing,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(_STUB, "FindActivatingPatches", request, ActivatingPatches)


def _selections(selections: Selections) -> list[dict[str, Any]]:
    if isinstance(selections, Mapping):
        return [{"layer": layer, "channels": channels} for layer, channels in selections.items()]
    layers = [selections] if isinstance(selections, str) else selections
    return [{"layer": layer} for layer in layers]

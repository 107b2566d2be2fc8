"""Layouts against scikit-learn's own, their measures against their definitions, a network's digits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from sklearn import manifold, metrics
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from endoscope_server.errors import InvalidInput
from endoscope_server.graph import Graph, Sessions
from endoscope_server.images.scatter import Scatter
from endoscope_server.techniques.embedding import (
    Embedding,
    EmbeddingMethod,
    EmbeddingParameters,
    embed_features,
    tsne,
    umap,
)
from endoscope_server.techniques.embedding.pca import principal_components
from endoscope_server.techniques.embedding.quality import measure, trustworthiness
from endoscope_server.techniques.parts.steps import Step, drain
from endoscope_zoo.recipes.digits_cnn import is_held_out, pictures


def blank(layout: np.ndarray) -> Image.Image:
    return Image.new("RGB", (8, 8))


def embed(
    features: np.ndarray, labels: list[str], further: np.ndarray | None = None, **options: Any
) -> tuple[list[Step], Embedding]:
    return drain(embed_features(features, labels, EmbeddingParameters(**options), blank, further))


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, list[str]]:
    data = load_digits()
    return data.data[:600].astype(np.float32), [str(label) for label in data.target[:600]]


@pytest.mark.parametrize("shape", [(200, 30), (40, 5000), (700, 2000)])
def test_components_are_those_of_the_singular_values(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    rank = 12
    features = generator.normal(size=(shape[0], rank)) * 0.7 ** np.arange(rank)
    features = features @ generator.normal(size=(rank, shape[1])) + generator.normal(size=shape[1])
    features += 1e-3 * generator.normal(size=shape)
    found = principal_components(features.astype(np.float32), 4, seed=0)
    centred = features - features.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found.explained, (values**2 / (values**2).sum())[:4], rtol=1e-4)
    cosine = np.abs((found.directions * directions[:4]).sum(1))
    np.testing.assert_allclose(cosine, 1, atol=1e-4)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(4), atol=1e-5)
    new = generator.normal(size=(3, shape[1]))
    np.testing.assert_allclose(
        np.abs(found.project(new)), np.abs((new - features.mean(0)) @ directions[:4].T), rtol=2e-2, atol=1e-2
    )


def test_pca_projects_new_points(digits) -> None:
    features, labels = digits
    _, found = embed(features[:500], labels[:500], features[500:], dimensions=5)
    assert found.coordinates.shape == (500, 5)
    assert found.projected is not None
    assert found.projected.shape == (100, 5)
    _, again = embed(features[:500], labels[:500], features[:7], dimensions=5)
    np.testing.assert_allclose(again.projected, found.coordinates[:7], rtol=1e-5, atol=1e-5)


def test_tsne_ends_where_scikit_learn_ends(digits) -> None:
    """The same start, the same iterations: the same layout, bit for bit, and the same divergence."""
    features, _ = digits
    # Without ties: theirs are decided by the threads.
    features = features + np.random.default_rng(1).uniform(0, 0.1, features.shape).astype(np.float32)
    start = (1e-4 * np.random.default_rng(0).normal(size=(600, 2))).astype(np.float32)
    theirs = manifold.TSNE(
        init=start.copy(), perplexity=20, max_iter=400, min_grad_norm=0, n_iter_without_progress=10**6
    )
    layout = theirs.fit_transform(features)
    found, _ = drain(tsne.layouts(features, start, 20, 400))
    assert len(found) == 400
    assert np.array_equal(found[-1][0], layout)
    # A sum in single precision; the order of theirs is the threads'.
    assert found[-1][1] == pytest.approx(theirs.kl_divergence_, rel=1e-5)
    # Also while near items are exaggerated, what is told is the divergence itself.
    assert abs(found[tsne.EXPLORATION][1] - found[tsne.EXPLORATION - 1][1]) < 0.05


def test_tsne_streams_and_repeats(digits) -> None:
    features, labels = digits
    steps, found = embed(
        features, labels, method=EmbeddingMethod.TSNE, iterations=300, preview_every=100, seed=3
    )
    assert [step.index for step in steps] == list(range(1, 301))
    assert [step.index for step in steps if step.images is not None] == [100, 200, 300]
    divergences = [step.losses["kl_divergence"] for step in steps]
    assert divergences[-1] < divergences[260] < divergences[5]
    _, again = embed(features, labels, method=EmbeddingMethod.TSNE, iterations=300, preview_every=0, seed=3)
    assert again.coordinates.tobytes() == found.coordinates.tobytes()
    assert found.divergence == divergences[-1]


@pytest.mark.parametrize("threads", [1, 3])
def test_tsne_is_the_same_whatever_threads_there_are(digits, threads: int) -> None:
    """Layouts, divergences and gradients, to the last bit."""
    features, _ = digits
    start = (1e-4 * np.random.default_rng(0).normal(size=(600, 2))).astype(np.float32)

    def told() -> list[tuple[bytes, float, float]]:
        return [
            (layout.tobytes(), divergence, gradient)
            for layout, divergence, gradient in filter(None, tsne.layouts(features, start, 20, 300))
        ]

    expected = told()
    with threadpool_limits(threads):
        assert told() == expected


def test_tsne_is_left_within_an_iteration(digits) -> None:
    features, labels = digits
    work = embed_features(features, labels, EmbeddingParameters(method=EmbeddingMethod.TSNE), blank)
    while (step := next(work)) is None or step.index < 5:
        pass
    started = time.monotonic()
    work.close()
    assert time.monotonic() - started < 3


def test_umap_computes_elsewhere_and_can_be_left(digits) -> None:
    pytest.importorskip("umap", reason="umap-learn is not installed: pip install endoscope[umap]")
    features, labels = digits
    work = umap.layout(features[:150], 2, 0)
    next(work)
    started = time.monotonic()
    work.close()
    assert time.monotonic() - started < 5
    _, found = embed(features[:300], labels[:300], method=EmbeddingMethod.UMAP, seed=4)
    assert found.coordinates.shape == (300, 2)
    assert found.quality.purity is not None
    assert found.quality.purity > 0.85
    assert found.quality.trustworthiness > 0.85


def test_measures_are_scikit_learns(digits) -> None:
    features, labels = digits
    # Digits are at equal distances now and then; a little noise tells them apart.
    features = features + np.random.default_rng(0).normal(0, 1e-2, features.shape)
    layout = principal_components(features, 2, 0).project(features)
    _, trust = drain(trustworthiness(features, layout, neighbors=7))
    assert trust == pytest.approx(manifold.trustworthiness(features, layout, n_neighbors=7), abs=1e-9)
    _, found = drain(measure(features, layout, labels, 0))
    assert found.silhouette == pytest.approx(metrics.silhouette_score(layout, labels))
    near = metrics.pairwise_distances(layout)
    np.fill_diagonal(near, np.inf)
    own = np.array(labels)
    nearest = np.argsort(near, axis=1)[:, :10]
    assert found.purity == pytest.approx((own[nearest] == own[:, None]).mean())


def test_items_without_labels_are_left_out_of_what_needs_labels(digits) -> None:
    features, labels = digits
    layout = principal_components(features, 2, 0).project(features)
    _, none = drain(measure(features, layout, [""] * 600, 0))
    assert (none.silhouette, none.purity) == (None, None)
    _, same = drain(measure(features, layout, ["a"] * 600, 0))
    assert (same.silhouette, same.purity) == (None, 1.0)
    _, half = drain(measure(features, layout, [*labels[:300], *[""] * 300], 0))
    _, alone = drain(measure(features[:300], layout[:300], labels[:300], 0))
    assert (half.silhouette, half.purity) == (alone.silhouette, alone.purity)


def test_digits_that_a_network_has_never_seen_fall_into_ten_heaps(digits_cnn_path: Path) -> None:
    graph = Graph.from_file(digits_cnn_path)
    assert graph.features in graph.values
    kept = [pair for index, pair in enumerate(pictures()) if is_held_out(index)]
    batch = np.stack(
        [
            np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC), np.float32) / 255
            for picture, _ in kept
        ]
    )[:, None]
    labels = [str(label) for _, label in kept]
    (logits,) = onnxruntime.InferenceSession(digits_cnn_path).run(None, {"input": batch})
    assert (logits.argmax(1) == np.array([label for _, label in kept])).mean() > 0.96
    features = Sessions(graph).run({"input": batch}, [graph.features])[graph.features]
    assert features.shape == (599, 64)
    _, found = embed(features, labels, method=EmbeddingMethod.TSNE)
    assert found.quality.purity is not None
    assert found.quality.purity > 0.95
    assert found.quality.trustworthiness > 0.95
    assert found.quality.silhouette is not None
    assert found.quality.silhouette > 0.5


def test_scatter_plots_show_points_in_their_colours() -> None:
    coordinates = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], float)
    plot = Scatter(["a", "b", "a", ""], 2, size=(450, 400), legend=False)
    pixels = np.asarray(plot.draw(coordinates)).reshape(-1, 3).astype(int)
    for color in ((31, 119, 180), (255, 127, 14)):
        assert (np.abs(pixels - (np.array(color) * 0.85 + 255 * 0.15)).max(1) < 4).sum() > 10
    moved = np.asarray(plot.draw(coordinates * [[-1, 3]]))
    assert moved.shape == (400, 450, 3)
    assert np.array_equal(np.asarray(plot.draw(coordinates)).reshape(-1, 3), pixels)
    small = Image.new("RGB", (20, 20), (250, 0, 250))
    for dimensions in (1, 3, 5):
        points = np.random.default_rng(0).normal(size=(30, dimensions))
        drawn = Scatter(["x", "y"] * 15, dimensions, ["one", "two", "three"], size=(600, 500)).draw(
            points, lambda _: small, 20
        )
        assert (np.asarray(drawn).reshape(-1, 3) == (250, 0, 250)).all(1).sum() > 5 * 400


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 4, "method": EmbeddingMethod.TSNE}, "dimensions"),
        ({"perplexity": 0.5}, "perplexity"),
        ({"perplexity": float("nan")}, "perplexity"),
        ({"iterations": 249}, "iterations"),
        ({"seed": -1}, "seed"),
        ({"initial_components": -1}, "initial_components"),
    ],
)
def test_bad_parameters(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        EmbeddingParameters(**options)
    assert caught.value.field == field


def test_few_or_broken_items() -> None:
    features = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    cases: list[tuple[np.ndarray, dict[str, Any], str]] = [
        (features[:1], {}, "dataset"),
        (features[:3], {"method": EmbeddingMethod.TSNE}, "dataset"),
        (features, {"method": EmbeddingMethod.TSNE, "perplexity": 12.0}, "perplexity"),
        (features, {"dimensions": 4}, "dimensions"),
        (np.where(features > 1, np.nan, features), {}, "layer"),
    ]
    for given, options, field in cases:
        with pytest.raises(InvalidInput) as caught:
            embed(given, [""] * len(given), **options)
        assert caught.value.field == field
    # Nothing varies: still an answer.
    _, flat = embed(np.ones((8, 3), np.float32), [""] * 8, method=EmbeddingMethod.TSNE, iterations=250)
    assert np.isfinite(flat.coordinates).all()

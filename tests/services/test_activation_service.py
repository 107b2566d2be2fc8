"""The methods that need activations alone, over the wire."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from endoscope.v1 import (
    activation_pb2,
    activation_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    image_pb2,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)
from endoscope_server.datasets import open_source
from endoscope_server.graph import Graph, Sessions
from endoscope_server.images.decoding import decode
from endoscope_server.images.preprocessing import Preprocessing
from endoscope_zoo.recipes.digits_cnn import is_held_out, pictures

MODEL = "models/efficientnet-lite0"
LITE0 = Preprocessing(224, 224, scale=255.0, mean=(127.0,) * 3, std=(128.0,) * 3)
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
Photo = Callable[[str], image_pb2.Image]


@pytest.fixture
def stub(data_server) -> Any:
    return activation_pb2_grpc.ActivationServiceStub(data_server.channel)


def opened(image: image_pb2.Image) -> Image.Image:
    picture = Image.open(io.BytesIO(image.encoded))
    assert picture.size == (image.width, image.height)
    return picture


def neighbors(stub, **fields: Any) -> activation_pb2.FindNeighborsResponse:
    request = activation_pb2.FindNeighborsRequest(**{"model": MODEL, "dataset": "album", **fields})
    return stub.FindNeighbors(request, timeout=120)


@pytest.fixture(scope="session")
def album_features(album: Path, lite0_path: Path) -> dict[int, np.ndarray]:
    """The pooled features of each item by ONNX Runtime alone, one at a time."""
    sessions, source = Sessions(Graph.from_file(lite0_path)), open_source(album)
    found = {}
    for item in source.items:
        if "broken" not in item.name:
            batch = LITE0.prepare(decode(source.read(item.index)))
            found[item.index] = sessions.run({"input": batch}, ["view"])["view"][0].astype(np.float64)
    return found


@pytest.mark.parametrize("metric", ["METRIC_L2", "METRIC_COSINE"])
def test_neighbors_are_the_nearest(stub, photo: Photo, album_features, metric: str) -> None:
    answer = neighbors(
        stub, images=[photo("coffee")], items=[3], k=5, metric=metric, pixel_space=True, thumbnail_size=64
    )
    sessions_query = album_features[3]
    truth = {}
    for item, features in album_features.items():
        if metric == "METRIC_L2":
            truth[item] = np.linalg.norm(features - sessions_query)
        else:
            lengths = np.linalg.norm(features) * np.linalg.norm(sessions_query)
            truth[item] = 1 - features @ sessions_query / lengths
    expected = sorted((item for item in truth if item != 3), key=lambda item: truth[item])[:5]
    of_photo, of_item = answer.results
    assert [one.item for one in of_item.neighbors] == expected
    assert [one.distance for one in of_item.neighbors] == pytest.approx(
        [truth[item] for item in expected], rel=2e-3
    )
    assert {one.label for one in of_photo.neighbors} == {"coffee"}
    assert answer.recall == 1
    assert len(of_photo.pixel_neighbors) == len(of_item.pixel_neighbors) == 5
    assert max(opened(of_item.neighbors[0].thumbnail).size) == 64
    sheet = opened(answer.picture)
    assert sheet.width > 6 * 112
    assert sheet.height > 4 * 112


def test_neighbors_in_pixels_are_those_of_small_pictures(stub, album: Path) -> None:
    answer = neighbors(stub, items=[15], k=3, pixel_space=True, thumbnail_size=0)
    source = open_source(album)
    small = {
        item.index: np.asarray(LITE0.fit(decode(source.read(item.index))).resize((64, 64), 4)) / 255
        for item in source.items
        if "broken" not in item.name
    }
    truth = {item: np.linalg.norm(pixels - small[15]) for item, pixels in small.items() if item != 15}
    expected = sorted(truth, key=lambda item: truth[item])[:3]
    found = answer.results[0].pixel_neighbors
    assert [one.item for one in found] == expected
    assert [one.distance for one in found] == pytest.approx([truth[item] for item in expected])
    assert not found[0].HasField("thumbnail")


def test_neighbors_at_a_convolution(stub, album: Path, lite0_path: Path) -> None:
    answer = neighbors(stub, items=[0], layer="_blocks.2.add", k=3)
    sessions, source = Sessions(Graph.from_file(lite0_path)), open_source(album)
    maps = {
        item.index: sessions.run({"input": LITE0.prepare(decode(source.read(item.index)))}, ["_blocks.2.add"])
        for item in source.items
        if "broken" not in item.name
    }
    truth = {
        item: float(np.linalg.norm(found["_blocks.2.add"] - maps[0]["_blocks.2.add"]))
        for item, found in maps.items()
        if item != 0
    }
    expected = sorted(truth, key=lambda item: truth[item])[:3]
    assert [one.item for one in answer.results[0].neighbors] == expected


def test_neighbors_are_a_job_too(stub, data_server) -> None:
    neighbors(stub, items=[1], k=1)
    jobs = job_service_pb2_grpc.JobServiceStub(data_server.channel)
    newest = jobs.ListJobs(job_service_pb2.ListJobsRequest(page_size=1), timeout=10).jobs[0]
    assert (newest.header.technique, newest.state) == ("find_neighbors", job_pb2.JOB_STATE_SUCCEEDED)
    assert newest.header.parameters["layer"] == "view"
    last = list(jobs.WatchJob(job_service_pb2.WatchJobRequest(name=newest.name), timeout=10))[-1]
    assert len(last.result.neighbors.results) == 1


def test_bad_searches(stub, failure, photo: Photo, album: Path) -> None:
    broken = next(item.index for item in open_source(album).items if "broken" in item.name)
    cases: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({}, (INVALID, "images")),
        ({"items": [42]}, (INVALID, "items[0]")),
        ({"items": [1, -1]}, (INVALID, "items[1]")),
        ({"items": [broken]}, (INVALID, "items[0]")),
        ({"items": [0], "k": 1001}, (INVALID, "k")),
        ({"items": [0], "k": 42}, (INVALID, "k")),
        ({"items": [0], "k": 41}, (INVALID, "k")),  # one of them is broken
        ({"items": [0], "metric": 9}, (INVALID, "metric")),
        ({"items": [0], "thumbnail_size": 513}, (INVALID, "thumbnail_size")),
        ({"items": [0], "layer": "nowhere"}, (NOT_FOUND, "layer")),
        ({"items": [0], "dataset": "nobody"}, (NOT_FOUND, "dataset")),
        ({"items": [0], "model": "nobody"}, (NOT_FOUND, "model")),
        ({"images": [image_pb2.Image(encoded=b"none")]}, (INVALID, "images[0].encoded")),
    ]
    for fields, expected in cases:
        found = failure(lambda fields=fields: neighbors(stub, **fields))
        assert found[:2] == expected, (fields, found)
    assert failure(lambda: neighbors(stub, items=[0], k=41))[3].count("40")


@pytest.fixture
def single(data_server) -> Any:
    """A dataset of one picture."""
    datasets = dataset_pb2_grpc.DatasetServiceStub(data_server.channel)
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "orange").save(buffer, "PNG")

    def messages():
        yield dataset_pb2.UploadImagesRequest(header={"dataset_id": "single"})
        yield dataset_pb2.UploadImagesRequest(
            image={"item_name": "1.png", "image": {"encoded": buffer.getvalue()}}
        )

    datasets.UploadImages(messages(), timeout=30)
    yield "single"
    datasets.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name="datasets/single"), timeout=30)


def test_one_picture_has_no_neighbor_but_is_one(stub, failure, photo: Photo, single: str) -> None:
    found = failure(lambda: neighbors(stub, dataset=single, items=[0]))
    assert found[:3] == (INVALID, "dataset", "TOO_FEW_ITEMS")
    answer = neighbors(stub, dataset=single, images=[photo("coffee")])
    assert [one.item_name for one in answer.results[0].neighbors] == ["1.png"]
    assert failure(lambda: neighbors(stub, dataset=single, images=[photo("coffee")], k=2))[:2] == (
        INVALID,
        "k",
    )


def patches(stub, **fields: Any) -> list[activation_pb2.FindActivatingPatchesResponse]:
    request = activation_pb2.FindActivatingPatchesRequest(**{"model": MODEL, "dataset": "album", **fields})
    return list(stub.FindActivatingPatches(request, timeout=120))


def test_patches_of_a_convolution_and_of_a_class(stub, data_server) -> None:
    selections = [{"layer": "_conv_stem", "channels": [3]}, {"layer": "_fc", "channels": [967, 281]}]
    events = patches(stub, selections=selections, k=4, options={"preview_every": 1})
    assert [event.WhichOneof("event") for event in (events[0], events[-1])] == ["header", "result"]
    assert events[0].header.parameters["k"] == 4
    shown = [event.step.previews for event in events[1:-1] if event.step.previews]
    assert shown
    assert shown[-1][0].width > 100
    result = events[-1].result
    stem, espresso, cat = result.channels
    assert (stem.layer, stem.channel, len(stem.patches)) == ("_conv_stem", 3, 4)
    for patch in stem.patches:
        assert opened(patch.patch).size == (patch.width, patch.height)
        # Three pixels a side, cut at the picture's end; the stem pads after its input, not before.
        assert (patch.left, patch.top) == (2 * patch.column, 2 * patch.row)
        assert (patch.width, patch.height) == (min(3, 224 - patch.left), min(3, 224 - patch.top))
    assert {patch.label for patch in espresso.patches} == {"coffee"}
    assert {patch.label for patch in cat.patches} == {"chelsea"}
    assert (cat.patches[0].row, cat.patches[0].width) == (0, 224)
    strengths = [patch.activation for patch in espresso.patches]
    assert strengths == sorted(strengths, reverse=True)
    assert "endoscope" in opened(result.contact_sheet).text
    jobs = job_service_pb2_grpc.JobServiceStub(data_server.channel)
    watched = list(jobs.WatchJob(job_service_pb2.WatchJobRequest(name=events[0].header.job), timeout=10))
    assert watched[-1].result.activating_patches == result


def test_all_channels_without_pictures(stub) -> None:
    result = patches(stub, selections=[{"layer": "_fc"}], omit_patches=True)[-1].result
    assert [row.channel for row in result.channels] == list(range(1000))
    assert not result.channels[0].patches[0].HasField("patch")
    assert len(result.channels[0].patches) == 9


def test_bad_patches(stub, failure) -> None:
    stem = {"layer": "_conv_stem"}
    cases: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({}, (INVALID, "selections")),
        ({"selections": [{}]}, (INVALID, "selections[0].layer")),
        ({"selections": [stem, {"layer": "nowhere"}]}, (NOT_FOUND, "selections[1].layer")),
        ({"selections": [{**stem, "channels": [0, 32]}]}, (INVALID, "selections[0].channels[1]")),
        ({"selections": [{"layer": "_fc"}], "k": 100}, (INVALID, "selections[0]")),
        ({"selections": [stem], "k": 101}, (INVALID, "k")),
        ({"selections": [stem], "patch_size": 5}, (INVALID, "patch_size")),
        ({"selections": [stem], "image_format": 9}, (INVALID, "image_format")),
        ({"selections": [stem], "options": {"preview_every": -1}}, (INVALID, "options.preview_every")),
        ({"selections": [stem], "preprocessing": {"std": [1]}}, (INVALID, "preprocessing.std")),
    ]
    for fields, expected in cases:
        found = failure(lambda fields=fields: patches(stub, **fields))
        assert found[:2] == expected, (fields, found)


def embed(stub, **fields: Any) -> list[activation_pb2.EmbedFeaturesResponse]:
    request = activation_pb2.EmbedFeaturesRequest(**{"model": MODEL, "dataset": "album", **fields})
    return list(stub.EmbedFeatures(request, timeout=200))


def array(tensor: Any) -> np.ndarray:
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)


@pytest.fixture(scope="module")
def digits(data_server, album: Path) -> str:
    """The digits that the network was not trained on, in a folder for each."""
    folder = album.parent / "digits"
    for index, (picture, label) in enumerate(pictures()):
        if is_held_out(index):
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            picture.save(folder / str(label) / f"{index:04d}.png")
    request = dataset_pb2.CreateDatasetRequest(dataset_id="digits", path=str(folder))
    dataset_pb2_grpc.DatasetServiceStub(data_server.channel).CreateDataset(request, timeout=30)
    return "digits"


def test_tsne_of_digits(stub, digits: str) -> None:
    events = embed(
        stub,
        model="digits-cnn",
        dataset=digits,
        method="EMBEDDING_METHOD_TSNE",
        seed=1,
        thumbnails=True,
        options={"preview_every": 250},
    )
    assert events[0].header.parameters["perplexity"] == 30
    iterations = [event.step for event in events[1:-1] if "kl_divergence" in event.step.losses]
    assert [step.total for step in iterations] == [1000] * 1000
    assert sum(bool(step.previews) for step in iterations) >= 1
    result = events[-1].result
    assert array(result.coordinates).shape == (599, 2)
    assert result.kl_divergence == iterations[-1].losses["kl_divergence"]
    assert result.knn_purity > 0.95
    assert result.trustworthiness > 0.95
    assert result.silhouette > 0.5
    assert list(result.labels)[:3] == ["0", "0", "0"]
    assert result.item_names[0].startswith("0/")
    assert opened(result.picture).width == 1350


def test_components_of_photos_and_where_another_falls(stub, photo: Photo, album_features) -> None:
    result = embed(stub, dimensions=3, images=[photo("coffee")])[-1].result
    coordinates, components = array(result.coordinates), array(result.components)
    features = np.stack([album_features[item] for item in sorted(album_features)])
    # A copy is an item of its own.
    assert coordinates.shape == (41, 3)
    assert len(features) == 41
    centred = features - features.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    assert list(result.explained_variance_ratio) == pytest.approx(
        ((values**2) / (values**2).sum())[:3].tolist(), rel=1e-3
    )
    assert np.abs((components * directions[:3]).sum(1)) == pytest.approx(np.ones(3), abs=1e-3)
    np.testing.assert_allclose(array(result.mean), features.mean(0), rtol=1e-2, atol=1e-3)
    projected = array(result.projected)[0]
    labels = np.array(result.labels)
    centres = {label: coordinates[labels == label].mean(0) for label in sorted(set(labels))}
    assert min(centres, key=lambda label: float(np.linalg.norm(centres[label] - projected))) == "coffee"
    assert not result.HasField("kl_divergence")


def test_an_embedding_stops_within_a_step(stub, data_server, digits: str) -> None:
    request = activation_pb2.EmbedFeaturesRequest(
        model="digits-cnn", dataset=digits, method="EMBEDDING_METHOD_TSNE", iterations=10_000
    )
    stream = stub.EmbedFeatures(request, timeout=120)
    job = ""
    for event in stream:
        job = job or event.header.job
        if "kl_divergence" in event.step.losses:
            break
    jobs = job_service_pb2_grpc.JobServiceStub(data_server.channel)
    jobs.CancelJob(job_service_pb2.CancelJobRequest(name=job), timeout=10)
    with pytest.raises(grpc.RpcError) as cancelled:
        list(stream)
    assert cancelled.value.code() is grpc.StatusCode.CANCELLED


def test_bad_embeddings(stub, failure, photo: Photo, single: str) -> None:
    tsne = "EMBEDDING_METHOD_TSNE"
    cases: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({"method": tsne, "perplexity": 500}, (INVALID, "perplexity")),
        ({"method": tsne, "perplexity": 41.5}, (INVALID, "perplexity")),  # 42 items, 41 usable
        ({"method": tsne, "perplexity": 0}, (INVALID, "perplexity")),
        ({"method": tsne, "iterations": 10}, (INVALID, "iterations")),
        ({"method": tsne, "dimensions": 5}, (INVALID, "dimensions")),
        ({"method": tsne, "images": [photo("coffee")]}, (INVALID, "images")),
        ({"method": 9}, (INVALID, "method")),
        ({"dimensions": 42}, (INVALID, "dimensions")),
        ({"dimensions": -1}, (INVALID, "dimensions")),
        ({"seed": -1}, (INVALID, "seed")),
        ({"layer": "nowhere"}, (NOT_FOUND, "layer")),
        ({"dataset": "nobody"}, (NOT_FOUND, "dataset")),
        ({"dataset": single}, (INVALID, "dataset")),
        ({"dataset": single, "method": tsne}, (INVALID, "dataset")),
    ]
    for fields, expected in cases:
        found = failure(lambda fields=fields: embed(stub, **fields))
        assert found[:2] == expected, (fields, found)


def test_a_dataset_without_labels(stub, data_server, photos) -> None:
    datasets = dataset_pb2_grpc.DatasetServiceStub(data_server.channel)

    def messages():
        yield dataset_pb2.UploadImagesRequest(header={"dataset_id": "plain"})
        for name, picture in photos.items():
            buffer = io.BytesIO()
            picture.resize((240, 200)).save(buffer, "PNG")
            yield dataset_pb2.UploadImagesRequest(
                image={"item_name": f"{name}.png", "image": {"encoded": buffer.getvalue()}}
            )

    datasets.UploadImages(messages(), timeout=30)
    result = embed(stub, dataset="plain")[-1].result
    assert not result.labels
    assert not result.HasField("silhouette")
    assert not result.HasField("knn_purity")
    assert array(result.coordinates).shape == (4, 2)
    near = neighbors(stub, dataset="plain", items=[0])
    assert [len(near.results[0].neighbors), near.results[0].neighbors[0].label] == [3, ""]
    datasets.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name="plain"), timeout=30)


def test_filters_over_the_wire(stub, lite0_path: Path) -> None:
    request = activation_pb2.GetFiltersRequest(model=MODEL, order="FILTER_ORDER_SIMILARITY", tile_size=30)
    answer = stub.GetFilters(request, timeout=60)
    graph = Graph.from_file(lite0_path)
    assert np.array_equal(array(answer.weights), graph.weights[answer.weights_name])
    assert (answer.layer, sorted(answer.order), answer.columns) == ("_conv_stem", list(range(32)), 6)
    picture = opened(answer.picture)
    assert (picture.mode, picture.size) == ("RGB", (6 * 31 - 1, 6 * 31 - 1))
    grey = stub.GetFilters(activation_pb2.GetFiltersRequest(model="digits-cnn"), timeout=60)
    assert (list(grey.weights.shape), opened(grey.picture).mode) == ([16, 1, 3, 3], "L")
    many = activation_pb2.GetFiltersRequest(model="digits-cnn", layer="conv2")
    answer = stub.GetFilters(many, timeout=60)
    assert (list(answer.weights.shape), answer.columns) == ([32, 16, 3, 3], 16)


def test_activations_over_the_wire(stub, photo: Photo, photos, lite0_path: Path) -> None:
    layers = ["_conv_stem", "_blocks.4.add", "_fc"]
    names = ["chelsea", "coffee", "rocket"]
    request = activation_pb2.GetActivationsRequest(
        model=MODEL,
        images=[photo(name) for name in names],
        layers=layers,
        statistics="STATISTICS_SPATIAL",
        top_k=3,
        feature_map_pictures=True,
        overlays=True,
        classify=True,
    )
    answer = stub.GetActivations(request, timeout=60)
    batch = np.concatenate([LITE0.prepare(photos[name]) for name in names])
    truth = Sessions(Graph.from_file(lite0_path)).run({"input": batch}, layers)
    for layer, found in zip(layers, answer.activations, strict=True):
        np.testing.assert_allclose(array(found.tensor), truth[layer], rtol=1e-4, atol=1e-4)
        largest = truth[layer].reshape(3, -1).max(1)
        assert [units.units[0].activation for units in found.top_units] == pytest.approx(largest, rel=1e-4)
    stem = answer.activations[0]
    np.testing.assert_allclose(
        array(stem.statistics.mean), truth["_conv_stem"].mean((2, 3)), rtol=1e-3, atol=1e-5
    )
    assert [opened(overlay).size for overlay in stem.overlays] == [(224, 224)] * 3
    assert len(stem.feature_maps) == 3
    assert not answer.activations[2].overlays
    assert answer.classifications[1].top[0].label == "espresso"
    short = activation_pb2.GetActivationsRequest(
        model=MODEL, images=[photo("coffee")], layers=["_fc"], omit_tensors=True
    )
    told = stub.GetActivations(short, timeout=60).activations[0]
    assert (list(told.tensor.shape), told.tensor.data) == ([1, 1000], b"")


def test_bad_filters(stub, failure) -> None:
    def ask(**fields: Any) -> Any:
        return stub.GetFilters(activation_pb2.GetFiltersRequest(**{"model": MODEL, **fields}), timeout=30)

    cases: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({"layer": "_fc"}, (INVALID, "layer")),
        ({"layer": "nowhere"}, (NOT_FOUND, "layer")),
        ({"tile_size": 1}, (INVALID, "tile_size")),
        ({"tile_size": 1000}, (INVALID, "tile_size")),
        ({"columns": -1}, (INVALID, "columns")),
        ({"order": 9}, (INVALID, "order")),
        ({"image_format": 9}, (INVALID, "image_format")),
        ({"model": "nobody"}, (NOT_FOUND, "model")),
    ]
    for fields, expected in cases:
        assert failure(lambda fields=fields: ask(**fields))[:2] == expected, fields

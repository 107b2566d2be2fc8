"""Datasets over the wire: made, uploaded, scanned, asked again, deleted; and bad input."""

from __future__ import annotations

import io
import shutil
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from endoscope.v1 import (
    dataset_pb2,
    dataset_pb2_grpc,
    gradient_pb2,
    gradient_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)

MODEL = "models/efficientnet-lite0"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def stub(data_server) -> Any:
    return dataset_pb2_grpc.DatasetServiceStub(data_server.channel)


def get(stub, name: str) -> dataset_pb2.Dataset:
    return stub.GetDataset(dataset_pb2.GetDatasetRequest(name=f"datasets/{name}"), timeout=30).dataset


def create(stub, name: str, path: Path | str) -> dataset_pb2.Dataset:
    request = dataset_pb2.CreateDatasetRequest(dataset_id=name, path=str(path))
    return stub.CreateDataset(request, timeout=30).dataset


def delete(stub, name: str) -> None:
    stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=f"datasets/{name}"), timeout=30)


def extract(stub, dataset: str, **fields: Any) -> list[dataset_pb2.ExtractFeaturesResponse]:
    request = dataset_pb2.ExtractFeaturesRequest(dataset=f"datasets/{dataset}", model=MODEL, **fields)
    return list(stub.ExtractFeatures(request, timeout=120))


def upload(stub, name: str, *images: dict[str, Any], header: bool = True) -> dataset_pb2.Dataset:
    def messages():
        if header:
            yield dataset_pb2.UploadImagesRequest(header={"dataset_id": name})
        for image in images:
            yield dataset_pb2.UploadImagesRequest(image=image)

    return stub.UploadImages(messages(), timeout=60).dataset


def png(color: str, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_folder_is_described(stub) -> None:
    dataset = get(stub, "album")
    assert dataset.item_count == 42
    assert list(dataset.labels) == ["astronaut", "chelsea", "coffee", "rocket"]
    assert ("notes.txt", "its name has no image's extension") in [
        (item.item_name, item.reason) for item in dataset.skipped
    ]
    assert dataset.path.endswith("album0")
    assert dataset.create_time.seconds > 1_700_000_000


def test_features_are_computed_once(stub, album: Path) -> None:
    shutil.copytree(album, album.parent / "again")
    create(stub, "again", album.parent / "again")
    events = extract(stub, "again", layers=["_conv_head", "view"])
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["header", *["step"] * (len(kinds) - 2), "result"]
    header, last, result = events[0].header, events[-2].step, events[-1].result
    assert header.technique == "extract_features"
    assert header.parameters["layers"][1] == "view"
    assert header.parameters["preprocessing"]["scale"] == 255
    assert {"images_per_second", "seconds_left", "skipped", "images_done", "images_total"} <= set(last.losses)
    assert last.losses["images_done"] == last.losses["images_total"] == 42
    assert [item.item_name for item in result.skipped] == ["chelsea/broken.jpg"]
    assert result.computed_count + result.reused_count == 41
    assert [(item.item_count, item.feature_count) for item in result.features] == [(41, 62720), (41, 1280)]
    assert result.provenance.versions["onnxruntime"]

    # The album holds the same pictures under other names: nothing is computed for it.
    result = extract(stub, "album", layers=["view"])[-1].result
    assert (result.computed_count, result.reused_count) == (0, 41)
    dataset = get(stub, "album")
    assert {(item.value, item.item_count, item.feature_count) for item in dataset.features} >= {
        ("view", 40, 1280)
    }
    assert "chelsea/broken.jpg" in [item.item_name for item in dataset.skipped]

    # What another dataset still has outlives the one that is deleted.
    delete(stub, "again")
    assert (album.parent / "again" / "coffee" / "00.jpg").is_file()
    assert extract(stub, "album", layers=["view"])[-1].result.computed_count == 0


def test_the_default_layer_is_the_one_before_the_logits(stub) -> None:
    assert extract(stub, "album")[-1].result.features[0].value == "view"


def test_a_zip_below_a_root_by_its_relative_path(stub, album: Path) -> None:
    with zipfile.ZipFile(album.parent / "photos.zip", "w") as file:
        file.write(album / "coffee" / "00.jpg", "drinks/espresso.jpg")
    dataset = create(stub, "zipped", "photos.zip")
    assert (dataset.item_count, list(dataset.labels)) == (1, ["drinks"])
    assert extract(stub, "zipped")[-1].result.features[0].item_count == 1
    delete(stub, "zipped")
    assert (album.parent / "photos.zip").is_file()


def test_uploads_grow_a_dataset_and_go_with_it(stub, data_server) -> None:
    images = [
        {"item_name": "red/1.png", "image": {"encoded": png("red")}},
        {"item_name": "2.png", "label": "blue", "image": {"encoded": png("blue")}},
        {"item_name": "broken.png", "image": {"encoded": png("green")[:40]}},
    ]
    dataset = upload(stub, "colours", *images)
    assert (dataset.item_count, list(dataset.labels), dataset.path) == (2, ["blue", "red"], "")
    assert [item.item_name for item in dataset.skipped] == ["broken.png"]
    more = {"item_name": "3.png", "label": "blue", "image": {"encoded": png("navy")}}
    assert upload(stub, "colours", more).item_count == 3
    assert extract(stub, "colours")[-1].result.computed_count == 3
    features = data_server.state / "features"
    before = sum(path.stat().st_size for path in features.rglob("*.arrow"))
    delete(stub, "colours")
    assert not (data_server.state / "datasets" / "colours").exists()
    assert sum(path.stat().st_size for path in features.rglob("*.arrow")) < before
    upload(stub, "colours", *images)
    assert extract(stub, "colours")[-1].result.computed_count == 2
    delete(stub, "colours")


def test_lists_come_in_pages(stub) -> None:
    for name in ("page-a", "page-b"):
        upload(stub, name, {"item_name": "1.png", "image": {"encoded": png("white")}})
    names, token = [], ""
    while True:
        request = dataset_pb2.ListDatasetsRequest(page_size=1, page_token=token)
        answer = stub.ListDatasets(request, timeout=30)
        assert len(answer.datasets) == 1
        names += [dataset.name for dataset in answer.datasets]
        if not (token := answer.next_page_token):
            break
    assert names == sorted(names)
    assert {"datasets/album", "datasets/page-a", "datasets/page-b"} <= set(names)


def test_a_scan_lets_others_work_and_stops_when_it_is_left(stub, data_server, album: Path) -> None:
    """A scan of 400 pictures, with a job of torch beside it that must not wait for its end."""
    many = album.parent / "many"
    for copy in range(10):
        shutil.copytree(album, many / str(copy))
        for path in (many / str(copy)).rglob("*.jpg"):
            with path.open("ab") as file:
                file.write(b"%d" % copy)
    create(stub, "many", many)
    request = dataset_pb2.ExtractFeaturesRequest(dataset="many", model=MODEL, layers=["_conv_head"])
    stream = stub.ExtractFeatures(request, timeout=120)
    job = next(iter(stream)).header.job
    gradients = gradient_pb2_grpc.GradientServiceStub(data_server.channel)
    wish = gradient_pb2.VisualizeClassRequest(model=MODEL, classes=[967], steps=3)
    finished = threading.Event()

    def visualize() -> None:
        list(gradients.VisualizeClass(wish, timeout=60))
        finished.set()

    thread = threading.Thread(target=visualize)
    thread.start()
    jobs = job_service_pb2_grpc.JobServiceStub(data_server.channel)

    def state() -> int:
        return jobs.GetJob(job_service_pb2.GetJobRequest(name=job), timeout=10).job.state

    assert finished.wait(60)
    assert state() == job_pb2.JOB_STATE_RUNNING
    thread.join()
    with pytest.raises(grpc.RpcError) as busy:
        delete(stub, "many")
    assert busy.value.code() is PRECONDITION
    stream.cancel()
    deadline = time.monotonic() + 10
    while state() == job_pb2.JOB_STATE_RUNNING and time.monotonic() < deadline:
        time.sleep(0.02)
    assert state() == job_pb2.JOB_STATE_CANCELLED
    delete(stub, "many")


def test_files_that_are_gone(stub, album: Path, failure) -> None:
    shutil.copytree(album / "coffee", album.parent / "gone")
    create(stub, "gone", album.parent / "gone")
    shutil.rmtree(album.parent / "gone")
    dataset = get(stub, "gone")
    assert (dataset.item_count, dataset.skipped[0].item_name) == (0, "gone")
    assert failure(lambda: extract(stub, "gone"))[:3] == (PRECONDITION, "dataset", "SOURCE_MISSING")
    (album.parent / "gone").mkdir()
    assert failure(lambda: extract(stub, "gone"))[:3] == (INVALID, "dataset", "EMPTY_DATASET")
    delete(stub, "gone")


def test_bad_datasets(stub, album: Path, failure) -> None:
    (album.parent / "hollow").mkdir(exist_ok=True)
    code, field, reason, sentence = failure(lambda: get(stub, "nobody"))
    assert (code, field, reason) == (NOT_FOUND, "name", "UNKNOWN_DATASET")
    assert "'album'" in sentence
    cases = {
        ("new", "/etc"): (INVALID, "path", "PATH_NOT_ALLOWED"),
        ("new", str(album.parent / ".." / "..")): (INVALID, "path", "PATH_NOT_ALLOWED"),
        ("new", str(album.parent / "hollow")): (INVALID, "path", "EMPTY_DATASET"),
        ("new", str(album.parent / "nothing")): (INVALID, "path", "PATH_MISSING"),
        ("new", str(album / "notes.txt")): (INVALID, "path", "UNKNOWN_SOURCE"),
        ("new", ""): (INVALID, "path", "INVALID_INPUT"),
        ("new", "a\0b"): (INVALID, "path", "INVALID_INPUT"),
        ("../new", str(album)): (INVALID, "dataset_id", "BAD_NAME"),
        ("album", str(album)): (grpc.StatusCode.ALREADY_EXISTS, "dataset_id", "ALREADY_EXISTS"),
    }
    for (name, path), expected in cases.items():
        assert failure(lambda name=name, path=path: create(stub, name, path))[:3] == expected, path
    assert failure(lambda: delete(stub, "nobody"))[:2] == (NOT_FOUND, "name")
    page = dataset_pb2.ListDatasetsRequest(page_size=-1)
    assert failure(lambda: stub.ListDatasets(page, timeout=10))[:2] == (INVALID, "page_size")


def test_bad_uploads(stub, failure) -> None:
    good = {"item_name": "1.png", "image": {"encoded": png("red")}}
    cases: list[tuple[str, tuple[dict[str, Any], ...], str]] = [
        ("mine", (), "image"),
        ("mine", ({**good, "item_name": "../1.png"},), "image.item_name"),
        ("mine", ({**good, "item_name": ""},), "image.item_name"),
        ("mine", ({**good, "item_name": "1.exe"},), "image.item_name"),
        ("mine", ({"item_name": "1.png"},), "image.image.encoded"),
        ("mine", ({**good, "image": {"encoded": b"rubbish"}},), "image.image.encoded"),
        ("no/good", (good,), "header.dataset_id"),
    ]
    for name, images, field in cases:
        found = failure(lambda name=name, images=images: upload(stub, name, *images))
        assert found[:2] == (INVALID, field), found
    assert failure(lambda: upload(stub, "mine", good, header=False))[:2] == (INVALID, "header")
    code, field, _, _ = failure(lambda: upload(stub, "album", good))
    assert (code, field) == (grpc.StatusCode.ALREADY_EXISTS, "header.dataset_id")
    assert failure(lambda: get(stub, "mine"))[0] is NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"layers": ["view", "nowhere"]}, (NOT_FOUND, "layers[1]", "UNKNOWN_LAYER")),
        ({"layers": ["_conv_stem.weight"]}, (INVALID, "layers[0]", "NOT_AN_ACTIVATION")),
        ({"batch_size": 5000}, (INVALID, "batch_size", "INVALID_INPUT")),
        ({"preprocessing": {"std": [0, 0, 0]}}, (INVALID, "preprocessing.std", "INVALID_INPUT")),
        ({"options": {"preview_every": -1}}, (INVALID, "options.preview_every", "INVALID_INPUT")),
    ],
)
def test_bad_scans(stub, failure, fields: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert failure(lambda: extract(stub, "album", **fields))[:3] == expected


def test_scans_of_what_is_not_there(stub, failure) -> None:
    assert failure(lambda: extract(stub, "nobody"))[:3] == (NOT_FOUND, "dataset", "UNKNOWN_DATASET")
    request = dataset_pb2.ExtractFeaturesRequest(dataset="album", model="models/nobody")
    assert failure(lambda: list(stub.ExtractFeatures(request, timeout=20)))[:2] == (NOT_FOUND, "model")


def test_items_come_in_order_with_thumbnails(stub, album) -> None:
    names, labels, token = [], set(), ""
    while True:
        request = dataset_pb2.ListItemsRequest(dataset="album", page_size=30, page_token=token)
        answer = stub.ListItems(request, timeout=30)
        for place, item in enumerate(answer.items, len(names)):
            assert item.item == place
            names.append(item.item_name)
            labels.add(item.label)
            if item.item_name == "chelsea/broken.jpg":
                assert not item.HasField("thumbnail")
                continue
            small = Image.open(io.BytesIO(item.thumbnail.encoded))
            whole = Image.open(album / item.item_name)
            assert max(small.size) == 96
            assert small.width / small.height == pytest.approx(whole.width / whole.height, rel=0.02)
        token = answer.next_page_token
        if not token:
            break
    assert len(names) == 42
    assert labels == {"chelsea", "coffee", "rocket", "astronaut"}
    two = dataset_pb2.ListItemsRequest(dataset="album", items=[41, 3], thumbnail_size=0)
    picked = stub.ListItems(two, timeout=30).items
    assert [item.item_name for item in picked] == [names[41], names[3]]
    assert not any(item.HasField("thumbnail") for item in picked)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"items": [0, 42]}, "items[1]"),
        ({"items": [-1]}, "items[0]"),
        ({"items": [0] * 1001}, "items"),
        ({"thumbnail_size": 513}, "thumbnail_size"),
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "x"}, "page_token"),
        ({"dataset": ""}, "dataset"),
    ],
)
def test_items_that_can_not_be_listed(stub, failure, fields, field) -> None:
    request = dataset_pb2.ListItemsRequest(**{"dataset": "album", **fields})
    assert failure(lambda: stub.ListItems(request, timeout=10))[:2] == (INVALID, field)

"""RunAudit over the wire, with the digits CNN."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import endoscope_zoo.recipes.digits_cnn as digits
from endoscope.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)

CHAPTERS = tuple(audit_pb2.AuditChapter.values()[1:])
SMALL: dict[str, Any] = {
    "max_items": 30,
    "max_attacked_items": 4,
    "max_classes": 2,
    "max_layers": 2,
    "epsilons": [16 / 255],
    "l2_epsilons": [1.0],
    "attack_steps": 3,
    "fooling_steps": 30,
    "inversion_steps": 10,
    "visualization_steps": 4,
    "seed": 5,
}


@pytest.fixture(scope="module")
def folder(album: Path) -> Path:
    """Thirty digits beside the album, in folders by what they are; the last in another's, as an error."""
    root = album.parent / "audited"
    held_out = [pair for index, pair in enumerate(digits.pictures()) if digits.is_held_out(index)]
    for index, (picture, true) in enumerate(held_out[:30]):
        label = true if index < 29 else (true + 1) % 10
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        picture.save(root / str(label) / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def stub(data_server, folder: Path) -> Iterator[audit_pb2_grpc.AuditServiceStub]:
    datasets = dataset_pb2_grpc.DatasetServiceStub(data_server.channel)
    datasets.CreateDataset(
        dataset_pb2.CreateDatasetRequest(dataset_id="audited", path=str(folder)), timeout=30
    )
    yield audit_pb2_grpc.AuditServiceStub(data_server.channel)
    datasets.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name="audited"), timeout=30)


def request(**fields: Any) -> audit_pb2.RunAuditRequest:
    return audit_pb2.RunAuditRequest(**{"model": "digits-cnn", "dataset": "audited", **SMALL, **fields})


@pytest.fixture(scope="module")
def responses(stub) -> list[audit_pb2.RunAuditResponse]:
    return list(stub.RunAudit(request(), timeout=120))


@pytest.fixture(scope="module")
def report(responses) -> audit_pb2.AuditReport:
    return responses[-1].result


def test_a_stream_is_a_header_then_steps_and_chapters_then_the_report(responses, report) -> None:
    kinds = [response.WhichOneof("event") for response in responses]
    assert kinds[0] == "header"
    assert kinds[-1] == "result"
    assert set(kinds[1:-1]) == {"step", "finding"}
    header = responses[0].header
    assert (header.technique, header.seed) == ("run_audit", 5)
    assert header.total_steps >= kinds.count("step")
    parameters = dict(header.parameters)
    assert (parameters["model"], parameters["dataset"]) == ("models/digits-cnn", "datasets/audited")
    assert (parameters["attack_steps"], parameters["preprocessing"]["height"]) == (3, 32)
    assert list(parameters["chapters"]) == audit_pb2.AuditChapter.keys()[1:]
    findings = [response.finding for response in responses if response.HasField("finding")]
    assert [finding.chapter for finding in findings] == list(CHAPTERS)
    assert findings == list(report.findings)


def test_a_chapter_is_sent_as_soon_as_it_is_done(responses) -> None:
    chapter = "pictures"
    done: list[str] = []
    for response in responses:
        if response.HasField("step"):
            chapter = response.step.stage.split(":")[0]
            assert chapter not in done, "a chapter came before its own last step"
        elif response.HasField("finding"):
            name = audit_pb2.AuditChapter.Name(response.finding.chapter)
            done.append(name.removeprefix("AUDIT_CHAPTER_").lower())
            if done[-1] == "fooling":
                assert chapter == "fooling", "it came behind the steps of another chapter"


def test_the_report_is_the_findings(report) -> None:
    told = json.loads(report.json)
    assert told["schema"] == "endoscope.audit/1"
    assert told["title"] == "Digits CNN"
    assert list(told["chapters"]) == [
        audit_pb2.AuditChapter.Name(chapter).removeprefix("AUDIT_CHAPTER_").lower() for chapter in CHAPTERS
    ]
    accuracy = report.findings[2].values
    assert accuracy["top1"] == told["chapters"]["accuracy"]["top1"] == told["measures"]["accuracy"]["top1"]
    assert told["provenance"]["seed"] == 5
    assert told["provenance"]["model_fingerprint"] == report.provenance.model_fingerprint
    assert report.html.startswith(b"<!DOCTYPE html>")
    for finding in report.findings:
        assert len(finding.pictures) == len(finding.captions)
        assert all(picture.encoded.startswith(b"\x89PNG") for picture in finding.pictures)


def test_the_same_request_gives_the_same_bytes(stub, report) -> None:
    named = request(model="models/digits-cnn", dataset="datasets/audited")
    again = list(stub.RunAudit(named, timeout=120))[-1].result
    assert again.json == report.json
    assert again.html == report.html


def test_another_seed_is_another_audit(stub, report) -> None:
    chapters = [audit_pb2.AUDIT_CHAPTER_IDENTITY]
    other = list(stub.RunAudit(request(seed=6, max_items=10, chapters=chapters), timeout=60))[-1].result
    assert json.loads(other.json)["provenance"]["seed"] == 6
    assert [finding.chapter for finding in other.findings] == chapters


def test_a_detached_audit_can_be_watched(stub, data_server) -> None:
    jobs = job_service_pb2_grpc.JobServiceStub(data_server.channel)
    options = job_pb2.JobOptions(detached=True, preview_every=0)
    stream = stub.RunAudit(request(options=options, chapters=CHAPTERS[:3]), timeout=60)
    name = next(stream).header.job
    stream.cancel()
    last = list(jobs.WatchJob(job_service_pb2.WatchJobRequest(name=name), timeout=60))[-1]
    assert [finding.chapter for finding in last.result.audit_report.findings] == list(CHAPTERS[:3])


def test_cancelled_within_a_step(stub, data_server) -> None:
    jobs = job_service_pb2_grpc.JobServiceStub(data_server.channel)
    stream = stub.RunAudit(request(chapters=CHAPTERS[3:4], attack_steps=1000), timeout=60)
    name = next(stream).header.job
    for response in stream:
        if response.WhichOneof("event") == "step" and response.step.stage.startswith("robustness"):
            break
    jobs.CancelJob(job_service_pb2.CancelJobRequest(name=name), timeout=10)
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"model": "nobody"}, grpc.StatusCode.NOT_FOUND, "model"),
        ({"dataset": "nothing"}, grpc.StatusCode.NOT_FOUND, "dataset"),
        ({"model": ""}, grpc.StatusCode.INVALID_ARGUMENT, "model"),
        ({"epsilons": [0.1, 0.05]}, grpc.StatusCode.INVALID_ARGUMENT, "epsilons[1]"),
        ({"l2_epsilons": [float("nan")]}, grpc.StatusCode.INVALID_ARGUMENT, "l2_epsilons[0]"),
        ({"max_searched_items": 0}, grpc.StatusCode.INVALID_ARGUMENT, "max_searched_items"),
        ({"training_dataset": "nothing"}, grpc.StatusCode.NOT_FOUND, "training_dataset"),
        ({"max_items": 0}, grpc.StatusCode.INVALID_ARGUMENT, "max_items"),
        ({"seed": -1}, grpc.StatusCode.INVALID_ARGUMENT, "seed"),
        ({"chapters": [99]}, grpc.StatusCode.INVALID_ARGUMENT, "chapters[0]"),
        ({"label_mapping": 9}, grpc.StatusCode.INVALID_ARGUMENT, "label_mapping"),
        ({"preprocessing": {"height": 64}}, grpc.StatusCode.INVALID_ARGUMENT, "preprocessing.height"),
        (
            {"options": job_pb2.JobOptions(preview_every=-1)},
            grpc.StatusCode.INVALID_ARGUMENT,
            "options.preview_every",
        ),
    ],
    ids=str,
)
def test_bad_requests(stub, failure, fields, code, field) -> None:
    found = failure(lambda: list(stub.RunAudit(request(**fields), timeout=30)))
    assert found[:2] == (code, field)


def test_neighbours_are_sought_in_another_dataset(stub, report) -> None:
    told = json.loads(report.json)
    assert told["chapters"]["errors"]["searched"]["dataset"] == "datasets/audited"
    assert "training_dataset" not in told["provenance"]["parameters"]
    audit = request(
        training_dataset="album", chapters=CHAPTERS[7:], label_mapping=audit_pb2.LABEL_MAPPING_INDEX
    )
    other = list(stub.RunAudit(request(training_dataset="album", chapters=CHAPTERS[7:]), timeout=60))[-1]
    told = json.loads(other.result.json)
    assert told["provenance"]["parameters"]["training_dataset"] == "datasets/album"
    errors = told["chapters"]["errors"]
    assert errors["searched"]["pictures"] == 42
    assert errors["searched"]["skipped"] == 1
    assert all(near["true"] is None for item in errors["shown"] for near in item["neighbors"])
    assert b"all 42 pictures of <code>datasets/album</code>" in other.result.html
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.RunAudit(audit, timeout=30))
    assert "training_dataset" in str(caught.value)


def test_labels_that_are_no_classes(stub, failure, data_server) -> None:
    audit = request(dataset="album", label_mapping=audit_pb2.LABEL_MAPPING_TEXT, chapters=CHAPTERS[:3])
    code, field, reason, words = failure(lambda: list(stub.RunAudit(audit, timeout=30)))
    assert (code, field, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "dataset", "UNMATCHED_LABELS")
    assert "'astronaut', 'chelsea'" in words
    audit.label_mapping = audit_pb2.LABEL_MAPPING_UNSPECIFIED
    result = list(stub.RunAudit(audit, timeout=60))[-1].result
    assert "no label is a class of the model" in result.findings[2].not_applicable
    assert not result.findings[1].not_applicable

"""A server that is killed, and the one that comes after it."""

from __future__ import annotations

import io
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import onnx
import pytest
from PIL import Image

import endoscope
from endoscope.v1 import (
    activation_pb2,
    activation_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    gradient_pb2,
    gradient_pb2_grpc,
    image_pb2,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)

LITE0, DIGITS = "models/efficientnet-lite0", "models/digits-cnn"
FOREVER = 100_000
OFTEN = ("--checkpoint-interval", "0")


def options(**changes: Any) -> job_pb2.JobOptions:
    return job_pb2.JobOptions(
        detached=True, preview_every=4, preview_format=image_pb2.IMAGE_FORMAT_PNG, **changes
    )


def encoded(picture: Image.Image) -> image_pb2.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return image_pb2.Image(encoded=buffer.getvalue())


def requests(photos: Mapping[str, Image.Image]) -> dict[str, Any]:
    photo = encoded(photos["chelsea"].resize((320, 224)))
    steps = gradient_pb2
    return {
        "VisualizeClass": steps.VisualizeClassRequest(
            model=LITE0,
            classes=[967],
            preset=steps.CLASS_PRESET_FOURIER,
            steps=36,
            height=96,
            width=96,
            options=options(),
        ),
        "DeepDream": steps.DeepDreamRequest(model=LITE0, image=photo, octaves=3, steps=10, options=options()),
        "InvertRepresentation": steps.InvertRepresentationRequest(
            model=LITE0,
            image=photo,
            layers=["_blocks.2.add", "_blocks.6.add"],
            steps=16,
            options=options(),
        ),
        "CreateAdversarial": steps.CreateAdversarialRequest(
            model=LITE0,
            images=[photo],
            method=steps.ATTACK_METHOD_APGD_CE,
            # Never reached, so that all steps of its one run are made.
            confidence=1e4,
            steps=36,
            options=options(),
        ),
        "CreateFoolingImage": steps.CreateFoolingImageRequest(
            model=DIGITS,
            # Some of them are not reached in so few generations.
            classes=range(5),
            method=steps.FOOLING_METHOD_CPPN,
            confidence=0.9999999,
            steps=14,
            options=options(),
        ),
    }


def read(stream: Any) -> tuple[job_pb2.JobHeader, list[job_pb2.JobStep], Any]:
    messages = list(stream)
    kinds = [message.WhichOneof("event") for message in messages]
    assert kinds == ["header", *["step"] * (len(kinds) - 2), "result"]
    return messages[0].header, [message.step for message in messages[1:-1]], messages[-1].result


def unwrapped(result: Any) -> Any:
    return getattr(result, result.WhichOneof("result")) if hasattr(result, "WhichOneof") else result


def numbers(steps: list[job_pb2.JobStep]) -> list[Any]:
    return [(step.index, step.total, dict(step.losses), step.stage) for step in steps]


def jobs_of(running: Any) -> job_service_pb2_grpc.JobServiceStub:
    return job_service_pb2_grpc.JobServiceStub(running.channel)


def job_of(running: Any, name: str) -> job_pb2.Job:
    return jobs_of(running).GetJob(job_service_pb2.GetJobRequest(name=name), timeout=30).job


def begin(running: Any, method: str, request: Any) -> str:
    stream = getattr(gradient_pb2_grpc.GradientServiceStub(running.channel), method)(request)
    name = str(next(stream).header.job)
    stream.cancel()
    return name


def watch(running: Any, name: str, after: int = 0) -> Any:
    request = job_service_pb2.WatchJobRequest(name=name, after_step=after)
    return read(jobs_of(running).WatchJob(request, timeout=200))


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(running: Any) -> None:
    running.process.kill()
    running.process.wait(10)


@pytest.fixture(scope="module")
def models(lite0_path: Path, digits_cnn_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two models alone."""
    folder = tmp_path_factory.mktemp("models")
    for path in (lite0_path, digits_cnn_path):
        for file in path.parent.glob(f"{path.stem}*"):
            shutil.copy(file, folder)
    return folder


@pytest.mark.timeout(300)
def test_jobs_go_on_after_kill_9_and_end_with_the_same_bytes(
    start_server: Any, models: Path, photos: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    wanted = requests(photos)
    whole: dict[str, Any] = {}
    with start_server(state, models, *OFTEN, "--concurrency", str(len(wanted))) as running:
        stub = gradient_pb2_grpc.GradientServiceStub(running.channel)
        for method, request in wanted.items():
            whole[method] = read(getattr(stub, method)(request, timeout=200))
        names = {}
        # It has far more turns than steps, and comes first.
        for method in sorted(wanted, key=lambda method: method != "CreateFoolingImage"):
            names[method] = begin(running, method, wanted[method])
            until(lambda: job_of(running, names["CreateFoolingImage"]).latest_step.index >= 2)
        queued = begin(running, "VisualizeClass", wanted["VisualizeClass"])
        tied = stub.VisualizeClass(
            gradient_pb2.VisualizeClassRequest(model=LITE0, classes=[1], steps=FOREVER)
        )
        tied_name = next(tied).header.job

        def midway() -> bool:
            told = {method: job_of(running, name) for method, name in names.items()}
            ended = [method for method, job in told.items() if job.state == job_pb2.JOB_STATE_SUCCEEDED]
            folders = {method: state / "jobs" / "files" / name[5:] for method, name in names.items()}
            missing = [method for method, folder in folders.items() if not any(folder.glob("checkpoint-*"))]
            assert not ended, missing
            return not missing

        until(midway)
        assert job_of(running, queued).state == job_pb2.JOB_STATE_QUEUED
        kill(running)
    with start_server(state, models, *OFTEN) as running:
        for method, name in names.items():
            header, steps, result = watch(running, name)
            assert header.job == name
            _, steps_before, result_before = whole[method]
            assert numbers(steps) == numbers(steps_before), method
            assert unwrapped(result) == result_before, method
            seen = {step.index: [image.encoded for image in step.previews] for step in steps if step.previews}
            before = {
                step.index: [image.encoded for image in step.previews]
                for step in steps_before
                if step.previews
            }
            assert seen
            assert all(before.get(index, images) == images for index, images in seen.items())
        _, steps, result = watch(running, queued, 32)
        assert [step.index for step in steps] == [33, 34, 35, 36]
        assert unwrapped(result) == whole["VisualizeClass"][2]
        # Its client may come back for a while.
        assert job_of(running, tied_name).state in (job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING)
        log = (running.state / "log").read_text()
        assert "begins anew" not in log
        assert "Traceback" not in log


def test_clients_go_on_across_the_restart_and_jobs_whose_model_changed_or_went_fail(
    start_server: Any, digits_cnn_path: Path, tmp_path: Path
) -> None:
    models, state = tmp_path / "models", tmp_path / "state"
    models.mkdir()
    state.mkdir()
    for name in ("digits-cnn", "changed", "gone"):
        shutil.copy(digits_cnn_path, models / f"{name}.onnx")
    with start_server(state, models, *OFTEN) as running:
        target = running.target
        names = {}
        for name in ("changed", "gone"):
            request = gradient_pb2.VisualizeClassRequest(
                model=f"models/{name}",
                classes=[3],
                steps=FOREVER,
                options=job_pb2.JobOptions(detached=True),
            )
            names[name] = begin(running, "VisualizeClass", request)
        client = endoscope.connect(target)
        stream = client.visualize_class("digits-cnn", 3, steps=400, preset="fourier", detached=True)
        indices = []
        for step in stream:
            indices.append(step.index)
            if step.index == 40:
                break
        until(lambda: all(job_of(running, name).latest_step.index for name in names.values()))
        kill(running)
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(step.index for step in stream))
    reader.start()
    model = onnx.load(models / "changed.onnx")
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, models / "changed.onnx")
    (models / "gone.onnx").unlink()
    with start_server(state, models, *OFTEN, "--listen", target) as running:
        reader.join(60)
        assert not reader.is_alive()
        assert indices + seen == list(range(1, 401))
        assert stream.result().pictures[0].score.class_index == 3
        until(lambda: all(job_of(running, name).state == job_pb2.JOB_STATE_FAILED for name in names.values()))
        changed, gone = (job_of(running, names[name]).error for name in ("changed", "gone"))
        assert (changed.code, changed.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION.value[0],
            "MODEL_CHANGED",
        )
        assert "fingerprint" in changed.message
        assert gone.code == grpc.StatusCode.NOT_FOUND.value[0]
        assert "gone" in gone.message
    client.close()


def test_a_full_disk_stops_neither_jobs_nor_server(start_server: Any, models: Path, tmp_path: Path) -> None:
    """No file may grow beyond 64 KiB for a while, as if the disk were full."""
    with start_server(tmp_path, models, *OFTEN) as running:
        stub = gradient_pb2_grpc.GradientServiceStub(running.channel)
        request = gradient_pb2.VisualizeClassRequest(model=DIGITS, classes=[3], steps=100, options=options())
        before = read(stub.VisualizeClass(request, timeout=60))
        _, hard = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (2**16, hard))
        # Too large for what is left of the database's log.
        long = gradient_pb2.VisualizeClassRequest(model=DIGITS, classes=[3], steps=600, options=options())
        header, steps, _ = read(stub.VisualizeClass(long, timeout=60))
        assert [step.index for step in steps] == list(range(1, 601))
        until(lambda: "can't be written" in (tmp_path / "log").read_text())
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        until(lambda: "jobs are written again" in (tmp_path / "log").read_text())
        kill(running)
    with start_server(tmp_path, models) as running:
        _, steps, _ = watch(running, header.job)
        assert [step.index for step in steps] == list(range(1, 601))
        _, steps, result = watch(running, before[0].job)
        assert numbers(steps) == numbers(before[1])
        assert unwrapped(result) == before[2]


def test_scans_and_embeddings_end_with_the_same_bytes(
    start_server: Any, models: Path, album: Path, tmp_path: Path
) -> None:
    """They find their features on disk, and go on with the layout from its last checkpoint."""
    with start_server(tmp_path, models, *OFTEN, "--datasets-root", str(album.parent)) as running:
        dataset = dataset_pb2.CreateDatasetRequest(dataset_id="album", path=str(album))
        dataset_pb2_grpc.DatasetServiceStub(running.channel).CreateDataset(dataset, timeout=30)
        stub = activation_pb2_grpc.ActivationServiceStub(running.channel)
        request = activation_pb2.EmbedFeaturesRequest(
            model=LITE0,
            dataset="datasets/album",
            method=activation_pb2.EMBEDDING_METHOD_TSNE,
            perplexity=8,
            iterations=4000,
            options=job_pb2.JobOptions(detached=True, preview_every=0),
        )
        stream = stub.EmbedFeatures(request)
        name = next(stream).header.job
        stream.cancel()
        until(lambda: any((tmp_path / "jobs" / "files" / name[5:]).glob("checkpoint-*")))
        assert job_of(running, name).state == job_pb2.JOB_STATE_RUNNING
        kill(running)
    with start_server(tmp_path, models, "--datasets-root", str(album.parent)) as running:
        _, steps, result = watch(running, name)
        assert [step.index for step in steps] == list(range(1, len(steps) + 1))
        # No iteration is told twice.
        assert sum("iteration" in step.stage for step in steps) == 4000
        stub = activation_pb2_grpc.ActivationServiceStub(running.channel)
        assert unwrapped(result) == read(stub.EmbedFeatures(request, timeout=100))[2]


def test_a_state_that_can_not_be_written_is_a_clear_error() -> None:
    command = [sys.executable, "-c", "from endoscope_server.commands import serve; serve()"]
    command += ["--listen", "127.0.0.1:0", "--state", "/proc/endoscope"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "/proc/endoscope" in done.stderr
    assert "Traceback" not in done.stderr

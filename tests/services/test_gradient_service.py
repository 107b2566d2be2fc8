"""The gradient methods, over the wire."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from endoscope.v1 import (
    gradient_pb2,
    gradient_pb2_grpc,
    image_pb2,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)
from endoscope_server.images.preprocessing import Preprocessing

MODEL = "models/efficientnet-lite0"
LITE0 = Preprocessing(224, 224, scale=255.0, mean=(127.0,) * 3, std=(128.0,) * 3)
Photo = Callable[[str], image_pb2.Image]


@pytest.fixture
def stub(server) -> gradient_pb2_grpc.GradientServiceStub:
    return gradient_pb2_grpc.GradientServiceStub(server.channel)


@pytest.fixture(scope="session")
def judge(lite0_path) -> Callable[[bytes], np.ndarray]:
    """Softmax probabilities of a file, by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(lite0_path)

    def probabilities(content: bytes) -> np.ndarray:
        (logits,) = session.run(None, {"input": LITE0.prepare(Image.open(io.BytesIO(content)))})
        powers = np.exp(logits[0] - logits[0].max())
        return powers / powers.sum()

    return probabilities


def events(stream: Any) -> tuple[job_pb2.JobHeader, list[job_pb2.JobStep], Any]:
    messages = list(stream)
    kinds = [message.WhichOneof("event") for message in messages]
    assert kinds == ["header", *["step"] * (len(kinds) - 2), "result"]
    return messages[0].header, [message.step for message in messages[1:-1]], messages[-1].result


def test_visualize_class_scores_its_classes(stub, judge) -> None:
    classes = list(range(0, 1000, 200))
    request = gradient_pb2.VisualizeClassRequest(model=MODEL, classes=classes)
    header, steps, result = events(stub.VisualizeClass(request, timeout=280))
    assert [step.index for step in steps] == list(range(1, header.total_steps + 1))
    assert all({"logit", "l2", "total"} <= set(step.losses) for step in steps)
    for wanted, picture in zip(classes, result.pictures, strict=True):
        probability = judge(picture.image.encoded)[wanted]
        assert probability > 0.99
        assert picture.score.class_index == wanted
        assert picture.score.probability == pytest.approx(probability, rel=1e-4)
        assert picture.classification.top[0].class_index == wanted


def test_same_seed_same_bytes(stub) -> None:
    def run(seed: int) -> bytes:
        request = gradient_pb2.VisualizeClassRequest(
            model=MODEL,
            classes=[967, 3],
            steps=4,
            seed=seed,
            parameterization={"fourier": {}},
            transforms={"transforms": [{"jitter": {"pixels": 8}}, {"rotate": {"degrees": 5}}]},
        )
        return events(stub.VisualizeClass(request, timeout=60))[2].SerializeToString(deterministic=True)

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_header_and_png_tell_every_parameter(stub, server) -> None:
    request = gradient_pb2.VisualizeClassRequest(
        model=MODEL, classes=[967], steps=2, regularizers={"total_variation_weight": 0.01}
    )
    header, _, result = events(stub.VisualizeClass(request, timeout=60))
    told = json_format.MessageToDict(header.parameters)
    assert told["regularizers"]["l2_weight"] == 0
    assert told["regularizers"]["total_variation_weight"] == 0.01
    assert told["optimizer"]["adam"]["learning_rate"] == 0.05
    assert told["optimizer"]["schedule"] == "SCHEDULE_CONSTANT"
    assert told["height"] == 224
    assert told["preprocessing"]["mean"] == [127] * 3
    # What the header tells is a request again.
    again = json_format.ParseDict(told, gradient_pb2.VisualizeClassRequest())
    assert list(again.classes) == [967]
    assert events(stub.VisualizeClass(again, timeout=60))[2].pictures[0].image == result.pictures[0].image
    text = Image.open(io.BytesIO(result.pictures[0].image.encoded)).text
    inside = json.loads(text["endoscope"])
    assert inside["parameters"] == told
    assert inside["model_fingerprint"] == header.model_fingerprint


def test_previews_come_when_they_are_due(stub) -> None:
    options = job_pb2.JobOptions(preview_every=2, preview_format=image_pb2.IMAGE_FORMAT_WEBP)
    request = gradient_pb2.VisualizeClassRequest(model=MODEL, classes=[1], steps=5, options=options)
    _, steps, _ = events(stub.VisualizeClass(request, timeout=60))
    shown = {step.index for step in steps if step.previews}
    assert shown <= {2, 4, 5}
    assert shown
    last = steps[-1].previews[0]
    assert Image.open(io.BytesIO(last.encoded)).format == "WEBP"


def test_dream_amplifies_the_layer(stub, photo: Photo) -> None:
    request = gradient_pb2.DeepDreamRequest(
        model=MODEL, image=photo("chelsea"), layers=[{"layer": "_blocks.6.add"}], steps=4, octaves=2
    )
    header, steps, result = events(stub.DeepDream(request, timeout=120))
    assert header.total_steps == len(steps) == 8
    picture = Image.open(io.BytesIO(result.image.encoded))
    assert picture.size == (451, 300)
    strengths = [step.losses["_blocks.6.add"] for step in steps]
    assert strengths[3] > strengths[0]
    assert strengths[7] > strengths[4]


@pytest.mark.parametrize("method", ["FGSM", "IFGSM", "PGD", "MIFGSM"])
@pytest.mark.parametrize("norm", ["LINF", "L2"])
def test_attacks_stay_within_their_bound_and_fool_the_file(stub, judge, photo: Photo, method, norm) -> None:
    epsilon = 4 / 255 if norm == "LINF" else 2.0
    request = gradient_pb2.CreateAdversarialRequest(
        model=MODEL,
        images=[photo("chelsea"), photo("coffee")],
        method=f"ATTACK_METHOD_{method}",
        norm=f"NORM_{norm}",
        epsilon=epsilon,
        steps=1 if method == "FGSM" else 10,
    )
    _, _, result = events(stub.CreateAdversarial(request, timeout=120))
    for item, true in zip(result.adversarials, (282, 967), strict=True):
        before = np.asarray(Image.open(io.BytesIO(item.original.encoded)), np.float64)
        after = np.asarray(Image.open(io.BytesIO(item.image.encoded)), np.float64)
        change = (after - before) / 255
        size = np.abs(change).max() if norm == "LINF" else np.sqrt(np.square(change).sum())
        assert 0 < size <= epsilon + 1e-6
        assert item.linf == pytest.approx(np.abs(change).max())
        assert item.l2 == pytest.approx(np.sqrt(np.square(change).sum()))
        assert item.true_class == true
        assert item.success == (judge(item.image.encoded).argmax() != true)
        assert item.success or method == "FGSM"


def test_targeted_attack_reaches_its_target(stub, judge, photo: Photo) -> None:
    request = gradient_pb2.CreateAdversarialRequest(
        model=MODEL, images=[photo("chelsea"), photo("coffee")], targets=[3], early_stop=True
    )
    header, steps, result = events(stub.CreateAdversarial(request, timeout=120))
    assert len(steps) <= header.total_steps
    for item in result.adversarials:
        assert item.success
        assert item.target == 3
        assert judge(item.image.encoded).argmax() == 3


def test_fooling_images_are_believed(stub, judge, photo: Photo) -> None:
    classes = [0, 400, 967]
    for start in (None, photo("rocket")):
        request = gradient_pb2.CreateFoolingImageRequest(model=MODEL, classes=classes, image=start)
        _, _, result = events(stub.CreateFoolingImage(request, timeout=120))
        for wanted, item in zip(classes, result.images, strict=True):
            assert item.success
            assert judge(item.image.encoded)[wanted] > 0.996


def test_feature_is_activated(stub, photo: Photo) -> None:
    objectives = [{"channel": {"layer": "_blocks.6.add", "channel": index}} for index in (0, 7)]
    request = gradient_pb2.VisualizeFeatureRequest(model=MODEL, objectives=objectives, steps=32)
    _, steps, result = events(stub.VisualizeFeature(request, timeout=120))
    negative = events(
        stub.VisualizeFeature(
            gradient_pb2.VisualizeFeatureRequest(model=MODEL, objectives=objectives, steps=32, negative=True),
            timeout=120,
        )
    )[2]
    assert steps[-1].losses["objective"] > steps[0].losses["objective"]
    for up, down in zip(result.pictures, negative.pictures, strict=True):
        assert up.value > 0 > down.value


def test_cancelling_stops_within_a_step(stub, server) -> None:
    jobs = job_service_pb2_grpc.JobServiceStub(server.channel)
    request = gradient_pb2.VisualizeClassRequest(model=MODEL, classes=[1], steps=100_000)
    stream = stub.VisualizeClass(request, timeout=120)
    header = next(stream).header
    seen = next(stream).step.index
    stream.cancel()
    deadline = time.monotonic() + 10
    while True:
        job = jobs.GetJob(job_service_pb2.GetJobRequest(name=header.job), timeout=10).job
        if job.state == job_pb2.JOB_STATE_CANCELLED:
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
    done = job.latest_step.index
    time.sleep(0.5)
    later = jobs.GetJob(job_service_pb2.GetJobRequest(name=header.job), timeout=10).job
    assert later.latest_step.index == done
    assert done < seen + 100


def test_health_answers_while_a_dream_runs(stub, server, photo: Photo) -> None:
    request = gradient_pb2.DeepDreamRequest(
        model=MODEL, image=photo("astronaut"), steps=1000, layers=[{"layer": "_blocks.10.add"}]
    )
    stream = stub.DeepDream(request, timeout=120)
    next(stream)
    seen = threading.Event()

    def read() -> None:
        with contextlib.suppress(grpc.RpcError):
            for _ in stream:
                seen.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert seen.wait(60)
    health = health_pb2_grpc.HealthStub(server.channel)
    times = []
    for _ in range(40):
        began = time.monotonic()
        health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        times.append(time.monotonic() - began)
        time.sleep(0.05)
    stream.cancel()
    reader.join(30)
    assert stream.code() is grpc.StatusCode.CANCELLED
    assert max(times) < 0.1


def test_detached_job_goes_on_and_can_be_watched(stub, server) -> None:
    jobs = job_service_pb2_grpc.JobServiceStub(server.channel)
    request = gradient_pb2.VisualizeClassRequest(
        model=MODEL, classes=[1], steps=20, options={"detached": True}
    )
    stream = stub.VisualizeClass(request, timeout=120)
    header = next(stream).header
    assert next(stream).step.index == 1
    stream.cancel()
    watch = jobs.WatchJob(job_service_pb2.WatchJobRequest(name=header.job, after_step=5), timeout=60)
    _, steps, result = events(watch)
    assert [step.index for step in steps] == list(range(6, 21))
    assert result.class_visualization.pictures[0].score.class_index == 1

"""Fooling images: they show nothing, and EfficientNet-Lite0 is sure of their files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from endoscope_server.errors import EndoscopeError
from endoscope_server.images.encoding import ImageFormat, encode, from_array
from endoscope_server.images.preprocessing import Preprocessing
from endoscope_server.techniques.fooling import (
    FoolingImages,
    FoolingMethod,
    FoolingParameters,
    create_fooling_images,
    with_defaults,
)
from endoscope_server.techniques.fooling.ascent import _log_odds as log_odds
from endoscope_server.techniques.fooling.evolution import Archive, Breeder
from endoscope_server.techniques.fooling.evolution import _log_odds as evolved_log_odds
from endoscope_server.techniques.fooling.pattern import Pattern, used
from endoscope_server.techniques.parts.steps import Step, drain
from endoscope_server.techniques.parts.subject import Subject


def fool(subject: Subject, classes: tuple[int, ...], **others: Any) -> tuple[list[Step], FoolingImages]:
    asked = FoolingParameters(classes=classes, **others)
    return drain(create_fooling_images(subject, with_defaults(asked)))


@pytest.fixture(scope="module")
def session(lite0_path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(lite0_path)


def confidence(
    session: onnxruntime.InferenceSession,
    settings: Preprocessing,
    picture: np.ndarray,
    wanted: int,
    image_format: ImageFormat = ImageFormat.PNG,
) -> float:
    """The softmax probability of a class for a file, by a bare ONNX Runtime."""
    decoded = Image.open(io.BytesIO(encode(from_array(picture), image_format)))
    (logits,) = session.run(None, {"input": settings.prepare(decoded)})
    return float(torch.from_numpy(logits[0]).double().softmax(0)[wanted])


@pytest.mark.parametrize(
    ("classes", "others"),
    [((0, 555), {}), ((506,), {"method": FoolingMethod.CPPN}), ((300,), {"image_format": ImageFormat.JPEG})],
)
def test_the_model_is_sure_of_files_that_show_nothing(
    lite0_subject: Subject,
    lite0_preprocessing: Preprocessing,
    session: onnxruntime.InferenceSession,
    classes: tuple[int, ...],
    others: Any,
) -> None:
    steps, found = fool(lite0_subject, classes, **others)
    assert found.pictures.shape == (len(classes), 3, 224, 224)
    assert found.success == (True,) * len(classes)
    image_format = others.get("image_format", ImageFormat.PNG)
    for index, wanted in enumerate(classes):
        sure = confidence(session, lite0_preprocessing, found.pictures[index], wanted, image_format)
        assert sure > 0.996
        assert found.scores[index].class_index == found.top[index][0].class_index == wanted
        assert found.scores[index].probability == pytest.approx(sure, abs=1e-5)
        assert steps[-1].losses[f"confidence[{index}]"] > 0.996
    assert steps[-1].index == len(steps) <= steps[-1].total


def test_ascent_starts_from_noise_and_stays_noise(lite0_subject: Subject) -> None:
    _, found = fool(lite0_subject, (207,))
    pixels = found.pictures[0] / 255
    # Of natural pictures neighbours correlate by more than 0.9.
    assert abs(np.corrcoef(pixels[:, :, 1:].ravel(), pixels[:, :, :-1].ravel())[0, 1]) < 0.3
    assert pixels.mean() == pytest.approx(0.5, abs=0.02)


def test_ascent_from_a_photo_stays_near_it(
    lite0_subject: Subject, lite0_pixels: dict[str, np.ndarray]
) -> None:
    photo = lite0_pixels["coffee"]
    steps, found = fool(lite0_subject, (3,), image=photo)
    assert found.success == (True,)
    assert found.scores[0].class_index == 3
    # Adam's steps are at most about its rate, 0.01.
    assert np.abs(found.pictures[0] / 255 - photo).max() < 0.012 * len(steps) + 1 / 255


@pytest.mark.parametrize("method", list(FoolingMethod))
def test_the_same_seed_gives_the_same_pictures(lite0_subject: Subject, method: FoolingMethod) -> None:
    def pictures(seed: int) -> bytes:
        _, found = fool(lite0_subject, (7,), method=method, steps=2, seed=seed)
        return found.pictures.tobytes()

    assert pictures(3) == pictures(3)
    assert pictures(3) != pictures(4)


@pytest.mark.parametrize("method", list(FoolingMethod))
def test_failure_is_told(lite0_subject: Subject, method: FoolingMethod) -> None:
    steps, found = fool(lite0_subject, (7, 8), method=method, steps=1, confidence=0.999999, preview_every=1)
    assert found.success == (False, False)
    assert len(steps) == 1
    assert steps[0].total == 1
    assert steps[0].images is not None
    assert steps[0].images.shape == (2, 3, 224, 224)
    assert {"log_odds", "confidence[0]", "confidence[1]"} <= steps[0].losses.keys()


def test_odds_are_those_of_the_softmax() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0)) * 5
    probability = logits.double().softmax(1)
    wanted = (probability / (1 - probability)).log()
    classes = torch.tensor([[1], [5], [9], [0]])
    np.testing.assert_allclose(log_odds(logits, classes), wanted.gather(1, classes)[:, 0], rtol=1e-4)
    found = evolved_log_odds(logits.numpy(), np.arange(10))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


# Evolution's parts


def test_any_genome_may_win_any_niche() -> None:
    archive = Archive(2, (1, 3), (1, 2, 2))
    genomes = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    pictures = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    fields = pictures.astype(np.float32)
    archive.offer(genomes, fields, pictures, np.array([[1.0, -5.0], [0.5, -2.0]]))
    assert archive.genomes.tolist() == genomes.tolist()
    archive.offer(genomes, fields, pictures, np.array([[0.0, -1.0], [0.0, -3.0]]))
    assert archive.log_odds.tolist() == [1.0, -1.0]
    assert archive.genomes.tolist() == [genomes[0].tolist()] * 2
    assert archive.pictures[1].tolist() == pictures[0].tolist()
    assert archive.fields[1].tolist() == fields[0].tolist()


def test_nodes_are_added_until_there_is_no_room() -> None:
    breeder, genome = Breeder(0), np.zeros((8, 11), np.float32)
    for _ in range(100):
        slot, node = breeder.breed(genome)
        # A mutation changes a node that is there, or adds one behind them.
        assert slot <= used(genome).sum()
        genome[slot] = node
    assert used(genome).all()


def test_nodes_become_smaller_while_mutations_fail() -> None:
    def size(successes: float) -> float:
        breeder = Breeder(0)
        for trial in range(1000):
            breeder.learn(trial % 10 < 10 * successes)
        new = [breeder.breed(np.zeros((4, 11), np.float32))[1][2] for _ in range(100)]
        assert np.mean(new) == pytest.approx(breeder.size, abs=0.5)
        return breeder.size

    assert size(0) == -5
    assert size(0.1) == -5
    assert size(0.2) == pytest.approx(0, abs=0.2)
    assert size(1) == 0


@pytest.mark.parametrize("shape", [(3, 32, 48), (1, 28, 28)])
def test_patterns_are_functions_of_place(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    pattern = Pattern(*shape, nodes=6)
    genome = np.zeros(pattern.genome_shape, np.float32)
    genome[:4] = np.random.default_rng(0).normal(size=(4, pattern.genome_shape[1]))
    assert used(genome).tolist() == [True] * 4 + [False] * 2
    field = pattern.field(genome)
    assert field.shape == shape
    picture = pattern.paint(field)
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture / 255, 1 / (1 + np.exp(-field.astype(np.float64))), atol=0.503 / 255)
    # A node that is taken away leaves no trace.
    pattern.add(field, genome[3], -1.0)
    np.testing.assert_allclose(field, pattern.field(genome[:3]), atol=1e-5)
    # Painted twice as large it is the same pattern.
    large = Pattern(channels, 2 * height, 2 * width, nodes=6).field(genome[:3])
    smaller = large.reshape(channels, height, 2, width, 2).mean((2, 4))
    assert np.corrcoef(smaller.ravel(), field.ravel())[0, 1] > 0.95


def test_a_node_outside_the_picture_changes_nothing() -> None:
    pattern = Pattern(3, 16, 16, nodes=1)
    node = np.array([50, 0, 0, 0, 0, 1, 1, 0, 1, 1, 1], np.float32)
    assert not pattern.field(node[None]).any()


# Bad requests


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"classes": ()}, "classes"),
        ({"classes": (1,) * 65}, "classes"),
        ({"classes": (0, 1000)}, "classes[1]"),
        ({"classes": (-1,)}, "classes[0]"),
        ({"confidence": 0.0}, "confidence"),
        ({"confidence": 1.0}, "confidence"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"method": FoolingMethod.CPPN, "image": np.zeros((3, 224, 224), np.float32)}, "image"),
    ],
)
def test_bad_parameters_are_named(lite0_subject: Subject, fields: Any, field: str) -> None:
    with pytest.raises(EndoscopeError) as caught:
        fool(lite0_subject, **{"classes": (0,), **fields})
    assert caught.value.field == field

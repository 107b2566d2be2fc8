"""Attacks on a linear model, where the best perturbation is known, and on EfficientNet-Lite0."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import scipy.optimize
import sklearn.datasets
import torch
from onnx import numpy_helper, parser
from PIL import Image

from endoscope_server.errors import InvalidInput, PreconditionFailed
from endoscope_server.graph import Graph, Sessions
from endoscope_server.images.encoding import ImageFormat, encode, from_array
from endoscope_server.images.preprocessing import Preprocessing
from endoscope_server.mirror import from_onnx
from endoscope_server.techniques.adversarial import (
    AdversarialParameters,
    Adversarials,
    Method,
    Norm,
    create_adversarial,
    total_steps,
    with_defaults,
)
from endoscope_server.techniques.adversarial.attack import Settings
from endoscope_server.techniques.adversarial.parameters import ATTACKS
from endoscope_server.techniques.adversarial.problem import Problem
from endoscope_server.techniques.adversarial.rounding import snap
from endoscope_server.techniques.parts.steps import Step, drain
from endoscope_server.techniques.parts.subject import Subject

Judge = Callable[[np.ndarray], np.ndarray]


def attack(subject: Subject, images: Any, method: Method, **others: Any) -> tuple[list[Step], Adversarials]:
    asked = AdversarialParameters(images=tuple(images), method=method, **others)
    return drain(create_adversarial(subject, with_defaults(subject, asked)))


@pytest.fixture(scope="module")
def pictures(
    lite0_pixels: dict[str, np.ndarray], lite0_preprocessing: Preprocessing
) -> tuple[np.ndarray, ...]:
    """All photos at hand: chelsea, coffee, rocket, astronaut, china, flower."""
    more = [
        lite0_preprocessing.pixels(Image.fromarray(sklearn.datasets.load_sample_image(name)))
        for name in ("china.jpg", "flower.jpg")
    ]
    return (*lite0_pixels.values(), *more)


@pytest.fixture(scope="module")
def judge(lite0_path: Path, lite0_preprocessing: Preprocessing) -> Judge:
    """Logits of an 8-bit picture that went through a PNG, by a bare ONNX Runtime."""
    session = onnxruntime.InferenceSession(lite0_path)

    def logits(picture: np.ndarray) -> np.ndarray:
        decoded = Image.open(io.BytesIO(encode(from_array(picture))))
        return session.run(None, {"input": lite0_preprocessing.prepare(decoded)})[0][0]

    return logits


def check(found: Adversarials, judge: Judge) -> None:
    """What is told of each picture is what its file does."""
    for row, item in enumerate(found.items):
        change = (found.pictures[row].astype(np.float64) - found.originals[row]) / 255
        assert item.linf == pytest.approx(np.abs(change).max())
        assert item.l2 == pytest.approx(np.sqrt(np.square(change).sum()))
        assert item.l0 == (change != 0).any(0).sum()
        seen = int(judge(found.pictures[row]).argmax())
        assert item.success == (seen != item.true_class if item.target is None else seen == item.target)
        assert item.after[0].class_index == seen


# What attacks are made of


@pytest.mark.parametrize("norm", list(Norm))
def test_smallest_way_to_a_hyperplane_is_scipys(norm: Norm) -> None:
    generator = np.random.default_rng(0)
    for rise in (0.3, -0.4, 0.9):
        image, weights = generator.uniform(size=6), generator.normal(size=6)
        moved = norm.to_hyperplane(
            torch.tensor(image).view(1, 1, 2, 3),
            torch.tensor(weights).view(1, 1, 2, 3),
            torch.tensor([rise], dtype=torch.float64),
        )
        found = moved.numpy().ravel()
        assert weights @ found == pytest.approx(rise, abs=1e-6)
        assert (image + found > -1e-9).all()
        assert (image + found < 1 + 1e-9).all()
        if norm is Norm.LINF:
            # Variables: the perturbation and its size.
            bound = np.block([[np.eye(6), -np.ones((6, 1))], [-np.eye(6), -np.ones((6, 1))]])
            box = [*zip(-image, 1 - image, strict=True), (0, None)]
            best = scipy.optimize.linprog(
                [0] * 6 + [1], bound, np.zeros(12), [[*weights, 0]], [rise], box
            ).fun
            assert np.abs(found).max() == pytest.approx(best, abs=1e-6)
        else:
            best = scipy.optimize.minimize(
                lambda change: change @ change,
                np.zeros(6),
                bounds=list(zip(-image, 1 - image, strict=True)),
                constraints={"type": "eq", "fun": lambda change, w=weights, r=rise: w @ change - r},
                method="SLSQP",
            )
            assert found @ found == pytest.approx(best.fun, rel=1e-4)


@pytest.mark.parametrize("size", [0.01, 0.3, 3.0])
def test_rounding_keeps_the_length_in_l2(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    originals = torch.randint(0, 256, (3, 3, 64, 64), generator=generator) / 255
    change = torch.randn(originals.shape, generator=generator)
    images = (originals + size * change / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
    wanted = (images - originals).flatten(1).norm(dim=1)
    for epsilon in (math.inf, size / 2):
        snapped = snap(originals, images, Norm.L2, epsilon)
        levels = snapped * 255
        assert (levels - levels.round()).abs().max() < 1e-3
        length = (snapped - originals).flatten(1).norm(dim=1)
        limit = wanted.clamp(max=epsilon)
        assert (length <= limit + 1e-5).all()
        assert (length >= limit - 1 / 255).all()
        assert ((snapped - originals) * change >= -1e-6).all()


# A linear model: the best perturbation is known


@pytest.fixture(scope="module")
def linear() -> Subject:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 3, 8, 8] x) => (float[n, 5] y) { f = Flatten(x) y = Gemm<transB=1>(f, w) }
    """
    model = parser.parse_model(text)
    weights = np.random.default_rng(1).normal(size=(5, 192)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    graph = Graph.from_proto(model)
    settings = Preprocessing(8, 8)
    return Subject(graph, from_onnx(graph), Sessions(graph).run, "x", settings, torch.device("cpu"))


@pytest.fixture(scope="module")
def greys() -> np.ndarray:
    """Pictures far from black and white."""
    return np.random.default_rng(2).integers(110, 146, (6, 3, 8, 8)).astype(np.float32) / 255


def distances(subject: Subject, images: np.ndarray, order: float) -> np.ndarray:
    weights = np.asarray(subject.graph.weights["w"], np.float64)
    logits = images.reshape(len(images), -1).astype(np.float64) @ weights.T
    found = []
    for row in logits:
        true = row.argmax()
        gaps = [
            (row[true] - row[other]) / np.linalg.norm(weights[true] - weights[other], order)
            for other in range(5)
            if other != true
        ]
        found.append(min(gaps))
    return np.asarray(found)


def problem_of(subject: Subject, images: np.ndarray, norm: Norm, epsilon: float) -> Problem:
    originals = torch.from_numpy(images)
    with torch.no_grad():
        true = subject.logits(originals).argmax(1)
    return Problem(subject, originals, true, None, norm, epsilon, rounded=False)


@pytest.mark.parametrize(
    ("method", "norm", "steps", "slack"),
    [
        (Method.DEEPFOOL, Norm.L2, 50, 1.03),
        (Method.DEEPFOOL, Norm.LINF, 50, 1.03),
        (Method.FAB, Norm.L2, 50, 1.03),
        (Method.FAB, Norm.LINF, 50, 1.03),
        (Method.CARLINI_WAGNER, Norm.L2, 900, 1.1),
    ],
)
def test_minimal_attacks_find_the_distance_to_the_boundary(
    linear: Subject, greys: np.ndarray, method: Method, norm: Norm, steps: int, slack: float
) -> None:
    exact = distances(linear, greys, 1 if norm is Norm.LINF else 2)
    asked_steps, found = attack(linear, greys, method, norm=norm, steps=steps)
    sizes = np.asarray([asked_steps[-1].losses[f"size[{index}]"] for index in range(len(greys))])
    assert (sizes >= exact * 0.999).all()
    assert (sizes <= exact * slack + 1e-3).all()
    assert all(item.success for item in found.items)


@pytest.mark.parametrize("method", [Method.PGD, Method.APGD_CE, Method.APGD_DLR, Method.MIFGSM, Method.FGSM])
@pytest.mark.parametrize("norm", list(Norm))
def test_bounded_attacks_find_every_picture_within_their_bound(
    linear: Subject, greys: np.ndarray, method: Method, norm: Norm
) -> None:
    """Below the distance none can be fooled, above it all can."""
    exact = distances(linear, greys, 1 if norm is Norm.LINF else 2)
    for factor in (0.9, 1.25):
        epsilon = float(np.median(exact)) * factor
        problem = problem_of(linear, greys, norm, epsilon)
        settings = Settings(40, 0.0, False, torch.Generator().manual_seed(0))
        margin = torch.full((len(greys),), -torch.inf)
        for progress in ATTACKS[method].run(problem, settings):
            change = progress.images - problem.originals
            assert (norm.size(change) <= epsilon * (1 + 1e-4)).all()
            margin = torch.maximum(margin, progress.margin)
        fooled = problem.fooled(margin).numpy()
        assert not fooled[exact > epsilon].any()
        if method is not Method.FGSM:
            assert fooled[exact < epsilon * 0.98].all()


@pytest.mark.parametrize("norm", list(Norm))
def test_square_needs_no_gradient(
    linear: Subject, greys: np.ndarray, norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any, **_others: Any) -> None:
        raise AssertionError("a gradient was asked for")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    epsilon = 2.5 * float(distances(linear, greys, 1 if norm is Norm.LINF else 2).max())
    steps, found = attack(
        linear, greys, Method.SQUARE, norm=norm, epsilon=epsilon, steps=600, early_stop=True
    )
    margins = np.asarray([[step.losses[f"margin[{index}]"] for index in range(6)] for step in steps])
    assert (np.diff(margins, axis=0) >= 0).all()
    assert sum(item.success for item in found.items) >= 5
    for row in range(6):
        size = np.linalg.norm(
            (found.pictures[row] / 255.0 - found.originals[row] / 255.0).ravel(),
            np.inf if norm is Norm.LINF else 2,
        )
        assert size <= epsilon + 1e-6


def test_too_few_classes_for_the_ratio_of_logits(linear: Subject) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 3, 8, 8] x) => (float[n, 3] y) { f = Flatten(x) y = MatMul(f, w) }
    """
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((192, 3), np.float32), "w"))
    graph = Graph.from_proto(model)
    subject = replace(linear, graph=graph, mirror=from_onnx(graph), judge=Sessions(graph).run)
    asked = AdversarialParameters(images=(np.zeros((3, 8, 8), np.float32),), method=Method.APGD_DLR)
    with pytest.raises(PreconditionFailed, match="4"):
        with_defaults(subject, asked)


# EfficientNet-Lite0


def test_pgd_fools_every_photo_at_4(lite0_subject: Subject, pictures: Any, judge: Judge) -> None:
    steps, found = attack(lite0_subject, pictures, Method.PGD, epsilon=4 / 255)
    check(found, judge)
    assert len(steps) == 40
    assert [item.success for item in found.items] == [True] * 6
    assert max(item.linf for item in found.items) <= 4 / 255 + 1e-9


@pytest.mark.parametrize(
    ("method", "others"),
    [
        (Method.APGD_CE, {"steps": 6}),
        (Method.APGD_CE, {"steps": 8, "norm": Norm.L2, "epsilon": 1.0}),
        (Method.APGD_DLR, {"steps": 8}),
        (Method.APGD_TARGETED, {"steps": 8, "restarts": 2, "early_stop": True}),
        (Method.DEEPFOOL, {}),
        (Method.DEEPFOOL, {"norm": Norm.LINF}),
        (Method.FAB, {"steps": 8}),
        (Method.FAB, {"steps": 8, "norm": Norm.L2}),
        (Method.CARLINI_WAGNER, {"steps": 60}),
        (Method.SQUARE, {"steps": 150, "epsilon": 8 / 255, "early_stop": True}),
    ],
)
def test_each_attack_fools_files(
    lite0_subject: Subject, pictures: Any, judge: Judge, method: Method, others: Any
) -> None:
    chosen = (pictures[1], pictures[2])
    steps, found = attack(lite0_subject, chosen, method, **others)
    check(found, judge)
    assert [item.success for item in found.items] == [True] * 2
    assert {"loss", "success_rate", "margin[0]", "margin[1]", "size[0]", "size[1]"} <= steps[-1].losses.keys()
    bound = others.get("epsilon", 4 / 255 if not ATTACKS[method].minimal else 2.0)
    for item in found.items:
        assert 0 < (item.l2 if others.get("norm") is Norm.L2 else item.linf) <= bound + 1e-6
    norm = others.get("norm", ATTACKS[method].norms[0])
    if ATTACKS[method].minimal and method is not Method.CARLINI_WAGNER:
        assert max(item.l2 for item in found.items) < (0.6 if norm is Norm.L2 else 2)


@pytest.mark.parametrize(
    ("method", "others"),
    [
        (Method.APGD_DLR, {"steps": 40, "early_stop": True}),
        (Method.DEEPFOOL, {}),
        (Method.FAB, {"steps": 25, "norm": Norm.L2}),
        (Method.CARLINI_WAGNER, {"steps": 180, "early_stop": True}),
    ],
)
def test_targets_are_reached(
    lite0_subject: Subject, pictures: Any, judge: Judge, method: Method, others: Any
) -> None:
    _, found = attack(lite0_subject, pictures[1:2], method, targets=(3,), **others)
    check(found, judge)
    assert found.items[0].success
    assert found.items[0].after[0].class_index == 3


def test_pictures_stop_by_themselves(lite0_subject: Subject, pictures: Any) -> None:
    steps, found = attack(
        lite0_subject, pictures[:2], Method.IFGSM, epsilon=2 / 255, steps=30, early_stop=True
    )
    margins = np.asarray([[step.losses[f"margin[{index}]"] for index in range(2)] for step in steps])
    assert len(steps) < 30
    for column in margins.T:
        done = int(np.argmax(column > 0))
        assert (column[done:] == column[done]).all()
    assert all(item.success for item in found.items)


def test_confidence_is_a_margin(lite0_subject: Subject, pictures: Any, judge: Judge) -> None:
    _, found = attack(
        lite0_subject, pictures[1:2], Method.CARLINI_WAGNER, steps=60, confidence=3.0, early_stop=True
    )
    logits = judge(found.pictures[0])
    assert np.sort(logits)[-1] - logits[found.items[0].true_class] >= 2.99


def test_same_seed_same_pictures(lite0_subject: Subject, pictures: Any) -> None:
    def pixels(seed: int, method: Method) -> bytes:
        return attack(lite0_subject, pictures[1:2], method, steps=3, seed=seed)[1].pictures.tobytes()

    for method in (Method.PGD, Method.SQUARE):
        assert pixels(1, method) == pixels(1, method)
        assert pixels(1, method) != pixels(2, method)


def test_jpegs_are_judged_as_they_are_decoded(lite0_subject: Subject, pictures: Any) -> None:
    _, found = attack(
        lite0_subject, pictures[1:2], Method.PGD, steps=20, epsilon=8 / 255, image_format=ImageFormat.JPEG
    )
    decoded = Image.open(io.BytesIO(encode(from_array(found.pictures[0]), ImageFormat.JPEG)))
    logits = lite0_subject.judged_logits(np.asarray(decoded).transpose(2, 0, 1)[None])
    assert found.items[0].after[0].class_index == logits.argmax()
    change = np.asarray(decoded, np.float64).transpose(2, 0, 1) - found.originals[0]
    assert found.items[0].linf == pytest.approx(np.abs(change).max() / 255)


def test_a_picture_that_is_wrong_already_stays_as_it_is(lite0_subject: Subject, pictures: Any) -> None:
    for method in (Method.DEEPFOOL, Method.FAB):
        steps, found = attack(lite0_subject, pictures[1:2], method, true_classes=(3,))
        assert not steps
        assert found.items[0].success
        assert found.items[0].l0 == 0


def test_steps_are_bounded_and_pictures_magnified(lite0_subject: Subject, pictures: Any) -> None:
    asked = AdversarialParameters(
        images=tuple(pictures[:2]), steps=2, restarts=2, epsilon=0.1 / 255, preview_every=1
    )
    asked = with_defaults(lite0_subject, asked)
    steps, found = drain(create_adversarial(lite0_subject, asked))
    # A tenth of a level is nothing in 8 bits.
    assert [step.index for step in steps] == list(range(1, total_steps(asked) + 1))
    assert steps[-1].stage == "restart 2 of 2"
    assert steps[-1].images.shape == (2, 3, 224, 224)
    assert not any(item.success or item.l0 for item in found.items)
    assert (found.differences == 128).all()


def test_bad_requests_name_the_field(lite0_subject: Subject, pictures: Any) -> None:
    def refused(**bad: Any) -> str:
        with pytest.raises(InvalidInput) as caught:
            with_defaults(lite0_subject, AdversarialParameters(**{"images": tuple(pictures[:2]), **bad}))
        return caught.value.field

    assert refused(images=()) == "images"
    assert refused(targets=(1, 2, 3)) == "targets"
    assert refused(targets=(1000,)) == "targets[0]"
    assert refused(targets=(1, 967)) == "targets[1]"
    assert refused(true_classes=(1,)) == "true_classes"
    assert refused(method=Method.CARLINI_WAGNER, norm=Norm.LINF) == "norm"
    for name, value in (
        ("epsilon", 0.0),
        ("steps", 0),
        ("step_size", -1.0),
        ("restarts", 101),
        ("confidence", math.nan),
    ):
        assert refused(**{name: value}) == name

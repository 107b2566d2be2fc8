"""Work that was left after a step and taken up later ends with the same bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from endoscope_server.techniques import (
    adversarial,
    attribution,
    deep_dream,
    embedding,
    fooling,
    inversion,
)
from endoscope_server.techniques.class_visualization import (
    PRESETS,
    ClassVisualizationParameters,
    visualize_class,
)
from endoscope_server.techniques.feature_visualization import (
    FeatureVisualizationParameters,
    bind,
    visualize_feature,
)
from endoscope_server.techniques.parts.memory import Memory, from_bytes, to_bytes
from endoscope_server.techniques.parts.objectives import ChannelObjective
from endoscope_server.techniques.parts.optimizers import Lbfgs, Momentum
from endoscope_server.techniques.parts.regularizers import Regularizers
from endoscope_server.techniques.parts.steps import Step
from endoscope_server.techniques.parts.subject import Subject
from tests.techniques.stepping import run

Work = Generator[Step | None, None, Any]
Begin = Callable[[Subject, Memory], Work]


@pytest.fixture
def subject(digits_subject: Subject) -> Subject:
    return digits_subject


def picture(subject: Subject) -> np.ndarray:
    rows, columns = subject.size
    ramp = np.linspace(0.1, 0.9, rows * columns, dtype=np.float32).reshape(1, rows, columns)
    return np.rint(ramp * 255).astype(np.float32) / np.float32(255)


def class_of(preset: str, **changes: Any) -> Begin:
    parameters = ClassVisualizationParameters(
        classes=(1, 7), height=40, width=36, preview_every=3, **{**PRESETS[preset], "steps": 9, **changes}
    )
    return lambda subject, memory: visualize_class(subject, parameters, memory)


def feature(subject: Subject, memory: Memory) -> Work:
    layer = subject.graph.layers[0].alias
    parameters = FeatureVisualizationParameters(
        objectives=(ChannelObjective(layer, 0), ChannelObjective(layer, 1)),
        height=40,
        width=40,
        steps=8,
        redirected_relu_steps=4,
        diversity_weight=0.5,
    )
    return visualize_feature(subject, parameters, bind(subject, parameters), memory)


def dream(**changes: Any) -> Begin:
    def begin(subject: Subject, memory: Memory) -> Work:
        image = np.random.default_rng(0).random((1, 50, 60), np.float32)
        layer = deep_dream.LayerWeight(subject.graph.layers[0].alias)
        parameters = deep_dream.DeepDreamParameters(
            image=image, layers=(layer,), steps=3, octaves=3, preview_every=2, **changes
        )
        return deep_dream.deep_dream(subject, deep_dream.with_defaults(subject, parameters), memory)

    return begin


def invert(subject: Subject, memory: Memory) -> Work:
    layers = tuple(layer.alias for layer in subject.graph.layers[:2])
    parameters = inversion.InversionParameters(image=picture(subject), layers=layers, steps=5)
    return inversion.invert_representation(subject, inversion.with_defaults(subject, parameters), memory)


def attack(method: str, **changes: Any) -> Begin:
    def begin(subject: Subject, memory: Memory) -> Work:
        parameters = adversarial.AdversarialParameters(
            images=(picture(subject), picture(subject)[:, ::-1].copy()),
            method=adversarial.Method(method),
            **{"steps": 4, "epsilon": 0.02, "restarts": 3, **changes},
        )
        return adversarial.create_adversarial(subject, adversarial.with_defaults(subject, parameters), memory)

    return begin


def fool(method: str, **changes: Any) -> Begin:
    def begin(subject: Subject, memory: Memory) -> Work:
        parameters = fooling.FoolingParameters(
            classes=(2, 5), method=fooling.FoolingMethod(method), confidence=0.999999, **changes
        )
        return fooling.create_fooling_images(subject, fooling.with_defaults(parameters), memory)

    return begin


def attribute(subject: Subject, memory: Memory) -> Work:
    parameters = attribution.AttributionParameters(
        image=picture(subject),
        methods=(attribution.Method.SMOOTHGRAD, attribution.Method.OCCLUSION, attribution.Method.GRADIENT),
        samples=20,
        window=8,
        stride=8,
    )
    return attribution.attribute(subject, attribution.with_defaults(subject, parameters), memory)


def embed(subject: Subject, memory: Memory) -> Work:
    features = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    parameters = embedding.EmbeddingParameters(
        method=embedding.EmbeddingMethod.TSNE, perplexity=5, iterations=260, preview_every=50
    )
    return embedding.embed_features(features, [], parameters, draw, memory=memory)


def draw(layout: np.ndarray) -> Image.Image:
    return Image.fromarray(np.abs(layout * 100).astype(np.uint8)[..., None].repeat(3, 2))


WORKS: Mapping[str, Begin] = {
    "plain": class_of("plain"),
    "fourier": class_of("fourier"),
    "maco": class_of("maco"),
    "blur": class_of("smooth", regularizers=Regularizers(l2_weight=0.01, blur_every=2), transforms=()),
    "momentum": class_of("plain", optimizer=Momentum()),
    "lbfgs": class_of("plain", optimizer=Lbfgs(evaluations=4), steps=6),
    "feature": feature,
    "dream": dream(),
    "zoom": dream(zoom=deep_dream.Zoom(frames=2)),
    "inversion": invert,
    "pgd": attack("pgd"),
    "apgd": attack("apgd_ce"),
    "carlini_wagner": attack("carlini_wagner", epsilon=None, restarts=None, steps=12),
    "apgd_targeted": attack("apgd_targeted", steps=12, early_stop=True, epsilon=0.016),
    "mifgsm": attack("mifgsm", restarts=None),
    "deepfool": attack("deepfool", epsilon=None, restarts=None, targets=(1, 2)),
    "square": attack("square"),
    "square_l2": attack("square", epsilon=0.5, norm=adversarial.Norm.L2, restarts=1),
    "fab": attack("fab", epsilon=None),
    "climb": fool("gradient", steps=8),
    "evolve": fool("cppn", steps=4),
    "attribution": attribute,
    "tsne": embed,
}


def told(step: Step) -> tuple[Any, ...]:
    images = None if step.images is None else step.images.tobytes()
    return step.index, step.total, dict(step.losses), step.stage, images


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, Image.Image):
        return one.tobytes() == other.tobytes()
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return type(one) is type(other) and all(same(getattr(one, n), getattr(other, n)) for n in names)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("name", WORKS)
def test_left_after_any_step_it_ends_the_same(subject: Subject, name: str) -> None:
    begin = WORKS[name]
    memory = Memory()
    whole, result = run(begin(subject, memory), memory, told=told)
    assert len(whole) > 3
    for stop in sorted({1, len(whole) // 2, len(whole) - 3, len(whole)}):
        memory = Memory()
        work = begin(subject, memory)
        run(work, memory, stop, told)
        saved = memory.snapshot()
        content = to_bytes(saved)
        # What it does after the snapshot must not change the snapshot.
        run(work, memory, 1, told)
        assert to_bytes(saved) == content
        work.close()
        later = Memory(from_bytes(content))
        assert later.told <= stop
        again, found = run(begin(subject, later), later, told=told)
        assert whole[len(whole) - len(again) :] == again
        assert same(found, result), f"left after {stop} of {len(whole)} steps"


def test_each_step_of_a_long_optimization_can_be_gone_on_from(subject: Subject) -> None:
    """Nothing is done twice where that could take long."""
    attacks = ("pgd", "mifgsm", "apgd", "apgd_targeted", "carlini_wagner", "deepfool", "fab", "square")
    for name in ("fourier", "dream", "inversion", "climb", "evolve", "tsne", *attacks):
        memory = Memory()
        work = WORKS[name](subject, memory)
        run(work, memory, 3, told)
        assert Memory(memory.snapshot()).told == 3


def test_a_broken_snapshot_is_an_error_and_runs_nothing() -> None:
    content = to_bytes({"told": 1, "kept": {"a": torch.ones(3)}})
    with pytest.raises(Exception):  # noqa: B017  whatever torch has for it
        from_bytes(content[:-40])

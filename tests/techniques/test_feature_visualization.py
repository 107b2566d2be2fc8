"""Pictures of features excite them more than photos do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from endoscope_server.mirror import Mirror
from endoscope_server.techniques.feature_visualization import (
    FeatureVisualization,
    FeatureVisualizationParameters,
    bind,
    measure,
    visualize_feature,
)
from endoscope_server.techniques.parts.objectives import (
    ChannelObjective,
    DirectionObjective,
    FeatureMatchObjective,
    UnitObjective,
    WeightedObjective,
    WeightedSum,
)
from endoscope_server.techniques.parts.rectifiers import redirected, woken
from endoscope_server.techniques.parts.steps import drain


def visualize(subject: Any, objectives: tuple[Any, ...], **fields: Any) -> FeatureVisualization:
    parameters = FeatureVisualizationParameters(objectives=objectives, height=224, width=224, **fields)
    work = visualize_feature(subject, parameters, bind(subject, parameters))
    return drain(work)[1]


def of_photos(subject: Any, objective: Any, pixels: dict[str, np.ndarray]) -> list[float]:
    bound = objective.bind(subject, "objective")
    pictures = np.stack([np.rint(photo * 255).astype(np.uint8) for photo in pixels.values()])
    return list(measure(subject, (bound,) * len(pictures), pictures))


def test_pictures_excite_channels_more_than_photos(lite0_subject, lite0_pixels) -> None:
    generator = np.random.default_rng(5)
    layers = ["_blocks.2.add", "_blocks.6.add", "_blocks.10.add", "_conv_head"]
    objectives = []
    for layer in layers:
        channels = lite0_subject.graph.values[lite0_subject.graph.resolve(layer)].shape[1]
        objectives.append(ChannelObjective(layer, int(generator.integers(channels))))
    found = visualize(lite0_subject, tuple(objectives), steps=48)
    for objective, value in zip(objectives, found.values, strict=True):
        assert value > max(of_photos(lite0_subject, objective, lite0_pixels)), objective


def test_negative_pictures_go_the_other_way(lite0_subject, lite0_pixels) -> None:
    objective = ChannelObjective("_blocks.6.add", 3)
    found = visualize(lite0_subject, (objective,), steps=24, negative=True)
    assert found.values[0] < min(of_photos(lite0_subject, objective, lite0_pixels))


def test_a_direction_of_one_channel_is_that_channel(lite0_subject) -> None:
    direction = np.zeros(80, np.float32)
    direction[7] = 1
    pair = (ChannelObjective("_blocks.6.add", 7), DirectionObjective("_blocks.6.add", direction))
    bound = [item.bind(lite0_subject, "objective") for item in pair]
    maps = {bound[0].values[0]: torch.randn(1, 1, 80, 14, 14)}
    assert float(bound[0].score(maps, 0)) == pytest.approx(float(bound[1].score(maps, 0)), rel=1e-5)


def test_sums_add_up_and_units_are_single_places(lite0_subject) -> None:
    unit = UnitObjective("_blocks.6.add", 2, 3, 4)
    total = WeightedSum(
        (WeightedObjective(2.0, unit), WeightedObjective(-1.0, ChannelObjective("_blocks.6.add", 5)))
    ).bind(lite0_subject, "objective")
    maps = {total.values[0]: torch.randn(1, 1, 80, 14, 14)}
    values = maps[total.values[0]][0]
    wanted = 2 * float(values[0, 2, 3, 4]) - float(values[0, 5].mean())
    assert float(total.score(maps, 0)) == pytest.approx(wanted, rel=1e-4)


def test_a_feature_match_of_the_same_picture_is_perfect(lite0_subject, lite0_pixels) -> None:
    objective = FeatureMatchObjective("_blocks.6.add", lite0_pixels["coffee"])
    values = of_photos(lite0_subject, objective, lite0_pixels)
    names = list(lite0_pixels)
    assert values[names.index("coffee")] > -1e-3
    assert max(value for name, value in zip(names, values, strict=True) if name != "coffee") < -0.1


def test_dead_units_get_gradients(lite0_subject) -> None:
    """On black no path leads through the shut rectifiers of some units: redirected ones still find it."""
    name = lite0_subject.graph.resolve("_blocks.0._swish")
    waking = redirected(lite0_subject.mirror)
    grey = torch.full((1, 3, 224, 224), 0.5, requires_grad=True)
    value = lite0_subject.values(grey, [name])[name]
    dead = [index for index in range(value.shape[1]) if not value[0, index].any()]
    assert dead
    for mirror, alive in ((lite0_subject.mirror, False), (waking, True)):
        found = lite0_subject.values(grey, [name], mirror)[name][0, dead[0]].mean()
        (gradient,) = torch.autograd.grad(-found, grey)
        assert bool(gradient.any()) is alive


def test_only_pictures_without_gradients_are_woken(lite0_subject) -> None:
    """A dead unit's picture gets the redirected gradient, its neighbour in the batch the ordinary one."""
    name = lite0_subject.graph.resolve("_blocks.0._swish")
    waking = redirected(lite0_subject.mirror)
    grey = torch.full((2, 3, 224, 224), 0.5, requires_grad=True)
    value = lite0_subject.values(grey, [name])[name]
    dead, alive = (
        next(index for index in range(value.shape[1]) if bool(value[0, index].any()) is wanted)
        for wanted in (False, True)
    )

    def terms(images: torch.Tensor, mirror: Mirror) -> dict[str, torch.Tensor]:
        found = lite0_subject.values(images, [name], mirror)[name]
        return {"objective": found[0, dead].mean() + found[1, alive].mean()}

    def gradient_of(found: dict[str, torch.Tensor]) -> torch.Tensor:
        return -torch.autograd.grad(-found["objective"], grey)[0]

    plain, woke = (gradient_of(terms(grey, mirror)) for mirror in (lite0_subject.mirror, waking))
    found = woken(
        grey, lambda images: terms(images, lite0_subject.mirror), lambda images: terms(images, waking)
    )
    assert found["objective"].item() == pytest.approx(terms(grey, lite0_subject.mirror)["objective"].item())
    gradient = gradient_of(found)
    assert not plain[0].any()
    assert gradient[0].any()
    assert torch.equal(gradient[0], woke[0])
    assert gradient[1].any()
    assert torch.equal(gradient[1], plain[1])

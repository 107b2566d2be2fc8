"""Representations turned back into pictures: early layers nearly exactly, later ones less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from endoscope_server.errors import EndoscopeError
from endoscope_server.techniques.inversion import (
    Inversion,
    InversionParameters,
    default_regularizers,
    invert_representation,
    perceptual_distance,
    with_defaults,
)
from endoscope_server.techniques.parts.steps import Step, drain
from endoscope_server.techniques.parts.subject import Subject


def invert(subject: Subject, **fields: Any) -> tuple[list[Step], Inversion]:
    parameters = with_defaults(subject, InversionParameters(**fields))
    return drain(invert_representation(subject, parameters))


@pytest.mark.parametrize("name", ["chelsea", "rocket"])
def test_the_first_layer_says_all_of_a_picture(lite0_subject, lite0_pixels, name) -> None:
    _, found = invert(lite0_subject, image=lite0_pixels[name], layers=("_conv_stem",))
    assert found.layers[0].psnr > 45
    assert found.layers[0].feature_error < 1e-4


def test_the_fourth_block_still_says_most_of_it(lite0_subject, lite0_pixels) -> None:
    _, found = invert(lite0_subject, image=lite0_pixels["coffee"], layers=("_blocks.3._project_conv",))
    assert found.layers[0].psnr > 20
    assert found.layers[0].feature_error < 0.03


def test_later_layers_say_less(lite0_subject, lite0_pixels) -> None:
    layers = ("_blocks.3._project_conv", "_conv_stem", "_conv_head")
    steps, found = invert(lite0_subject, image=lite0_pixels["chelsea"], layers=layers, steps=100)
    assert [item.layer for item in found.layers] == ["_conv_stem", "_blocks.3._project_conv", "_conv_head"]
    assert [step.index for step in steps] == list(range(1, 301))
    assert all(step.losses["feature_error"] >= 0 for step in steps)
    stem, block, head = found.layers
    assert stem.psnr > block.psnr > head.psnr
    assert stem.ssim > block.ssim > head.ssim
    assert stem.perceptual_distance < block.perceptual_distance < head.perceptual_distance


def test_what_is_reported_is_measured_on_the_file(lite0_subject, lite0_pixels) -> None:
    photo = lite0_pixels["coffee"]
    others = (lite0_pixels["rocket"], lite0_pixels["astronaut"])
    _, found = invert(
        lite0_subject, image=photo, layers=("_blocks.1._project_conv",), steps=20, references=others
    )
    (item,) = found.layers
    original, picture = found.original / np.float64(255), item.picture / np.float64(255)
    assert item.psnr == pytest.approx(-10 * np.log10(np.square(picture - original).mean()))

    def features(pixels: np.ndarray) -> np.ndarray:
        name = lite0_subject.graph.resolve("_blocks.1._project_conv")
        return lite0_subject.judged_values(np.rint(pixels * 255).astype(np.uint8)[None], [name])[name]

    def squared(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.square(a.astype(np.float64) - b).sum())

    own, wanted = features(picture), features(original)
    assert item.feature_error == pytest.approx(squared(own, wanted) / squared(wanted, 0 * wanted), rel=1e-3)
    first, second = features(others[0]), features(others[1])
    mean = (squared(wanted, first) + squared(wanted, second) + squared(first, second)) / 3
    assert item.reference_error == pytest.approx(squared(own, wanted) / mean, rel=1e-3)


def test_the_same_seed_gives_the_same_picture(lite0_subject, lite0_pixels) -> None:
    def picture(seed: int) -> bytes:
        fields = {"image": lite0_pixels["rocket"], "layers": ("_conv_stem",), "steps": 5, "seed": seed}
        return invert(lite0_subject, **fields)[1].layers[0].picture.tobytes()

    assert picture(3) == picture(3)
    assert picture(3) != picture(4)


def test_perceptual_distance_is_none_between_equals_and_grows_with_noise(lite0_subject, lite0_pixels) -> None:
    photo = np.rint(lite0_pixels["chelsea"] * 255).astype(np.uint8)[None]
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(photo.shape)
    distances = [
        perceptual_distance(lite0_subject, np.clip(photo + size * noise, 0, 255).astype(np.uint8), photo)
        for size in (0, 5, 50)
    ]
    assert distances[0] == 0
    assert 0 < distances[1] < distances[2]


def test_regularisers_grow_with_depth(lite0_subject) -> None:
    graph = lite0_subject.graph
    weights = [
        default_regularizers(graph, graph.resolve(layer)).total_variation_weight
        for layer in ("_conv_stem", "_blocks.0._project_conv", "_blocks.6.add", "_fc")
    ]
    assert weights[0] == 0
    assert weights[1] < weights[2] == weights[3]


def test_a_star_means_each_layer(lite0_subject, lite0_pixels) -> None:
    parameters = InversionParameters(image=lite0_pixels["coffee"], layers=("*",))
    layers = with_defaults(lite0_subject, parameters).layers
    assert layers[0] == "_conv_stem"
    assert layers[-1] == "_fc"
    assert len(layers) == len(lite0_subject.graph.layers)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"layers": ()}, "layers"),
        ({"layers": ("_conv_stem", "nowhere")}, "layers[1]"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"references": (np.zeros((3, 224, 224), np.float32),) * 65}, "references"),
    ],
)
def test_bad_parameters_are_named(lite0_subject, lite0_pixels, fields, field) -> None:
    with pytest.raises(EndoscopeError) as caught:
        invert(lite0_subject, **{"image": lite0_pixels["coffee"], "layers": ("_conv_stem",), **fields})
    assert caught.value.field == field


def test_a_weight_has_no_representation(lite0_subject, lite0_pixels) -> None:
    weight = next(iter(lite0_subject.graph.weights))
    with pytest.raises(EndoscopeError) as caught:
        invert(lite0_subject, image=lite0_pixels["coffee"], layers=(weight,), steps=1)
    assert caught.value.field.startswith("layers")


def test_gradients_are_those_of_the_formula(lite0_subject, lite0_pixels) -> None:
    """One plain gradient step equals the formula's own gradient, computed here."""
    layer = "_blocks.0._project_conv"
    photo = torch.from_numpy(lite0_pixels["coffee"])[None]
    wanted = lite0_subject.values(photo, [layer])[layer].detach()
    from endoscope_server.techniques.parts.optimizers import Momentum
    from endoscope_server.techniques.parts.parameterization import PixelParameterization
    from endoscope_server.techniques.parts.regularizers import Regularizers

    fields = {
        "image": lite0_pixels["coffee"],
        "layers": (layer,),
        "steps": 1,
        "optimizer": Momentum(learning_rate=1.0, momentum=0.0),
        "parameterization": PixelParameterization(deviation=0.0),
        "regularizers": Regularizers(l2_weight=0.0),
    }
    _, found = invert(lite0_subject, **fields)
    grey = torch.full_like(photo, 0.5, requires_grad=True)
    error = (lite0_subject.values(grey, [layer])[layer] - wanted).square().sum() / wanted.square().sum()
    (gradient,) = torch.autograd.grad(error, grey)
    np.testing.assert_allclose(found.layers[0].pixels, (grey - gradient).detach().clamp(0, 1)[0], atol=1e-6)

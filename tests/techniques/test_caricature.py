"""Caricatures against their formula, finite differences, and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from endoscope_server.errors import InvalidInput, NotFound
from endoscope_server.techniques.extensions.caricature import (
    CaricatureParameters,
    caricature,
    exaggeration_of,
)
from endoscope_server.techniques.parts.steps import drain
from endoscope_server.techniques.parts.subject import Subject

LAYERS = ("_blocks.5._expand_conv", "_blocks.13.add")


def test_the_measure_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    drawn = wanted + 0.5 * torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    product = float((drawn * wanted).sum())
    strength = product / float((wanted * wanted).sum())
    cosine = product / float(drawn.norm() * wanted.norm())
    assert exaggeration_of(wanted, wanted, 2.0).item() == pytest.approx(1)
    assert exaggeration_of(3 * wanted, wanted, 2.0).item() == pytest.approx(3)
    for power in (0.0, 0.5, 2.0):
        assert exaggeration_of(drawn, wanted, power).item() == pytest.approx(strength * cosine**power)
        assert torch.autograd.gradcheck(
            lambda x, power=power: exaggeration_of(x, wanted, power), drawn.clone().requires_grad_()
        )


def test_its_gradient_through_the_network_is_what_differences_say(
    lite0_subject: Subject, lite0_pixels
) -> None:
    images = torch.from_numpy(np.stack([lite0_pixels["chelsea"], lite0_pixels["coffee"]]))
    with torch.no_grad():
        wanted = lite0_subject.values(images[:1], LAYERS)[LAYERS[0]]

    def measure(image: torch.Tensor) -> torch.Tensor:
        return exaggeration_of(lite0_subject.values(image, LAYERS)[LAYERS[0]], wanted, 0.5)

    start = images[1:].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(measure(start), start)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        difference = (measure(start + 0.004 * direction) - measure(start - 0.004 * direction)) / 0.008
    assert float(difference) == pytest.approx(float(gradient.norm()), rel=0.02)


def test_it_exaggerates(lite0_subject: Subject, lite0_pixels) -> None:
    image = lite0_pixels["chelsea"]
    parameters = CaricatureParameters(
        image=image, layers=LAYERS, steps=32, learning_rate=0.1, preview_every=16
    )
    steps, result = drain(caricature(lite0_subject, parameters))
    assert [step.index for step in steps if step.images is not None] == [16, 32]
    values = {name: series.values for name, series in result.series.items()}
    for layer in LAYERS:
        assert values[layer] == tuple(step.losses[layer] for step in steps)
        assert np.mean(values[layer][-5:]) > 3 * max(values[layer][0], 0.1)
    table = result.tables["layers"]
    assert table["layer"] == LAYERS
    original = np.rint(image * 255).astype(np.uint8)
    names = [lite0_subject.graph.resolve(layer) for layer in LAYERS]
    for row, (layer, name) in enumerate(zip(LAYERS, names, strict=True)):
        pixels = np.stack([result.pictures[layer].pixels, original])
        drawn, wanted = lite0_subject.judged_values(pixels, [name])[name].astype(np.float64)
        product = float((drawn * wanted).sum())
        assert table["exaggeration"][row] == pytest.approx(product / float((wanted**2).sum()), rel=1e-4)
        cosine = product / float(np.linalg.norm(drawn) * np.linalg.norm(wanted))
        assert table["cosine"][row] == pytest.approx(cosine, rel=1e-4)
        # More than the original has, and of the same kind.
        assert table["exaggeration"][row] > 1
        assert table["cosine"][row] > 0.6


def test_defaults_and_what_is_refused(lite0_subject: Subject, lite0_pixels) -> None:
    image = lite0_pixels["chelsea"]
    completed = CaricatureParameters(image=image).completed(lite0_subject)
    order = [layer.alias for layer in lite0_subject.graph.layers]
    assert len(completed.layers) == 3
    assert [order.index(layer) for layer in completed.layers] == sorted(map(order.index, completed.layers))
    assert completed.batch(lite0_subject).pictures == 5
    with pytest.raises(NotFound) as unknown:
        CaricatureParameters(image=image, layers=(LAYERS[0], "nowhere")).completed(lite0_subject)
    assert unknown.value.field == "layers[1]"
    with pytest.raises(InvalidInput) as twice:
        CaricatureParameters(image=image, layers=(LAYERS[0], LAYERS[0])).completed(lite0_subject)
    assert twice.value.field == "layers[1]"


def test_the_power_asks_for_likeness(lite0_subject: Subject, lite0_pixels) -> None:
    found = {}
    for power in (0.0, 4.0):
        parameters = CaricatureParameters(
            image=lite0_pixels["coffee"], layers=LAYERS[1:], steps=16, cosine_power=power
        )
        found[power] = drain(caricature(lite0_subject, parameters))[1].tables["layers"]
    assert found[4.0]["cosine"][0] > found[0.0]["cosine"][0]

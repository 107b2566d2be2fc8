"""Caricatures: what layers see in a picture, exaggerated (Mahendran and Vedaldi 2016; Olah 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from endoscope_server.errors import InvalidInput
from endoscope_server.techniques.extension import (
    Batch,
    Layer,
    Memory,
    NamedPicture,
    Parameters,
    Picture,
    Result,
    Series,
    Subject,
    Work,
    technique,
)
from endoscope_server.techniques.parts.ascent import ascend
from endoscope_server.techniques.parts.maps import spatial_layers
from endoscope_server.techniques.parts.optimizers import Adam
from endoscope_server.techniques.parts.parameterization import FourierParameterization
from endoscope_server.techniques.parts.regularizers import Regularizers
from endoscope_server.techniques.parts.steps import Step, retold
from endoscope_server.techniques.parts.subject import to_8_bit
from endoscope_server.techniques.parts.transforms import LUCID, transform

MAX_LAYERS = 16
_DEPTHS = (0.3, 0.6, 0.85)
"""Where in the model the layers are that are shown by default."""
_LEAST_COSINE = 0.1
"""What the cosine is taken for where it is smaller, so that a start at right angles has a way out."""


class CaricatureParameters(Parameters):
    """What is wanted of a caricature."""

    image: Picture = Field(description="The picture that is drawn anew.")
    layers: tuple[Layer, ...] = Field(
        default=(),
        max_length=MAX_LAYERS,
        description="The layers, by ONNX name or alias; each draws a picture of its own. Empty: an early "
        "one, one in the middle, a late one.",
    )
    steps: int = Field(default=128, ge=1, le=100_000, description="How many steps are taken.")
    cosine_power: float = Field(
        default=0.5,
        ge=0,
        le=10,
        description="How much likeness counts over strength: the product with the original's activations is "
        "multiplied by their cosine to this power.",
    )
    learning_rate: float = Field(default=0.05, gt=0, le=10, description="Adam's.")
    transforms: bool = Field(
        default=True,
        description="Whether picture and original are shifted, scaled and turned together at random in each "
        "step, so that what is drawn does not hang on single pixels.",
    )

    def completed(self, subject: Subject) -> Self:
        """With the layers that are shown by default, if none were named."""
        for index, layer in enumerate(self.layers):
            subject.resolve(layer, f"layers[{index}]")
            if layer in self.layers[:index]:
                raise InvalidInput(
                    f"{layer} is asked for twice, expected each layer at most once", field=f"layers[{index}]"
                )
        if self.layers:
            return self
        there = spatial_layers(subject)
        chosen = {there[min(len(there) - 1, int(depth * len(there)))].alias for depth in _DEPTHS}
        return self.model_copy(update={"layers": tuple(item.alias for item in there if item.alias in chosen)})

    def batch(self, subject: Subject) -> Batch:  # noqa: ARG002
        """A picture a layer, and beside each the original, which keeps nothing for a backward pass."""
        return Batch(math.ceil(1.5 * len(self.layers)))


@technique("caricature", paper="Mahendran and Vedaldi 2016; Olah 2018")
def caricature(subject: Subject, parameters: CaricatureParameters, memory: Memory) -> Work:
    """Draws a picture anew from what layers see in it, exaggerated.

    From noise, a picture is sought whose activations point the way of the original's and are longer:
    argmax over x of ⟨Φ(x), Φ₀⟩/‖Φ₀‖² · cos(Φ(x), Φ₀)ᵖ. What a layer does not see, it does not draw; what it
    sees, it overdoes. An inversion asks for the same activations, a caricature for more of them.

    `exaggeration` is ⟨Φ(x), Φ₀⟩/‖Φ₀‖², which is 1 for the original, and `cosine` the cosine between both;
    they are measured on the 8-bit picture by ONNX Runtime.
    """
    layers = parameters.layers
    generator = torch.Generator().manual_seed(parameters.seed)
    shape = (len(layers), subject.preprocessing.channels, *subject.size)
    canvas = FourierParameterization().start(shape, generator, subject.device)
    original = torch.from_numpy(parameters.image.copy())[None].to(subject.device)

    def exaggerations(images: Tensor, _step: int) -> dict[str, Tensor]:
        # As channels of one picture, both go through the same random changes.
        both = torch.cat([images, original.expand_as(images)], 1)
        if parameters.transforms:
            both = transform(both, LUCID, generator)
        drawn, seen = both.chunk(2, 1)
        values = subject.values(drawn, layers)
        with torch.no_grad():
            wanted = subject.values(seen, layers)
        return {
            layer: exaggeration_of(values[layer][index], wanted[layer][index], parameters.cosine_power)
            for index, layer in enumerate(layers)
        }

    told = memory.variables("told", curves=[[] for _ in layers])

    def note(step: Step) -> Step:
        for curve, layer in zip(told.curves, layers, strict=True):
            curve.append(step.losses[layer])
        return step

    work = ascend(
        canvas,
        exaggerations,
        steps=parameters.steps,
        optimizer=Adam(learning_rate=parameters.learning_rate),
        generator=generator,
        regularizers=Regularizers(),
        preview_every=parameters.preview_every,
        memory=memory,
    )
    images = yield from retold(work, note)
    pictures = to_8_bit(images)
    found = _measured(subject, layers, pictures, to_8_bit(original))
    return Result(
        pictures={
            layer: NamedPicture(
                picture, f"{layer}: exaggerated {exaggeration:.2f} times, cosine {cosine:.3f}"
            )
            for layer, picture, (exaggeration, cosine) in zip(layers, pictures, found, strict=True)
        },
        tables={
            "layers": {
                "layer": layers,
                "exaggeration": tuple(exaggeration for exaggeration, _ in found),
                "cosine": tuple(cosine for _, cosine in found),
            }
        },
        series={layer: Series(tuple(curve)) for layer, curve in zip(layers, told.curves, strict=True)},
    )


def exaggeration_of(drawn: Tensor, wanted: Tensor, cosine_power: float) -> Tensor:
    """<drawn, wanted> / ||wanted||^2 times their cosine to a power; differentiable.

    Args:
        drawn: Activations of any shape.
        wanted: Those of the original, of the same shape.
        cosine_power: 0 or more.
    """
    product = (drawn * wanted).sum()
    length = wanted.norm().clamp(min=1e-12)
    strength = product / length.square()
    if not cosine_power:
        return strength
    cosine = product / (length * drawn.norm().clamp(min=1e-12))
    return strength * cosine.clamp(min=_LEAST_COSINE).pow(cosine_power)


def _measured(
    subject: Subject, layers: Sequence[str], pictures: NDArray[np.uint8], original: NDArray[np.uint8]
) -> list[tuple[float, float]]:
    """Exaggeration and cosine of each layer's picture, by ONNX Runtime."""
    names = [subject.graph.resolve(layer) for layer in layers]
    values = subject.judged_values(np.concatenate([pictures, original]), names)
    found = []
    for index, name in enumerate(names):
        drawn, wanted = (values[name][row].astype(np.float64).ravel() for row in (index, -1))
        product, length = drawn @ wanted, max(float(np.linalg.norm(wanted)), 1e-12)
        cosine = product / (length * max(float(np.linalg.norm(drawn)), 1e-12))
        found.append((float(product / length**2), float(cosine)))
    return found

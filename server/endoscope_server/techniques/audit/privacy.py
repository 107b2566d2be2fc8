"""What the model's layers still tell of a picture (Mahendran and Vedaldi 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import PreconditionFailed
from endoscope_server.images.vector_plots import Line, plot_lines
from endoscope_server.techniques.audit.evidence import Evidence
from endoscope_server.techniques.audit.finding import Figure, Finding, Plot, Work
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter
from endoscope_server.techniques.inversion import (
    ALL_LAYERS,
    InversionParameters,
    LayerInversion,
    invert_representation,
    with_defaults,
)
from endoscope_server.techniques.parts.steps import Step, retold

_REFERENCES = 4


def privacy(evidence: Evidence, parameters: AuditParameters) -> Work:
    """Invert layers spread over the depth, and compare what comes back with the pictures."""
    places = evidence.balanced(range(len(evidence.items)), parameters.max_inverted_items)
    others = [place for place in range(len(evidence.items)) if place not in places][:_REFERENCES]
    layers = _spread(evidence, parameters.max_layers)
    if not layers:
        return Finding(Chapter.PRIVACY, not_applicable="no layer is computed from the picture alone")
    inverted: list[list[LayerInversion]] = []
    left_out: list[dict[str, str]] = []
    figures = [
        Figure(evidence.pictures[place], f"{evidence.items[place].name}, the original") for place in places
    ]
    for position, layer in enumerate(layers, 1):
        found: list[LayerInversion] = []
        try:
            for place in places:
                asked = InversionParameters(
                    image=_pixels(evidence, place),
                    layers=(layer,),
                    steps=parameters.inversion_steps,
                    seed=parameters.seed,
                    references=tuple(_pixels(evidence, other) for other in others),
                    preview_every=parameters.preview_every,
                )
                where = f"layer {position} of {len(layers)}, {layer}"
                work = invert_representation(evidence.subject, asked)
                result = yield from retold(work, _tell(where))
                found.append(result.layers[0])
        except PreconditionFailed as error:
            left_out.append({"layer": layer, "reason": error.message})
            continue
        inverted.append(found)
        figures += [
            Figure(item.picture, f"{layer}: {_how_near(item, evidence.pictures[place])}")
            for item, place in zip(found, places, strict=True)
        ]
    if not inverted:
        return Finding(Chapter.PRIVACY, not_applicable=f"no layer can be inverted: {left_out[0]['reason']}")
    curve = [_mean(found) for found in inverted]
    values = {
        "pictures": [evidence.items[place].name for place in places],
        "steps": parameters.inversion_steps,
        "layers": curve,
        "left_out": left_out,
    }
    return Finding(Chapter.PRIVACY, values, {"inversions": tuple(figures)}, _plots(curve))


def _spread(evidence: Evidence, count: int) -> list[str]:
    """Layers evenly over the depth, the first and the last among them."""
    graph = evidence.subject.graph
    if not any(layer.receptive_field is not None for layer in graph.layers):
        return []
    image = _pixels(evidence, 0)
    every = with_defaults(evidence.subject, InversionParameters(image=image, layers=(ALL_LAYERS,))).layers
    places = np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int)
    return [every[place] for place in places]


def _pixels(evidence: Evidence, place: int) -> Any:
    return evidence.pictures[place].astype(np.float32) / np.float32(255)


def _how_near(item: LayerInversion, original: NDArray[np.uint8]) -> str:
    return "every pixel" if np.array_equal(item.picture, original) else f"{item.psnr:.1f} dB"


def _tell(where: str) -> Any:
    return lambda step: Step(step.index, step.total, step.losses, step.images, where)


def _mean(found: Sequence[LayerInversion]) -> dict[str, Any]:
    def mean(name: str) -> float:
        return float(np.mean([getattr(item, name) for item in found]))

    reference = None if found[0].reference_error is None else mean("reference_error")
    return {
        "layer": found[0].layer,
        "value": found[0].value,
        "psnr": mean("psnr"),
        "ssim": mean("ssim"),
        "feature_error": mean("feature_error"),
        "reference_error": reference,
        "perceptual_distance": mean("perceptual_distance"),
    }


def _plots(curve: Sequence[dict[str, Any]]) -> dict[str, Plot]:
    ticks = [(float(place), item["layer"]) for place, item in enumerate(curve)]
    found = {}
    for name, title, up_range in (
        ("psnr", "PSNR, decibels", None),
        ("ssim", "SSIM", (min(0.0, *(item["ssim"] for item in curve)) - 0.03, 1.03)),
    ):
        points = [(float(place), item[name]) for place, item in enumerate(curve)]
        told = ", ".join(f"{item['layer']} {item[name]:.3g}" for item in curve)
        found[name] = Plot(
            plot_lines([Line(title, points)], "layer, first to last", title, ticks=ticks, up_range=up_range),
            f"{title} of what inversion recovers, layer by layer: {told}.",
            f"How much of the picture comes back from each layer: {title}; more is less private.",
        )
    return found

"""What the model looks for: units that never fire, classes that are alike, the picture of each class."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from endoscope_server.errors import PreconditionFailed
from endoscope_server.images.vector_plots import plot_bars
from endoscope_server.techniques.audit.dead_units import DeadUnits, count_dead_units, rectified_layers
from endoscope_server.techniques.audit.evidence import Evidence
from endoscope_server.techniques.audit.finding import NO_GRADIENTS, Figure, Finding, Plot, Work
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter
from endoscope_server.techniques.audit.similar_classes import Pair, class_means, class_weights, most_similar
from endoscope_server.techniques.class_visualization import (
    PRESETS,
    ClassVisualizationParameters,
    visualize_class,
)
from endoscope_server.techniques.parts.steps import Step, retold

BATCH = 8
PRESET = "fourier"
_PAIRS = 10


def features(evidence: Evidence, parameters: AuditParameters) -> Work:
    """Dead units over the pictures, the most similar classes, and class visualisations."""
    layers = rectified_layers(evidence.subject.graph)
    dead = (yield from count_dead_units(evidence.subject, evidence.pictures, layers)) if layers else ()
    values: dict[str, Any] = {
        "dead_units": _dead(dead) if dead else None,
        "similar_classes": _similar(evidence),
        "visualizations": None,
        "left_out": "",
    }
    plots = {"dead": _plot(dead)} if dead else {}
    try:
        told, figures = yield from _visualized(evidence, parameters)
    except PreconditionFailed as error:
        values["left_out"] = error.message
        return Finding(Chapter.FEATURES, values, {}, plots)
    values["visualizations"] = {"preset": PRESET, "steps": parameters.visualization_steps, "classes": told}
    return Finding(Chapter.FEATURES, values, {"classes": tuple(figures)}, plots)


def _dead(counted: Sequence[DeadUnits]) -> dict[str, Any]:
    units, channels = sum(item.units for item in counted), sum(item.channels for item in counted)
    dead, silent = sum(item.dead for item in counted), sum(item.dead_channels for item in counted)
    return {
        "units": units,
        "dead": dead,
        "share": dead / units,
        "channels": channels,
        "dead_channels": silent,
        "channel_share": silent / channels,
        "layers": [
            {
                "layer": item.layer,
                "value": item.value,
                "units": item.units,
                "dead": item.dead,
                "share": item.dead / item.units,
                "channels": item.channels,
                "dead_channels": item.dead_channels,
            }
            for item in counted
        ],
    }


def _plot(counted: Sequence[DeadUnits]) -> Plot:
    bars = [(item.layer, item.dead / item.units) for item in counted]
    worst = max(bars, key=lambda bar: bar[1])
    return Plot(
        plot_bars(bars, "share of units", "layer, first to last"),
        f"Share of units that never fire in {len(bars)} layers; the largest is {worst[1]:.1%} in {worst[0]}.",
        "Units (a channel at a position) that are never above zero over the pictures looked at.",
    )


def _similar(evidence: Evidence) -> dict[str, Any]:
    weights = class_weights(evidence.subject.graph)
    means, present = class_means(evidence.features, evidence.reference)
    by_weights = most_similar(weights, range(len(weights)), _PAIRS) if weights is not None else ()
    by_features = most_similar(means, present, _PAIRS) if len(present) > 2 else ()
    return {
        "by_weights": [_pair(evidence, pair) for pair in by_weights],
        "by_features": [_pair(evidence, pair) for pair in by_features],
        "by_confusion": _confused(evidence),
    }


def _pair(evidence: Evidence, pair: Pair) -> dict[str, Any]:
    return {
        "first": evidence.told(pair.first),
        "second": evidence.told(pair.second),
        "cosine": pair.cosine,
    }


def _confused(evidence: Evidence) -> list[dict[str, Any]]:
    """Classes taken for each other, either way round."""
    wrong = evidence.wrong
    pairs = np.sort(np.stack([evidence.true[wrong], evidence.predicted[wrong]]), axis=0)
    unique, counts = np.unique(pairs, axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_PAIRS]
    return [
        {
            "first": evidence.told(int(unique[0, place])),
            "second": evidence.told(int(unique[1, place])),
            "pictures": int(counts[place]),
        }
        for place in order
    ]


def _visualized(
    evidence: Evidence, parameters: AuditParameters
) -> Generator[Step | None, None, tuple[list[dict[str, Any]], list[Figure]]]:
    told: list[dict[str, Any]] = []
    figures: list[Figure] = []
    if not evidence.case.certificate.passed:
        raise PreconditionFailed(NO_GRADIENTS)
    classes = evidence.chosen_classes(parameters.max_classes)
    for batch in evidence.batches(classes, BATCH):
        asked = ClassVisualizationParameters(
            classes=tuple(batch),
            seed=parameters.seed,
            preview_every=parameters.preview_every,
            **{**PRESETS[PRESET], "steps": parameters.visualization_steps},
        )
        found = yield from retold(visualize_class(evidence.subject, asked), _tell)
        for row, score in enumerate(found.scores):
            seen = evidence.class_name(found.top[row][0].class_index)
            told.append(
                {
                    **evidence.told(batch[row]),
                    "confidence": score.probability,
                    "logit": score.logit,
                    "seen_as": evidence.told(found.top[row][0].class_index),
                }
            )
            beside = "" if found.top[row][0].class_index == batch[row] else f" (seen as {seen})"
            caption = f"{evidence.class_name(batch[row])}: {score.probability:.1%}{beside}"
            figures.append(Figure(found.pictures[row], caption))
    return told, figures


def _tell(step: Step) -> Step:
    return Step(step.index, step.total, step.losses, step.images, "class visualisation")

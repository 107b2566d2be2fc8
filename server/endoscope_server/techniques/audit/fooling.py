"""How easily the model is made sure of pictures that show nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from endoscope_server.techniques.audit.evidence import Evidence
from endoscope_server.techniques.audit.finding import Figure, Finding, Work
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter
from endoscope_server.techniques.fooling import FoolingParameters, create_fooling_images, with_defaults
from endoscope_server.techniques.parts.steps import Step, retold

BATCH = 8
CONFIDENCE = 0.99


def fooling(evidence: Evidence, parameters: AuditParameters) -> Work:
    """For some classes, how many steps from noise it takes until the model is 99% sure."""
    if evidence.class_count < 2:
        return Finding(Chapter.FOOLING, not_applicable="the model has fewer than two classes")
    classes = evidence.chosen_classes(parameters.max_classes)
    told: list[dict[str, Any]] = []
    figures: list[Figure] = []
    for batch in evidence.batches(classes, BATCH):
        needed: list[int | None] = [None] * len(batch)
        work = create_fooling_images(
            evidence.subject,
            with_defaults(
                FoolingParameters(
                    classes=tuple(batch),
                    confidence=CONFIDENCE,
                    steps=parameters.fooling_steps,
                    seed=parameters.seed,
                    preview_every=parameters.preview_every,
                )
            ),
        )
        found = yield from retold(work, _watch(needed))
        for row, score in enumerate(found.scores):
            reached = found.success[row]
            steps = needed[row] if reached else None
            told.append(
                {
                    **evidence.told(batch[row]),
                    "reached": reached,
                    "steps": steps,
                    "confidence": score.probability,
                }
            )
            how = f"in {steps} steps" if steps else "not reached"
            caption = f"{evidence.class_name(batch[row])}: {score.probability:.1%}, {how}"
            figures.append(Figure(found.pictures[row], caption))
    steps_needed = [item["steps"] for item in told if item["steps"] is not None]
    values = {
        "confidence": CONFIDENCE,
        "steps": parameters.fooling_steps,
        "reached_share": sum(item["reached"] for item in told) / len(told),
        "median_steps": statistics.median(steps_needed) if steps_needed else None,
        "classes": told,
    }
    return Finding(Chapter.FOOLING, values, {"fooling": tuple(figures)})


def _watch(needed: list[int | None]) -> Any:
    """Notes the step at which the model became sure of each class."""

    def tell(step: Step | None) -> Step | None:
        if step is None:
            return None
        confidences: Sequence[float] = [step.losses[f"confidence[{row}]"] for row in range(len(needed))]
        for row, confidence in enumerate(confidences):
            if needed[row] is None and confidence >= CONFIDENCE:
                needed[row] = step.index
        sure = sum(count is not None for count in needed)
        return Step(
            step.index,
            step.total,
            {"log_odds": step.losses["log_odds"]},
            step.images,
            f"{sure} of {len(needed)} sure",
        )

    return tell

"""How far an audit has come, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from endoscope_server.techniques.adversarial import Norm
from endoscope_server.techniques.audit import errors, features, fooling, robustness
from endoscope_server.techniques.audit.evidence import BATCH
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter
from endoscope_server.techniques.parts.steps import Step

GATHERING = "pictures"


def plan(parameters: AuditParameters, pictures: int, searched: int, classes: int) -> dict[str, int]:
    """The most steps that each chapter will take, after those that read the pictures.

    Args:
        parameters: What is wanted.
        pictures: In the dataset.
        searched: In the dataset where neighbours are sought.
        classes: Of the model.
    """
    looked_at = min(parameters.max_items, pictures)
    attacked = -(-min(parameters.max_attacked_items, looked_at) // robustness.BATCH)
    chosen = min(parameters.max_classes, classes)
    runs = sum(
        len(robustness.BOUNDED) * len(parameters.radii(norm)) + len(robustness.MINIMAL) for norm in Norm
    )
    batches = -(-looked_at // BATCH)
    steps = {
        Chapter.ROBUSTNESS: attacked * runs * parameters.attack_steps,
        Chapter.FOOLING: -(-chosen // fooling.BATCH) * parameters.fooling_steps,
        Chapter.PRIVACY: parameters.max_layers
        * min(parameters.max_inverted_items, looked_at)
        * parameters.inversion_steps,
        Chapter.FEATURES: batches + -(-chosen // features.BATCH) * parameters.visualization_steps,
        Chapter.ERRORS: errors.steps(min(parameters.max_searched_items, searched)),
    }
    wanted = [chapter for chapter in Chapter if chapter in parameters.chapters]
    return {GATHERING: batches} | {chapter.value: steps.get(chapter, 1) for chapter in wanted}


class Progress:
    """Numbers the steps of all chapters as one.

    Args:
        planned: The most steps of each part, in order.
        told: How many steps were told before.
    """

    def __init__(self, planned: Mapping[str, int], told: int = 0) -> None:
        self._planned = dict(planned)
        self._names = list(planned)
        self._done = self._first = self._before = told
        self._part = 0
        self._began = self._part_began = time.monotonic()

    @property
    def total(self) -> int:
        """The most steps that there will be, as it is known by now."""
        here = max(self._planned[self._names[self._part]], self._done - self._before)
        return self._before + here + sum(self._planned[name] for name in self._names[self._part + 1 :])

    def begin(self, part: str) -> None:
        """The next part begins; what the one before did not use is left out."""
        self._part = self._names.index(part)
        self._before = self._done
        self._part_began = time.monotonic()

    def tell(self, step: Step | None) -> Step | None:
        """A part's step as the audit's."""
        if step is None:
            return None
        self._done += 1
        name = self._names[self._part]
        losses = {
            **step.losses,
            "chapter": float(self._part),
            "chapters": float(len(self._names) - 1),
            "seconds_left": self._seconds_left(),
        }
        stage = f"{name}: {step.stage}" if step.stage else name
        return replace(step, index=self._done, total=self.total, losses=losses, stage=stage)

    def _seconds_left(self) -> float:
        now, here = time.monotonic(), self._done - self._before
        left = max(self._planned[self._names[self._part]] - here, 0)
        own_pace = (now - self._part_began) / max(here, 1)
        pace = (now - self._began) / max(self._done - self._first, 1)
        later = sum(self._planned[name] for name in self._names[self._part + 1 :])
        return left * own_pace + later * pace

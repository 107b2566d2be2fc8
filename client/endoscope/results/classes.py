"""How sure a model is of its classes."""

from __future__ import annotations

from dataclasses import dataclass

from endoscope.results.showing import html_table


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How sure a model is of one class.

    Attributes:
        class_index: The position of its logit.
        label: Its name; empty if the model has no labels.
        logit: Its score before the softmax.
        probability: Its softmax probability, in [0, 1].
    """

    class_index: int
    label: str
    logit: float
    probability: float

    def __str__(self) -> str:
        return f"{self.label or f'class {self.class_index}'} {self.probability:.1%}"


@dataclass(frozen=True, slots=True)
class Classification:
    """A model's answer to one picture.

    Attributes:
        top: The strongest classes, strongest first.
    """

    top: tuple[ClassScore, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.top))

    def _repr_html_(self) -> str:
        rows = [(score.class_index, score.label, f"{score.probability:.2%}") for score in self.top]
        return html_table(["class", "label", "probability"], rows)

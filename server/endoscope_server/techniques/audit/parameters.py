"""What is wanted of RunAudit."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from endoscope_server.errors import InvalidInput
from endoscope_server.techniques.adversarial.norms import Norm
from endoscope_server.techniques.parts.checks import check_number


class Chapter(enum.Enum):
    """A chapter of an audit; they are run in this order."""

    IDENTITY = "identity"
    PARITY = "parity"
    ACCURACY = "accuracy"
    ROBUSTNESS = "robustness"
    FOOLING = "fooling"
    PRIVACY = "privacy"
    FEATURES = "features"
    ERRORS = "errors"


class LabelMapping(enum.Enum):
    """How a dataset's labels name classes."""

    TEXT = "text"
    """A label is a class's label in the model's card, or one of its names between commas."""
    INDEX = "index"
    """A label is a class's index."""
    NONE = "none"
    """Labels are not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditParameters:
    """What is wanted of RunAudit.

    Attributes:
        chapters: Which chapters; run in the order of :class:`Chapter`, each once.
        max_items: The most pictures that are looked at, 1 to 5000.
        max_attacked_items: The most pictures that are attacked, 1 to 1000.
        max_classes: The most classes that are fooled and visualised, 1 to 64.
        max_layers: The most layers that are inverted, 1 to 64.
        max_inverted_items: The most pictures that are inverted, 1 to 16.
        max_searched_items: The most pictures among which neighbours of errors are sought, 1 to 1000000.
        label_mapping: How labels name classes; None for whatever fits every label.
        epsilons: Radii in L-infinity, in [0, 1] pixel units, rising.
        l2_epsilons: Radii in L2, in [0, 1] pixel units, rising.
        attack_steps: Of each attack, 1 to 1000.
        fooling_steps: The most steps of fooling, 1 to 10000.
        inversion_steps: Of the inversion of each layer, 1 to 10000.
        visualization_steps: Of class visualisation, 1 to 10000.
        seed: Of all random numbers.
        preview_every: Every how many steps pictures are sent along; 0 for never.
    """

    chapters: tuple[Chapter, ...] = tuple(Chapter)
    max_items: int = 100
    max_attacked_items: int = 16
    max_classes: int = 8
    max_layers: int = 6
    max_inverted_items: int = 1
    max_searched_items: int = 10_000
    label_mapping: LabelMapping | None = None
    epsilons: tuple[float, ...] = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
    l2_epsilons: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    attack_steps: int = 10
    fooling_steps: int = 64
    inversion_steps: int = 1200
    visualization_steps: int = 64
    seed: int = 0
    preview_every: int = 0

    def __post_init__(self) -> None:
        for name, most in (
            ("max_items", 5000),
            ("max_attacked_items", 1000),
            ("max_classes", 64),
            ("max_layers", 64),
            ("max_inverted_items", 16),
            ("max_searched_items", 1_000_000),
            ("attack_steps", 1000),
            ("fooling_steps", 10_000),
            ("inversion_steps", 10_000),
            ("visualization_steps", 10_000),
        ):
            check_number(name, getattr(self, name), 1, most)
        check_number("seed", self.seed, 0)
        _check_rising("epsilons", self.epsilons)
        _check_rising("l2_epsilons", self.l2_epsilons)

    def radii(self, norm: Norm) -> tuple[float, ...]:
        """The radii of attacks in a norm."""
        return self.epsilons if norm is Norm.LINF else self.l2_epsilons


def _check_rising(name: str, values: Sequence[float]) -> None:
    for index, value in enumerate(values):
        check_number(f"{name}[{index}]", value, above=0)
        if index and value <= values[index - 1]:
            raise InvalidInput(
                f"{name}[{index}] is {value:g} after {values[index - 1]:g}, expected rising numbers",
                field=f"{name}[{index}]",
            )

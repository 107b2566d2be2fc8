"""What a chapter tells: numbers, pictures and plots."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from endoscope_server.techniques.audit.parameters import Chapter
from endoscope_server.techniques.parts.steps import Step

NO_GRADIENTS = "it needs gradients, and the mirror does not agree with ONNX Runtime"
"""Why there is no chapter of a model without parity."""


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A picture of a report.

    Attributes:
        pixels: channels x height x width in 8 bits.
        caption: What it shows and what was measured, for people.
    """

    pixels: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """A plot of a report.

    Attributes:
        svg: The ``svg`` element; its colours are CSS variables of the page.
        alt: What it shows, for those who don't see it.
        caption: What stands below it.
    """

    svg: str
    alt: str
    caption: str


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """What one chapter found.

    Attributes:
        chapter: The chapter.
        values: Its numbers, as JSON has them.
        pictures: By the name of a group, such as ``examples``.
        plots: By name.
        not_applicable: Why the chapter does not apply; empty if it does.
    """

    chapter: Chapter
    values: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, tuple[Figure, ...]] = field(default_factory=dict)
    plots: Mapping[str, Plot] = field(default_factory=dict)
    not_applicable: str = ""


Work: TypeAlias = Generator[Step | None, None, Finding]
"""A chapter at work."""


def to_state(finding: Finding) -> dict[str, Any]:
    """A finding as what can be remembered."""
    return {
        "chapter": finding.chapter.value,
        "values": json.dumps(finding.values),
        "pictures": {
            name: [{"pixels": figure.pixels, "caption": figure.caption} for figure in figures]
            for name, figures in finding.pictures.items()
        },
        "plots": {
            name: {"svg": plot.svg, "alt": plot.alt, "caption": plot.caption}
            for name, plot in finding.plots.items()
        },
        "not_applicable": finding.not_applicable,
    }


def from_state(state: Mapping[str, Any]) -> Finding:
    """The finding that :func:`to_state` was given."""
    return Finding(
        Chapter(state["chapter"]),
        json.loads(state["values"]),
        {name: tuple(Figure(**figure) for figure in figures) for name, figures in state["pictures"].items()},
        {name: Plot(**plot) for name, plot in state["plots"].items()},
        state["not_applicable"],
    )

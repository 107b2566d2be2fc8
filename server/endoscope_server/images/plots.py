"""Curves as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

# Importing it takes a third of a second, which a server that starts need not wait for.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = ("#1f5fa8", "#c2571a")
_MAX_LABELS = 40
_DOTS_PER_INCH = 144


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot.

    Attributes:
        name: What its axis says.
        values: One for each place.
    """

    name: str
    values: Sequence[float]


def plot_over_depth(places: Sequence[str], left: Curve, right: Curve) -> Image.Image:
    """Two curves over the same places, each with an axis of its own.

    Args:
        places: Names below the horizontal axis, first to last.
        left: Read off the left axis.
        right: Read off the right axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(max(5.0, min(16.0, 2.5 + 0.25 * len(places))), 4.2), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    axes = figure.add_subplot()
    beside = axes.twinx()
    positions = list(range(len(places)))
    for part, curve, ink, marker in ((axes, left, _INK[0], "o"), (beside, right, _INK[1], "s")):
        part.plot(positions, list(curve.values), color=ink, marker=marker, markersize=4, linewidth=1.8)
        part.set_ylabel(curve.name, color=ink)
        part.tick_params(axis="y", labelcolor=ink)
        part.spines["top"].set_visible(False)
    every = -(-len(places) // _MAX_LABELS)
    axes.set_xticks(positions[::every], list(places)[::every], rotation=60, ha="right", fontsize=8)
    axes.grid(axis="y", alpha=0.25)
    return to_picture(figure)


def to_picture(figure: Figure) -> Image.Image:
    """A figure as a picture in RGB; the same figure always gives the same pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, pil_kwargs={"compress_level": 1}, metadata={"Software": None})
    picture = Image.open(buffer).convert("RGB")
    picture.load()
    return picture

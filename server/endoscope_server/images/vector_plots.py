"""Plots as SVG for a page: no size in pixels, no colours of their own, the same bytes each time.

Colours are CSS variables, which the page defines for light, dark and print: ``--ink`` for text and axes,
``--grid`` for the grid, ``--series-1`` to ``--series-4`` for what is plotted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

# Importing it takes a third of a second, which a server that starts need not wait for.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib knows no CSS variables: these stand for them until the SVG is written.
_STAND_INS = {
    "#010203": "var(--ink)",
    "#010204": "var(--grid)",
    "#010205": "var(--series-1)",
    "#010206": "var(--series-2)",
    "#010207": "var(--series-3)",
    "#010208": "var(--series-4)",
}
_INK, _GRID, *_SERIES = _STAND_INS
_MARKERS = ("o", "s", "^", "D")
_FONT = re.compile(r'(style="font-size: [\d.]+px); font-family: [^;"]*')
_SHEET = re.compile(r" *<defs>\s*<style.*?</defs>\n", re.DOTALL)
_IDENTIFIER = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')
_MAX_LABELS = 20
_WIDTH = 1.8
_WIDEST = 3.6


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a plot.

    Attributes:
        name: In the legend.
        points: Across and up.
        dashed: Whether it is a mark to go by, not a measurement.
        dots: Whether points stand alone.
        steps: Whether it jumps at its points.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    dots: bool = False
    steps: bool = False


def plot_lines(
    lines: Sequence[Line],
    across: str,
    up: str,
    *,
    ticks: Sequence[tuple[float, str]] = (),
    up_range: tuple[float, float] | None = None,
    log_y: bool = False,
) -> str:
    """Lines over the same axes.

    Args:
        lines: At most four that are not dashed.
        across: What the horizontal axis says.
        up: What the vertical axis says.
        ticks: Places on the horizontal axis with their names; none for matplotlib's own.
        up_range: Of the vertical axis; None for what the lines need.
        log_y: Whether the vertical axis is logarithmic.
    """

    def draw(axes: Axes) -> None:
        plain = 0
        for line in lines:
            xs, ys = zip(*line.points, strict=True) if line.points else ((), ())
            if line.dashed:
                axes.plot(xs, ys, color=_INK, linestyle="--", linewidth=1, label=line.name)
                continue
            color, marker = _SERIES[plain % len(_SERIES)], _MARKERS[plain % len(_MARKERS)]
            # Lines that lie on each other are all seen.
            width = max(1.2, _WIDEST - plain) if len(lines) > 1 else _WIDTH
            plain += 1
            style = "" if line.dots else "-"
            where = "steps-post" if line.steps else "default"
            axes.plot(
                xs,
                ys,
                color=color,
                marker="" if line.steps else marker,
                markersize=3 if line.dots else 2 + 1.5 * width,
                linestyle=style,
                linewidth=width,
                drawstyle=where,
                label=line.name,
            )
        if log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda height, _place: f"{height:g}")
        if up_range:
            axes.set_ylim(*up_range)
        _name_ticks(axes, ticks)
        if len(lines) > 1:
            axes.legend(frameon=False, labelcolor=_INK, fontsize=9)

    return _svg(draw, across, up, (6.4, 3.4 if not ticks else 3.6))


def plot_bars(
    bars: Sequence[tuple[str, float]], up: str, across: str = "", up_range: tuple[float, float] | None = None
) -> str:
    """A bar for each name, side by side."""

    def draw(axes: Axes) -> None:
        axes.bar(range(len(bars)), [height for _, height in bars], color=_SERIES[0], width=0.8)
        _name_ticks(axes, [(place, name) for place, (name, _) in enumerate(bars)])
        if up_range:
            axes.set_ylim(*up_range)

    return _svg(draw, across, up, (6.4, 3.4))


def plot_reliability(bins: Sequence[tuple[float, float, int, float, float]]) -> str:
    """A reliability diagram (DeGroot and Fienberg 1983; Guo et al. 2017) over a histogram of confidence.

    Args:
        bins: Low, high, pictures, mean confidence and accuracy of each; pictures may be 0.
    """
    figure = _figure((5.2, 4.8))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for low, high, count, confidence, accuracy in bins:
        middle, width = (low + high) / 2, high - low
        if count:
            upper.bar(middle, accuracy, width * 0.96, color=_SERIES[0])
            gap, bottom = abs(confidence - accuracy), min(confidence, accuracy)
            upper.bar(
                middle,
                gap,
                width * 0.96,
                bottom=bottom,
                color="none",
                edgecolor=_SERIES[1],
                hatch="////",
                linewidth=0.8,
            )
        lower.bar(middle, count, width * 0.96, color=_SERIES[0])
    upper.plot([0, 1], [0, 1], color=_INK, linestyle="--", linewidth=1)
    upper.set(xlim=(0, 1), ylim=(0, 1))
    _dress(upper, "", "accuracy")
    _dress(lower, "confidence", "pictures")
    return _written(figure)


def _svg(draw: Callable[[Axes], None], across: str, up: str, size: tuple[float, float]) -> str:
    figure = _figure(size)
    axes = figure.add_subplot()
    draw(axes)
    _dress(axes, across, up)
    return _written(figure)


def _figure(size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _name_ticks(axes: Axes, ticks: Sequence[tuple[float, str]]) -> None:
    if not ticks:
        return
    shown = ticks[:: -(-len(ticks) // _MAX_LABELS)]
    slanted = max(len(name) for _, name in shown) * len(shown) > 60
    axes.set_xticks(
        [place for place, _ in shown],
        [name if len(name) < 30 else name[:28] + "…" for _, name in shown],
        rotation=50 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor" if slanted else "default",
        fontsize=8,
    )


def _dress(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, color=_INK, fontsize=9)
    axes.set_ylabel(up, color=_INK, fontsize=9)
    axes.tick_params(colors=_INK, which="both", labelsize=8)
    axes.grid(axis="y", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
        spine.set_linewidth(0.8)


def _written(figure: Figure) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.text import Text

    figure.patch.set_visible(False)
    for text in figure.findobj(Text):
        # Names of layers and classes are no formulas.
        text.set_parse_math(False)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "endoscope"}):
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _for_pages(buffer.getvalue())


def _for_pages(svg: str) -> str:
    """Without what only a file needs, with the page's colours and font, scaling with the page."""
    svg = svg[svg.index("<svg") :]
    for color, variable in _STAND_INS.items():
        svg = svg.replace(color, variable)
    svg = _SHEET.sub("", _FONT.sub(r"\1", svg), count=1)
    used = set(_REFERENCE.findall(svg))
    svg = _IDENTIFIER.sub(lambda found: found[0] if found[1] in used else "", svg)
    head, rest = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view[0]}>{rest}'
    )

"""Scatter plots of layouts, by matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_DPI = 150
_MOST_IN_LEGEND = 24
_GREY = (0.6, 0.6, 0.6)
_UNLABELLED = "no label"

Thumbnail = Callable[[int], Image.Image]
"""A small picture of a point by its index."""


class Scatter:
    """A plot whose points may move: made once, drawn often. To be used by one thread at a time.

    Args:
        labels: One a point, an empty one for none; or none at all.
        dimensions: Of the layout; of more than three the first two are shown.
        axes: What the axes are called; without, they have no ticks.
        size: Width and height in pixels.
        legend: Whether the colours are told.
    """

    def __init__(
        self,
        labels: Sequence[str],
        dimensions: int,
        axes: Sequence[str] = (),
        size: tuple[int, int] = (1350, 1050),
        *,
        legend: bool = True,
    ) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._dimensions = dimensions
        self._names = sorted({label for label in labels if label}, key=_natural)
        self._codes = [self._names.index(label) if label else -1 for label in labels]
        palette = [*_palette(len(self._names)), _GREY]
        self._colors = [palette[code] for code in self._codes] if self._names else None
        figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI, layout="constrained")
        self._canvas = FigureCanvasAgg(figure)
        kind = {"projection": "3d"} if dimensions == 3 else {}
        self._axes: Any = figure.add_subplot(**kind)
        self._points: Any = None
        self._settled = False
        if axes:
            for name, text in zip(("set_xlabel", "set_ylabel", "set_zlabel"), axes, strict=False):
                if hasattr(self._axes, name):
                    getattr(self._axes, name)(text)
        else:
            for name in ("set_xticks", "set_yticks", "set_zticks"):
                if hasattr(self._axes, name):
                    getattr(self._axes, name)([])
        if legend and self._names:
            self._add_legend(figure, palette)

    def draw(
        self, coordinates: NDArray[Any], thumbnail: Thumbnail | None = None, side: int = 40
    ) -> Image.Image:
        """The plot of a layout.

        Args:
            coordinates: points x dimensions.
            thumbnail: If given, points are shown by their pictures, wherever these don't overlap.
            side: Of a picture, in pixels.
        """
        shown = self._shown(coordinates)
        if self._points is not None:
            self._points.remove()
        area = float(np.clip(24_000 / max(len(shown), 1), 4, 40)) * (0.4 if thumbnail else 1)
        self._points = self._axes.scatter(
            *shown.T, s=area, c=self._colors or [_palette(1)[0]], alpha=0.85, linewidths=0
        )
        ranges = [(float(values.min()), float(values.max())) for values in shown.T]
        self._limit(ranges)
        if not self._settled:
            # Where the axes lie depends on what is written beside them.
            self._canvas.draw()
            self._canvas.figure.set_layout_engine("none")
            self._settled = True
        if self._dimensions not in (1, 3):
            self._limit(self._evened(ranges))
        self._canvas.draw()
        picture = Image.fromarray(np.asarray(self._canvas.buffer_rgba())[..., :3].copy())
        if thumbnail is not None:
            self._paste(picture, shown, thumbnail, side)
        return picture

    def _limit(self, ranges: Sequence[tuple[float, float]]) -> None:
        for axis, (low, high) in zip("xyz", ranges, strict=False):
            margin = 0.04 * (high - low) or 1.0
            getattr(self._axes, f"set_{axis}lim")(low - margin, high + margin)

    def _evened(self, ranges: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Ranges in which a unit is as long down the plot as across."""
        box = self._axes.get_window_extent()
        unit = max(
            (high - low) / size for (low, high), size in zip(ranges, (box.width, box.height), strict=True)
        )
        evened = []
        for (low, high), size in zip(ranges, (box.width, box.height), strict=True):
            middle, half = (low + high) / 2, unit * size / 2
            evened.append((middle - half, middle + half))
        return evened

    def _shown(self, coordinates: NDArray[Any]) -> NDArray[np.float64]:
        numbers = np.asarray(coordinates, np.float64)
        if self._dimensions == 3:
            return numbers
        if self._dimensions == 1:
            # A row for each label.
            rows = -np.asarray(self._codes or np.zeros(len(numbers)), np.float64)
            return np.stack([numbers[:, 0], rows], axis=1)
        return numbers[:, :2]

    def _add_legend(self, figure: Any, palette: Sequence[Any]) -> None:
        from matplotlib.lines import Line2D

        names = self._names[:_MOST_IN_LEGEND]
        colors = list(palette[: len(names)])
        if -1 in self._codes:
            names, colors = [*names, _UNLABELLED], [*colors, _GREY]
        if len(self._names) > _MOST_IN_LEGEND:
            names, colors = [*names, f"and {len(self._names) - _MOST_IN_LEGEND} more"], [*colors, "none"]
        dots = [
            Line2D([], [], marker="o", linestyle="", markersize=7, color=color, label=name)
            for name, color in zip(names, colors, strict=True)
        ]
        figure.legend(handles=dots, loc="outside right upper", frameon=False, fontsize=9)

    def _paste(
        self, picture: Image.Image, shown: NDArray[np.float64], thumbnail: Thumbnail, side: int
    ) -> None:
        flat = shown
        if self._dimensions == 3:
            from mpl_toolkits.mplot3d import proj3d

            x, y, _ = proj3d.proj_transform(*shown.T, self._axes.get_proj())
            flat = np.stack([x, y], axis=1)
        places = self._axes.transData.transform(flat)
        pen = ImageDraw.Draw(picture)
        taken: dict[tuple[int, int], list[tuple[int, int]]] = {}
        pitch = side + 6
        for index, (x, y) in enumerate(places):
            left, top = round(x - side / 2), round(picture.height - y - side / 2)
            cell = left // pitch, top // pitch
            around = [
                other
                for column in (-1, 0, 1)
                for row in (-1, 0, 1)
                for other in taken.get((cell[0] + column, cell[1] + row), ())
            ]
            if any(abs(left - other[0]) < pitch and abs(top - other[1]) < pitch for other in around):
                continue
            taken.setdefault(cell, []).append((left, top))
            small = thumbnail(index).convert("RGB")
            ratio = side / max(small.size)
            size = max(1, round(small.width * ratio)), max(1, round(small.height * ratio))
            kind = Image.Resampling.NEAREST if ratio > 2 else Image.Resampling.LANCZOS
            corner = round(x - size[0] / 2), round(picture.height - y - size[1] / 2)
            color = self._colors[index] if self._colors else _palette(1)[0]
            pen.rectangle(
                (corner[0] - 2, corner[1] - 2, corner[0] + size[0] + 1, corner[1] + size[1] + 1),
                fill=tuple(round(255 * part) for part in color[:3]),
            )
            picture.paste(small.resize(size, kind), corner)


def _palette(count: int) -> list[tuple[float, ...]]:
    """Colours that can be told apart, as far as there are so many."""
    import matplotlib

    if count <= 10:
        return list(matplotlib.colormaps["tab10"].colors[:count])  # type: ignore[attr-defined]
    if count <= 20:
        return list(matplotlib.colormaps["tab20"].colors[:count])  # type: ignore[attr-defined]
    return [tuple(matplotlib.colormaps["hsv"](index / count)) for index in range(count)]


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers by their value, before words."""
    return (0, float(label), label) if label.isascii() and label.isdecimal() else (1, 0.0, label)

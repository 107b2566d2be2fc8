"""How the units of a value lie over the image, axis by axis: the arithmetic of Araujo et al. (2019).

Unit ``i`` along an axis sees the pixels ``ceil(low + i * stride)`` to ``floor(high + i * stride)``. Fractions
keep this exact through transposed convolutions and resizing. Where an operator mixes in a way that this
can't say, the answer is the whole image: a reported field may be too large, never too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import onnx

from endoscope_server.graph.values import Shape, Value
from endoscope_server.graph.weights import Array


@dataclass(frozen=True, slots=True)
class AxisField:
    """What the units along one axis see of the image's pixels along it.

    Attributes:
        stride: Pixels between the fields of neighbouring units.
        low: First pixel of unit 0, which may lie before the image.
        high: Last pixel of unit 0.
    """

    stride: Fraction = Fraction(1)
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)

    @property
    def size(self) -> int:
        """How many pixels a unit sees, borders left aside."""
        return math.floor(self.high - self.low) + 1

    def pixels(self, unit: int, extent: int) -> tuple[int, int]:
        """The first pixel that a unit sees of ``extent`` many, and the one after the last."""
        first = math.ceil(self.low + unit * self.stride)
        last = math.floor(self.high + unit * self.stride)
        return min(max(first, 0), extent), min(max(last + 1, 0), extent)

    def through(self, stride: Fraction | int, low: Fraction | int, high: Fraction | int) -> AxisField:
        """The field of a unit ``i`` that reads the units ``low + i * stride`` to ``high + i * stride``."""
        return AxisField(self.stride * stride, self.low + low * self.stride, self.high + high * self.stride)

    def merged(self, other: AxisField) -> AxisField | None:
        """The smallest field that holds both; None if their strides differ."""
        if self.stride != other.stride:
            return None
        return AxisField(self.stride, min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True, slots=True)
class Track:
    """An image axis as it runs along an axis of a value."""

    axis: int
    field: AxisField


Footprint = Mapping[int, Track]
"""Tracks by image axis (0 rows, 1 columns); an axis that is not there is seen as a whole by every unit."""

WHOLE: Footprint = {}


@dataclass(frozen=True, slots=True)
class Step:
    """One node on the way, with what a rule may ask about it."""

    node: onnx.NodeProto
    values: Mapping[str, Value]
    footprints: Mapping[str, Footprint]
    constant: Callable[[str], Array | None]
    opset: int

    def shape(self, name: str) -> Shape | None:
        """The shape of a value, or None if it isn't known."""
        value = self.values.get(name)
        return value.shape if value else None

    def input(self, index: int) -> str:
        """The name of an input, or an empty string for an absent one."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def source(self) -> Footprint:
        """The footprint of the first input."""
        return self.footprints.get(self.node.input[0], WHOLE)

    def rank(self) -> int | None:
        """The rank of the first input."""
        shape = self.shape(self.node.input[0])
        return None if shape is None else len(shape)

    def only_first_depends(self) -> bool:
        """Whether no input but the first depends on the image."""
        return not any(name in self.footprints for name in self.node.input[1:])

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return next((item.i for item in self.node.attribute if item.name == name), default)

    def integers(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        return next((tuple(item.ints) for item in self.node.attribute if item.name == name), default)

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        return next((item.s.decode() for item in self.node.attribute if item.name == name), default)

    def constants(self, index: int, attribute: str) -> tuple[int, ...] | None:
        """Integers given as a constant input or, in older operator sets, as an attribute; None if neither."""
        if name := self.input(index):
            array = self.constant(name)
            return None if array is None else tuple(int(number) for number in array.reshape(-1))
        return self.integers(attribute) or None


Rule = Callable[[Step], Footprint]


def fixed(shape: Shape | None, axis: int) -> int | None:
    """A size that is a known number, or None."""
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) else None

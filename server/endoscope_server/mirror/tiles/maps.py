"""Maps cut into digits, image by image: all numbers of an image are scaled alike.

So pixels can be gathered that a window meets, and one that is outside is zeros.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir

from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.writing import FLOAT, HEAD, I8, I32, KERNEL, Writer
from endoscope_server.mirror.tiles.digits import DIGITS, are_finite, cut, larger, scales
from endoscope_server.mirror.tiles.instructions import DEPTH

_MAP = ("parts", "part", "pixels", "vectors", "input", "input_row", "input_image", "factors", "largest")

LARGEST = (*HEAD, *_MAP)
"""Units are parts of an image, of so many pixels each. ``factors`` are what channels are multiplied by;
``largest`` gets the bits of a part's largest positive and negative numbers."""

CUT = (*HEAD, *_MAP, "depth", "digits", "scales")
"""The same, from which digits are cut: for each pixel those of all channels, the first ones first, each with
zeros up to so much ``depth``. ``scales`` gets what an image's first digits are worth, which is no number if
one of its numbers is none or infinite."""


def depth(channels: int) -> int:
    """Bytes of a digit of a pixel's channels."""
    return -(-channels // DEPTH) * DEPTH


def build_largest(machine: Machine) -> ir.Module:
    """The kernel that looks for the largest numbers."""
    module = ir.Module()
    w = Writer(machine, module, "largest", KERNEL, LARGEST)
    at, number = w.at, w.number
    with w.units() as unit:
        x, first, last = _part(w, unit)
        with w.accumulating(first, last, [w.every(0)] * 2) as (pixel, outer):
            source = w.place(x, at.mul(pixel, w.field("input_row")))
            with w.accumulating(number(0), w.field("vectors"), outer) as (vector, inner):
                inner[:] = larger(w, _value(w, source, vector), inner)
            outer[:] = w.carried
        target = w.place(w.pointer("largest"), at.mul(unit, number(2)), I32)
        for index, found in enumerate(w.carried):
            at.store(w.largest(found), w.place(target, number(index), I32))
    w.finish()
    return module


def build_cut(machine: Machine) -> ir.Module:
    """The kernel that cuts digits."""
    module = ir.Module()
    w = Writer(machine, module, "cut", KERNEL, CUT)
    at, number = w.at, w.number
    with w.units() as unit:
        x, first, last = _part(w, unit)
        parts, vectors, apart = w.field("parts"), w.field("vectors"), w.field("depth")
        image = at.sdiv(unit, parts)
        found = w.place(w.pointer("largest"), at.mul(at.mul(image, parts), number(2)), I32)
        with w.accumulating(number(0), parts, [ir.Constant(I32, 0)] * 2) as (part, carried):
            own = w.place(found, at.mul(part, number(2)), I32)
            for index, before in enumerate(carried):
                bits = at.load(w.place(own, number(index), I32), typ=I32)
                carried[index] = at.select(at.icmp_signed(">", bits, before), bits, before)
        scale, worth = scales(w, w.carried)
        worth = at.select(are_finite(w, w.carried), worth, ir.Constant(FLOAT, math.nan))
        at.store(worth, w.place(w.pointer("scales"), image))
        factor, start = w.spread(scale), at.mul(image, w.field("pixels"))
        with w.loop(first, last) as pixel:
            source = w.place(x, at.mul(pixel, w.field("input_row")))
            place = at.mul(at.add(start, pixel), at.mul(apart, number(DIGITS)))
            target = w.place(w.pointer("digits"), place, I8)
            with w.loop(number(0), vectors) as vector:
                value = at.fmul(_value(w, source, vector), factor)
                cut(w, value, w.place(target, at.mul(vector, number(w.lanes)), I8), apart)
            with w.loop(vectors, at.sdiv(apart, number(w.lanes))) as vector:
                cut(w, w.every(0.0), w.place(target, at.mul(vector, number(w.lanes)), I8), apart)
    w.finish()
    return module


def _part(w: Writer, unit: Any) -> tuple[Any, Any, Any]:
    """An image's memory, and its pixels that a unit stands for."""
    at, parts = w.at, w.field("parts")
    first = at.mul(at.srem(unit, parts), w.field("part"))
    last = w.minimum(at.add(first, w.field("part")), w.field("pixels"))
    return w.place(w.pointer("input"), at.mul(at.sdiv(unit, parts), w.field("input_image"))), first, last


def _value(w: Writer, source: Any, vector: Any) -> Any:
    """Some of a pixel's channels."""
    place = w.at.mul(vector, w.number(w.lanes))
    return w.at.fmul(w.load(source, place), w.load(w.pointer("factors"), place))

"""Rows of floats cut into digits.

A row is multiplied by factors of its inputs and scaled so that its largest number becomes 127 * 2^16. Each
number, rounded to a whole one, is the sum of three digits from -128 to 127, of 2^16, 2^8 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from endoscope_server.mirror.compiling.functions import gelu_slope
from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.writing import FLOAT, HEAD, I8, I32, I64, KERNEL, Writer
from endoscope_server.mirror.tiles.instructions import DEPTH, SIDE, TILE

FIELDS = (*HEAD, "rows", "inputs", "input", "before", "factors", "digits", "scales", "not_finite")
"""Units are blocks of rows. ``before`` are what a function was applied to whose gradients the rows are, if
there is one. ``scales`` are what a row's first digits are multiplied by; ``not_finite`` becomes 1 if a number
is not finite."""

DIGITS = 3
"""Digits of a number."""

BASE = 256.0
"""What a digit is worth more than the next one."""

_FIRST = 127.0
_HALVES = 0x808080
_SIGN = -(1 << 31)
_INFINITY = 0x7F800000
# Rows of smaller numbers are scaled as if this were the largest, else the scale were too large for a float.
_SMALLEST = 2.0**-103


def size(rows: int, inputs: int) -> int:
    """Bytes of the digits of so many rows, with the zeros that fill the last tiles."""
    return -(-rows // SIDE) * -(-inputs // DEPTH) * DIGITS * TILE


def build(machine: Machine, sloped: int) -> ir.Module:
    """The kernel, which writes for each block of rows and of inputs a tile for each digit.

    Args:
        machine: The processor.
        sloped: Whether rows are gradients of what :func:`gelu` gave, of which those before are cut.
    """
    module = ir.Module()
    w = Writer(machine, module, f"digits_{sloped}", KERNEL, FIELDS)
    at, number = w.at, w.number
    rows, inputs, factors = w.field("rows"), w.field("inputs"), w.pointer("factors")
    steps = at.sdiv(at.add(inputs, number(DEPTH - 1)), number(DEPTH))
    padded = at.mul(steps, number(DEPTH))
    values = w.memory(padded)
    with w.loop(inputs, padded, w.lanes) as index:
        w.store(w.every(0.0), values, index)
    with w.units() as unit, w.loop(number(0), number(SIDE)) as line:
        row = at.add(at.mul(unit, number(SIDE)), line)
        inside = at.icmp_signed("<", row, rows)
        first = at.mul(at.select(inside, row, number(0)), inputs)
        source, before = (w.place(w.pointer(name), first) for name in ("input", "before"))
        with w.accumulating(number(0), inputs, [w.every(0)] * 2, w.lanes) as (index, carried):
            value = at.fmul(w.load(source, index), w.load(factors, index))
            if sloped:
                value = at.fmul(value, gelu_slope(w, w.load(before, index)))
            w.store(value, values, index)
            carried[:] = larger(w, value, carried)
        extremes = [w.largest(found) for found in w.carried]
        with at.if_then(at.not_(are_finite(w, extremes))):
            at.store(ir.Constant(I64, 1), w.pointer("not_finite"))
        scale, worth = scales(w, extremes)
        at.store(worth, w.place(w.pointer("scales"), row))
        scale = at.select(inside, w.spread(scale), w.every(0.0))
        block = w.place(w.pointer("digits"), at.mul(at.mul(unit, steps), number(DIGITS * TILE)), I8)
        target = w.place(block, at.mul(line, number(DEPTH)), I8)
        with w.loop(number(0), padded, DEPTH) as index:
            tile = w.place(target, at.mul(index, number(DIGITS * SIDE)), I8)
            for part in range(0, DEPTH, w.lanes):
                value = at.fmul(w.load(values, at.add(index, number(part))), scale)
                cut(w, value, w.place(tile, number(part), I8), number(TILE))
    w.finish()
    return module


def cut(w: Writer, value: Any, place: Any, apart: Any) -> None:
    """Writes the digits of numbers that are scaled, so many bytes from one to the next."""
    at, small = w.at, ir.VectorType(I8, w.lanes)
    # So what is below -128 or above 127 carries over to the digit before.
    halves = w.every(_HALVES)
    found = at.xor(at.add(at.fptosi(w.nearest(value), w.whole), halves), halves)
    for digit in range(DIGITS):
        shifted = at.lshr(found, w.every(8 * (DIGITS - 1 - digit)))
        target = w.place(place, at.mul(apart, w.number(digit)), I8)
        at.store(at.trunc(shifted, small), target, align=1)


def any_there(w: Writer, worth: Any) -> Any:
    """Whether any of some rows has numbers that are not very small, by what first digits are worth."""
    at, bits = w.at, ir.IntType(w.lanes)
    there = at.fcmp_ordered(">", w.absolute(worth), w.every(_SMALLEST / _FIRST))
    return at.icmp_signed("!=", at.bitcast(there, bits), ir.Constant(bits, 0))


def larger(w: Writer, value: Any, most: Sequence[Any]) -> list[Any]:
    """The bits of the largest positive and negative numbers so far, without signs; zero for none.

    What is no number is larger than all.
    """
    at, bits = w.at, w.at.bitcast(value, w.whole)
    turned = at.xor(bits, w.every(_SIGN))
    return [
        at.select(at.icmp_signed(">", one, before), one, before)
        for one, before in zip((bits, turned), most, strict=True)
    ]


def are_finite(w: Writer, extremes: Sequence[Any]) -> Any:
    """Whether the bits of both are those of finite numbers."""
    positive, negative = (w.at.icmp_signed("<", bits, ir.Constant(I32, _INFINITY)) for bits in extremes)
    return w.at.and_(positive, negative)


def scales(w: Writer, extremes: Sequence[Any]) -> tuple[Any, Any]:
    """What numbers are scaled by before they are cut, and what their first digits are worth.

    Both have the sign of the largest number, so that numbers with other signs have the same digits, and give
    the same results but for their signs.

    Args:
        w: Where to.
        extremes: The bits of the largest positive and negative numbers.
    """
    at, (positive, negative) = w.at, extremes
    turns = at.icmp_signed(">", negative, positive)
    most, least = at.bitcast(at.select(turns, negative, positive), FLOAT), ir.Constant(FLOAT, _SMALLEST)
    most = at.select(at.fcmp_ordered(">", most, least), most, least)
    most = at.select(turns, at.fsub(ir.Constant(FLOAT, -0.0), most), most)
    whole = ir.Constant(FLOAT, _FIRST * BASE * BASE)
    return at.fdiv(whole, most), at.fdiv(most, ir.Constant(FLOAT, _FIRST))

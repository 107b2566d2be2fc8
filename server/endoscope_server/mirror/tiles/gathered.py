"""Convolutions as products of gathered pixels with a constant matrix.

A block of pixels of the result is gathered once: for each tap of the window the digits of the pixels that it
meets, which a table tells (see :mod:`endoscope_server.mirror.native.tables`).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.writing import END, FLOAT, HEAD, I8, I32, KERNEL, Writer
from endoscope_server.mirror.tiles.digits import DIGITS
from endoscope_server.mirror.tiles.instructions import DEPTH, SIDE, TILE
from endoscope_server.mirror.tiles.sums import divided, multiplying

FIELDS = (
    *HEAD,
    *("images", "chunk", "blocks", "group", "panels", "steps", "lines", "rows"),
    *("digits", "digits_image", "scales", "depth", "taps", "table", "table_row", "zeros", "places"),
    *("matrix", "matrix_scales", "bias", "bias_apart", "out_image"),
    *END,
)
"""Units are a group of panels, an image, and a chunk of its blocks of pixels. ``rows`` are how many pixels an
image of the result has in the table; an image has so many bytes of digits, a digit of a pixel so much
``depth``, and ``zeros`` are the digits of one outside. All else is as for products."""


def build(machine: Machine, in_order: int) -> ir.Module:
    """The kernel, for a result whose pixels are in order or not."""
    module = ir.Module()
    w = Writer(machine, module, f"gathered_{in_order}", KERNEL, FIELDS)
    at, number = w.at, w.number
    images = w.field("images")
    chunks = divided(w, w.field("blocks"), w.field("chunk"))
    own = w.memory(at.mul(w.field("steps"), number(DIGITS * TILE)), I8)
    with multiplying(w, module) as meet, w.units() as unit:
        rest, chunk = at.sdiv(unit, chunks), at.srem(unit, chunks)
        group, image = at.sdiv(rest, images), at.srem(rest, images)
        source = w.place(w.pointer("digits"), at.mul(image, w.field("digits_image")), I8)
        worth = at.load(w.place(w.pointer("scales"), image), typ=FLOAT)
        shift = at.mul(image, w.field("out_image"))

        def digits(block: Any, first: Any) -> tuple[Any, Any]:
            with at.if_then(first):
                _gather(w, source, at.mul(block, number(SIDE)), own)
            return own, ir.Constant(ir.IntType(1), 1)

        def row(pixel: Any) -> Any:
            return at.add(pixel if in_order else w.integer(w.pointer("places"), pixel), shift)

        meet(group, chunk, digits, (row, lambda _: worth, False))
    w.finish()
    return module


def _gather(w: Writer, digits: Any, top: Any, target: Any) -> None:
    """Puts together the tiles of a block, tap by tap."""
    at, number = w.at, w.number
    depth, zeros = w.field("depth"), w.pointer("zeros")
    line_type = ir.VectorType(I8, DEPTH)
    count = w.minimum(at.sub(w.field("rows"), top), number(SIDE))
    with w.loop(number(0), w.field("taps")) as tap:
        entries = w.place(w.pointer("table"), w.cell(tap, w.field("table_row"), top), I32)
        start = w.place(target, at.mul(at.mul(tap, depth), number(DIGITS * SIDE)), I8)
        with w.loop(number(0), count) as line:
            entry = w.integer(entries, line)
            source = w.gathered(digits, entry, at.mul(depth, number(DIGITS)), zeros, I8)
            own = w.place(start, at.mul(line, number(DEPTH)), I8)
            with w.loop(number(0), depth, DEPTH) as place:
                tile = w.place(own, at.mul(place, number(DIGITS * SIDE)), I8)
                for digit in range(DIGITS):
                    from_here = w.place(source, at.add(at.mul(depth, number(digit)), place), I8)
                    value = at.load(from_here, typ=line_type, align=DEPTH)
                    at.store(value, w.place(tile, number(digit * TILE), I8), align=DEPTH)

"""Pictures as they come, plane by plane, brought to maps with padding around them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.writing import FLOAT, HEAD, I32, KERNEL, Writer

FIELDS = (
    *HEAD,
    *("input", "input_image", "plane", "height", "width", "top", "left"),
    *("out", "out_rows", "out_columns"),
)
"""Units are rows of the padded map, of all images; ``plane`` is the numbers of one of the picture's."""


def build(machine: Machine, channels: int) -> ir.Module:
    """The kernel for so many channels."""
    module = ir.Module()
    w = Writer(machine, module, "enter", KERNEL, FIELDS)
    at, number = w.at, w.number
    rows, columns, width, left = (w.field(name) for name in ("out_rows", "out_columns", "width", "left"))
    line = at.mul(columns, number(channels))
    with w.units() as unit:
        image, row = at.sdiv(unit, rows), at.srem(unit, rows)
        out = w.place(w.pointer("out"), at.mul(unit, line))
        inner = at.sub(row, w.field("top"))
        inside = at.and_(
            at.icmp_signed(">=", inner, number(0)), at.icmp_signed("<", inner, w.field("height"))
        )
        first, last = at.mul(left, number(channels)), at.mul(at.add(left, width), number(channels))
        first, last = at.select(inside, first, line), at.select(inside, last, line)
        for start, end in ((number(0), first), (last, line)):
            with w.loop(start, end) as index:
                at.store(ir.Constant(FLOAT, 0.0), w.place(out, index))
        with at.if_then(inside):
            x = w.place(w.pointer("input"), at.mul(image, w.field("input_image")))
            x = w.place(x, at.mul(inner, width))
            planes = [w.place(x, at.mul(w.field("plane"), number(channel))) for channel in range(channels)]
            target = w.place(out, first)
            with w.loop(number(0), width, w.lanes, whole=True) as index:
                pixels = w.place(target, at.mul(index, number(channels)))
                for part, value in enumerate(_interleaved(w, [w.load(plane, index) for plane in planes])):
                    w.store(value, pixels, number(part * w.lanes))
            with w.loop(w.after, width) as index:
                pixel = w.place(target, at.mul(index, number(channels)))
                for channel, plane in enumerate(planes):
                    at.store(at.load(w.place(plane, index), typ=FLOAT), w.place(pixel, number(channel)))
    w.finish()
    return module


def _interleaved(w: Writer, values: list[Any]) -> list[Any]:
    """The first elements of all vectors, then the second ones, and so on."""
    lanes, count = w.lanes, len(values)
    results = []
    for part in range(count):
        result = values[0]
        for channel in range(count):
            # Lane ``lane`` gets element ``at // count`` of vector ``at % count``.
            chosen = [
                lanes + place // count if place % count == channel else lane
                for lane, place in enumerate(range(part * lanes, (part + 1) * lanes))
            ]
            mask = ir.Constant(ir.VectorType(I32, lanes), chosen)
            result = w.at.shuffle_vector(result, values[channel], mask)
        results.append(result)
    return results

"""Means over all pixels of a map."""

from __future__ import annotations

from llvmlite import ir

from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.writing import END, HEAD, KERNEL, Writer

FIELDS = (*HEAD, "groups", "group", "vectors", "pixels", "input", "input_row", "input_image", "count", *END)
"""Units are an image's group of vectors; ``count`` is the number of pixels as one of 32 bits."""

# So many vectors are summed side by side.
_TOGETHER = 4


def build(machine: Machine) -> ir.Module:
    """The kernel."""
    module = ir.Module()
    w = Writer(machine, module, "mean", KERNEL, FIELDS)
    at, number = w.at, w.number
    groups, group, row = w.field("groups"), w.field("group"), w.field("input_row")
    zero, count = w.every(0.0), w.bound("count")
    w.read_end()
    with w.units() as unit:
        image, part = at.sdiv(unit, groups), at.srem(unit, groups)
        x = w.place(w.pointer("input"), at.mul(image, w.field("input_image")))
        start = at.mul(part, group)
        last = w.minimum(at.add(start, group), w.field("vectors"))
        for together in (_TOGETHER, 1):
            with w.loop(start, last, together, whole=True) as vector:
                columns = [
                    at.mul(at.add(vector, number(other)), number(w.lanes)) for other in range(together)
                ]
                with w.accumulating(number(0), w.field("pixels"), [zero] * together) as (pixel, sums):
                    for place, column in enumerate(columns):
                        sums[place] = at.fadd(sums[place], w.load(x, w.cell(pixel, row, column)))
                w.end([image], columns, [at.fdiv(total, count) for total in w.carried])
            start = w.after
    w.finish()
    return module

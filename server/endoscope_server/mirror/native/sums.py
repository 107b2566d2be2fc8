"""Tensors copied, added, clipped and masked."""

from __future__ import annotations

from llvmlite import ir

from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.writing import END, HEAD, KERNEL, Writer

FIELDS = (*HEAD, "block", "vectors", "pixels", "input", "input_row", *END)
"""Units are blocks of pixels, of all images together."""


def build(machine: Machine) -> ir.Module:
    """The kernel."""
    module = ir.Module()
    w = Writer(machine, module, "sum", KERNEL, FIELDS)
    at = w.at
    w.read_end()
    x, row, block = w.pointer("input"), w.field("input_row"), w.field("block")
    vectors, pixels = w.field("vectors"), w.field("pixels")
    with w.units() as unit:
        first = at.mul(unit, block)
        last = w.minimum(at.add(first, block), pixels)
        with w.loop(first, last) as pixel, w.loop(w.number(0), vectors) as vector:
            column = at.mul(vector, w.number(w.lanes))
            value = w.load(x, w.cell(pixel, row, column))
            w.end([pixel], [column], w.plus_other([pixel], [column], [value]))
    w.finish()
    return module

"""Depthwise convolutions: each channel with a kernel of its own."""

from __future__ import annotations

from llvmlite import ir
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.native.machine import Machine
from endoscope_server.mirror.native.writing import END, HEAD, KERNEL, Writer

FIELDS = (
    *HEAD,
    *("blocks", "block", "vectors"),
    *("pixels", "input", "input_row", "input_image", "table", "zeros", "weights", "bias"),
    *("places", "out_image"),
    *END,
)
"""Units are an image's block of pixels."""


def pack(machine: Machine, weight: Tensor) -> Tensor:
    """Weights (taps x channels) in the order in which the kernel reads them: a vector's taps together."""
    taps, channels = weight.shape
    lanes = machine.lanes
    padded = functional.pad(weight, (0, -channels % lanes))
    return padded.reshape(taps, padded.shape[1] // lanes, lanes).transpose(0, 1).contiguous()


def build(machine: Machine, taps: int) -> ir.Module:
    """The kernel for so many taps."""
    module = ir.Module()
    w = Writer(machine, module, "depthwise", KERNEL, FIELDS)
    at, number = w.at, w.number
    blocks, block, vectors, row = (w.field(name) for name in ("blocks", "block", "vectors", "input_row"))
    table, places, zeros = w.pointer("table"), w.pointer("places"), w.pointer("zeros")
    weights, bias = w.pointer("weights"), w.pointer("bias")
    w.read_end()
    with w.units() as unit:
        image, first = at.sdiv(unit, blocks), at.mul(at.srem(unit, blocks), block)
        last = w.minimum(at.add(first, block), w.field("pixels"))
        x = w.place(w.pointer("input"), at.mul(image, w.field("input_image")))
        shift = at.mul(image, w.field("out_image"))
        with w.loop(first, last) as pixel:
            sources = []
            for tap in range(taps):
                entry = w.integer(table, at.add(at.mul(pixel, number(taps)), number(tap)))
                outside = at.icmp_signed("<", entry, number(0))
                sources.append(at.select(outside, zeros, w.place(x, at.mul(entry, row))))
            place = at.add(w.integer(places, pixel), shift)
            with w.loop(number(0), vectors) as vector:
                column = at.mul(vector, number(w.lanes))
                line = at.mul(column, number(taps))
                (value,) = w.plus_other([place], [column], [w.load(bias, column)])
                for tap, source in enumerate(sources):
                    factor = w.load(weights, at.add(line, number(tap * w.lanes)))
                    value = w.multiply_add(w.load(source, column), factor, value)
                w.end([place], [column], [value])
    w.finish()
    return module

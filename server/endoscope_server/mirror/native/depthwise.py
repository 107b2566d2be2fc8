"""Depthwise convolutions: each channel with a kernel of its own."""

from __future__ import annotations

from llvmlite import ir
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.native.machine import Machine
from endoscope_server.mirror.native.writing import END, HEAD, I64, KERNEL, POINTER, Writer

FIELDS = (
    *HEAD,
    *("blocks", "block", "vectors"),
    *("pixels", "input", "input_row", "input_image", "table", "zeros", "weights", "bias"),
    *("places", "out_image"),
    *END,
)
"""Units are an image's block of pixels."""

BLOCK = 64
"""Pixels of a block at most."""

# So many vectors of channels go over the pixels at once, if their weights fit in the registers.
_TOGETHER = 2


def pack(machine: Machine, weight: Tensor) -> Tensor:
    """Weights (taps x channels) in the order in which the kernel reads them: a vector's taps together."""
    taps, channels = weight.shape
    lanes = machine.lanes
    padded = functional.pad(weight, (0, -channels % lanes))
    return padded.reshape(taps, padded.shape[1] // lanes, lanes).transpose(0, 1).contiguous()


def build(machine: Machine, taps: int) -> ir.Module:
    """The kernel for so many taps.

    For each block of pixels it first notes where its taps are. Then vectors of channels go over all pixels,
    with their weights in registers.
    """
    module = ir.Module()
    w = Writer(machine, module, "depthwise", KERNEL, FIELDS)
    at, number = w.at, w.number
    noted = at.alloca(I64, size=number(BLOCK * max(taps, 1)))
    vectors, row = w.field("vectors"), w.field("input_row")
    table, places, zeros = w.pointer("table"), w.pointer("places"), w.pointer("zeros")
    weights, bias = w.pointer("weights"), w.pointer("bias")
    w.read_end()
    with w.units() as unit:
        image, x, first, last = w.block(unit)
        shift = at.mul(image, w.field("out_image"))
        with w.loop(at.mul(first, number(taps)), at.mul(last, number(taps))) as index:
            source = w.gathered(x, w.integer(table, index), row, zeros)
            target = w.place(noted, at.sub(index, at.mul(first, number(taps))), I64)
            at.store(at.ptrtoint(source, I64), target)
        start = number(0)
        for together in (_TOGETHER, 1) if taps * _TOGETHER < machine.registers * 2 // 3 else (1,):
            with w.loop(start, vectors, together, whole=True) as vector:
                columns = [
                    at.mul(at.add(vector, number(other)), number(w.lanes)) for other in range(together)
                ]
                factors = [
                    w.load(weights, at.add(at.mul(column, number(taps)), number(tap * w.lanes)))
                    for tap in range(taps)
                    for column in columns
                ]
                biases = [w.load(bias, column) for column in columns]
                with w.loop(first, last) as pixel:
                    sources = w.place(noted, at.mul(at.sub(pixel, first), number(taps)), I64)
                    place = at.add(w.integer(places, pixel), shift)
                    values = w.plus_other([place], columns, biases)
                    for tap in range(taps):
                        source = at.load(w.place(sources, number(tap), I64), typ=I64)
                        source = at.inttoptr(source, POINTER)
                        for other, column in enumerate(columns):
                            factor = factors[tap * together + other]
                            values[other] = w.multiply_add(w.load(source, column), factor, values[other])
                    w.end([place], columns, values)
            start = w.after
    w.finish()
    return module

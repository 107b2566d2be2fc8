"""Max pooling: the largest element of each window, and the gradient of the input."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from llvmlite import ir

from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.writing import END, GATHERED, HEAD, I8, KERNEL, Writer

FIELDS = (
    *HEAD,
    *("blocks", "block", "vectors"),
    *GATHERED,
    *("pixels", "taps_chosen", "taps_row", "out_image"),
    *END,
)
"""Units are an image's block of pixels. ``taps_chosen`` has the kernel's tap at which each largest element
was found; ``zeros`` stands for padding: least numbers forward, zeros back."""


def build(machine: Machine, taps: int) -> ir.Module:
    """The kernel for windows of so many taps.

    The table has the input's pixels for each pixel of the result. Of equal elements the first is chosen, and
    what is not a number before all others.
    """
    module = ir.Module()
    w = Writer(machine, module, "max_pool", KERNEL, FIELDS)
    at = w.at
    chosen, chosen_row = w.pointer("taps_chosen"), w.field("taps_row")
    with _pixels(w, taps) as (_, place, x, entries):
        row, zeros = w.field("input_row"), w.pointer("zeros")
        sources = [w.gathered(x, entry, row, zeros) for entry in entries]
        with w.loop(w.number(0), w.field("vectors")) as vector:
            column = at.mul(vector, w.number(w.lanes))
            best = w.load(sources[0], column)
            winner = w.every(0)
            for tap, source in enumerate(sources[1:], 1):
                value = w.load(source, column)
                larger = at.or_(at.fcmp_ordered(">", value, best), at.fcmp_unordered("uno", value, value))
                best = at.select(larger, value, best)
                winner = at.select(larger, w.every(tap), winner)
            with at.if_then(at.icmp_signed("!=", w.field("taps_chosen"), w.number(0))):
                target = w.place(chosen, w.cell(place, chosen_row, column), I8)
                at.store(at.trunc(winner, ir.VectorType(I8, w.lanes)), target, align=1)
            w.end([place], [column], [best])
    w.finish()
    return module


def build_backward(machine: Machine, taps: int) -> ir.Module:
    """The gradient's kernel.

    The table has the result's pixels for each pixel of the input: those whose window has it at that tap.
    """
    module = ir.Module()
    w = Writer(machine, module, "max_pool_backward", KERNEL, FIELDS)
    at = w.at
    row, chosen_row = w.field("input_row"), w.field("taps_row")
    zeros = w.pointer("zeros")
    with _pixels(w, taps) as (image, place, x, entries):
        # The taps of an image's elements lie as its gradients do, in rows of their own length.
        pixels = at.sdiv(at.mul(image, w.field("input_image")), row)
        chosen = w.place(w.pointer("taps_chosen"), at.mul(pixels, chosen_row), I8)
        sources = [w.gathered(x, entry, row, zeros) for entry in entries]
        winners = [w.gathered(chosen, entry, chosen_row, zeros, I8) for entry in entries]
        with w.loop(w.number(0), w.field("vectors")) as vector:
            column = at.mul(vector, w.number(w.lanes))
            nothing = w.every(0.0)
            (total,) = w.plus_other([place], [column], [nothing])
            for tap, (source, winner) in enumerate(zip(sources, winners, strict=True)):
                taken = at.load(w.place(winner, column, I8), typ=ir.VectorType(I8, w.lanes), align=1)
                here = at.icmp_signed("==", taken, ir.Constant(taken.type, [tap] * w.lanes))
                total = at.fadd(total, at.select(here, w.load(source, column), nothing))
            w.end([place], [column], [total])
    w.finish()
    return module


@contextlib.contextmanager
def _pixels(w: Writer, taps: int) -> Iterator[tuple[Any, Any, Any, list[Any]]]:
    """Code for each pixel of a unit: its image, its row in the result, the image's memory, and its taps."""
    at = w.at
    w.read_end()
    table, row = w.pointer("table"), w.field("table_row")
    with w.units() as unit:
        image, x, first, last = w.block(unit)
        with w.loop(first, last) as pixel:
            entries = [w.integer(table, w.cell(w.number(tap), row, pixel)) for tap in range(taps)]
            yield image, at.add(pixel, at.mul(image, w.field("out_image"))), x, entries

"""Convolutions of all channels with all channels, as products of matrices with gathered rows.

For each pixel of the result a table tells which pixel of the input each tap of the kernel meets, or that it
meets padding (Dukhan 2019, "The Indirect Convolution Algorithm"). So strides, dilations and padding cost
nothing, and the gradient of the input is computed by the same kernel: with other tables, and for strides with
some of the taps for each phase.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from llvmlite import ir
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.writing import (
    END,
    FLOAT,
    GATHERED,
    HEAD,
    I32,
    I64,
    KERNEL,
    POINTER,
    Writer,
)

FIELDS = (
    *HEAD,
    *("blocks", "block", "chunks", "chunk", "panels", "column"),
    *GATHERED,
    *("pixels", "taps", "channels", "weights", "bias", "slices", "slice_count", "places", "out_image"),
    *END,
)
"""Units are an image's block of pixels and a chunk of its panels; a panel is as many columns as a kernel
computes at once, of which the first of all is ``column``. Sums go over slices, one after the other for all
pixels of the block: first and last tap, first and last channel."""

# Of a panel's weights so many numbers, which stay in the nearest cache for all pixels of a block.
_SLICE = 9216


def heights(machine: Machine, vectors: int) -> tuple[int, ...]:
    """How many pixels are computed at once, from many to one, for so many vectors of channels each."""
    most = {32: {1: 12, 2: 12, 3: 8, 4: 6}, 16: {1: 10, 2: 6, 3: 4}}[machine.registers][vectors]
    return tuple(dict.fromkeys(height for height in (most, 4, 2, 1) if height <= most))


def panels(machine: Machine, vectors: int) -> list[int]:
    """Into how many vectors each the columns are divided, few sizes, wide ones first."""
    widest = 4 if machine.registers == 32 else 3
    if vectors % 3 == 0:
        return [3] * (vectors // 3)
    count = -(-vectors // widest)
    wide = vectors - count * (vectors // count)
    return [vectors // count + 1] * wide + [vectors // count] * (count - wide)


def pack(machine: Machine, weight: Tensor) -> list[tuple[int, int, Tensor]]:
    """Weights in the order in which the kernel reads them.

    Args:
        machine: The processor.
        weight: Taps x input channels x output channels.

    Returns:
        For each width of a panel: its vectors, how many panels there are, and their weights.
    """
    taps, channels, columns = weight.shape
    lanes = machine.lanes
    vectors = -(-columns // lanes)
    padded = torch.nn.functional.pad(weight, (0, vectors * lanes - columns))
    widths, packed, first = panels(machine, vectors), [], 0
    for width in dict.fromkeys(widths):
        count = widths.count(width)
        part = padded[:, :, first : first + count * width * lanes]
        part = part.reshape(taps, channels, count, width * lanes).permute(2, 0, 1, 3).contiguous()
        packed.append((width, count, part))
        first += count * width * lanes
    return packed


@functools.lru_cache(maxsize=256)
def slices(taps: int, channels: int, width: int) -> NDArray[np.int64]:
    """How sums over taps and channels are divided, for panels of so many columns; at least one slice."""
    most = _SLICE // width
    if channels > most:
        parts = -(-channels // most)
        cuts = [channels * part // parts for part in range(parts + 1)]
        found = [(tap, tap + 1, *pair) for tap in range(taps) for pair in itertools.pairwise(cuts)]
    else:
        parts = max(1, -(-taps * channels // most))
        cuts = [taps * part // parts for part in range(parts + 1)]
        found = [(*pair, 0, channels) for pair in itertools.pairwise(cuts)]
    return np.array(found or [(0, 0, 0, 0)], np.int64)


def build(machine: Machine, vectors: int, in_order: int) -> ir.Module:
    """The kernel for panels of so many vectors, of a result whose pixels are in order or not.

    For each block of pixels it first notes where its taps are.
    """
    module = ir.Module()
    tiles = [
        (height, _tile(machine, module, height, vectors, in_order)) for height in heights(machine, vectors)
    ]
    w = Writer(machine, module, "dense", KERNEL, FIELDS)
    at, number = w.at, w.number
    chunks, taps, table = w.field("chunks"), w.field("taps"), w.pointer("table")
    block, line = w.field("block"), number(vectors * w.lanes)
    noted = at.alloca(I64, size=at.mul(block, taps))
    with w.units() as unit:
        rest, part = at.sdiv(unit, chunks), at.srem(unit, chunks)
        image, x, first, last = w.block(rest)
        panel = at.mul(part, w.field("chunk"))
        until = w.minimum(at.add(panel, w.field("chunk")), w.field("panels"))
        size = at.mul(at.mul(taps, w.field("channels")), line)
        shift = at.mul(image, w.field("out_image"))
        with w.loop(number(0), taps) as tap:
            entries = w.place(table, w.cell(tap, w.field("table_row"), first), I32)
            targets = w.place(noted, at.mul(tap, block), I64)
            w.note(x, entries, at.sub(last, first), targets)
        with w.loop(panel, until) as current, w.loop(number(0), w.field("slice_count")) as index:
            weights = w.place(w.pointer("weights"), at.mul(current, size))
            column = at.add(w.field("column"), at.mul(current, line))
            bounds = w.place(w.pointer("slices"), at.mul(index, number(4)), I64)
            tap, last_tap, channel, last_channel = (
                at.load(w.place(bounds, number(other), I64), typ=I64) for other in range(4)
            )
            weights = w.place(weights, at.mul(w.cell(tap, w.field("channels"), channel), line))
            count = at.mul(at.sub(last_tap, tap), at.sub(last_channel, channel))
            sources = w.place(noted, at.mul(tap, block), I64)
            # While these weights are used, those that follow are fetched.
            ahead, start = w.place(weights, at.mul(count, line)), first
            for height, tile in tiles:
                with w.accumulating(start, last, [ahead], height, whole=True) as (pixel, carried):
                    own = w.place(sources, at.sub(pixel, first), I64)
                    part = [at.sub(last_tap, tap), channel, last_channel]
                    place = [column, at.add(pixel, shift) if in_order else pixel, shift]
                    at.call(tile, [w.arguments[0], own, weights, carried[0], *place, *part, index])
                    carried[0] = w.place(carried[0], at.mul(count, number(w.lanes)))
                start, [ahead] = w.after, w.carried
    w.finish()
    return module


def _tile(machine: Machine, module: ir.Module, height: int, vectors: int, in_order: int) -> ir.Function:
    """Some pixels of a panel, and a slice of their sums."""
    kinds = [POINTER] * 4 + [I64] * 7
    w = Writer(machine, module, f"tile_{height}_{vectors}", kinds, FIELDS)
    at, number = w.at, w.number
    _, sources, weights, ahead, column, pixel, shift, taps, channel, last_channel, index = w.arguments
    line, block = number(vectors * w.lanes), w.field("block")
    columns = [at.add(column, number(other * w.lanes)) for other in range(vectors)]
    pixels = [at.add(pixel, number(other)) for other in range(height)]
    if not in_order:
        places = w.place(w.pointer("places"), pixel, I32)
        pixels = [at.add(w.integer(places, number(other)), shift) for other in range(height)]
    begins = at.icmp_signed("==", index, number(0))
    sums = w.either(
        begins,
        lambda: w.plus_other(
            pixels, columns, [w.load(w.pointer("bias"), place) for place in columns] * height
        ),
        lambda: w.stored(pixels, columns),
    )
    with w.accumulating(number(0), taps, sums) as (current, values):
        near = w.place(sources, at.mul(current, block), I64)
        rows = [w.noted(near, number(other)) for other in range(height)]
        panel = w.place(weights, at.mul(at.mul(current, w.field("channels")), line))
        with w.accumulating(channel, last_channel, values) as (step, inner):
            done = at.sub(step, channel)
            factors_at = w.place(panel, at.mul(done, line))
            factors = [w.load(factors_at, number(other * w.lanes)) for other in range(vectors)]
            # The weights of few columns are near anyway.
            if vectors > 1:
                w.fetch(w.place(ahead, at.mul(done, number(w.lanes))))
            for other, source in enumerate(rows):
                value = w.spread(at.load(w.place(source, step), typ=FLOAT))
                for place, factor in enumerate(factors, other * vectors):
                    inner[place] = w.multiply_add(value, factor, inner[place])
        values[:] = w.carried
    results = list(w.carried)
    ends = at.icmp_signed("==", at.add(index, number(1)), w.field("slice_count"))
    with at.if_else(ends) as (then, otherwise):
        with then:
            w.end(pixels, columns, results)
        with otherwise:
            w.store_all(pixels, columns, results)
    return w.finish()

"""Depthwise convolutions: each channel with a kernel of its own."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.writing import END, HEAD, I32, I64, KERNEL, Writer

FIELDS = (
    *HEAD,
    *("rows", "columns", "segments", "segment", "span", "vectors"),
    *("input", "input_row", "input_image", "table", "zeros", "weights", "bias"),
    *("places", "apart", "out_image"),
    *END,
)
"""Units are an image's row, or a segment of one."""

SEGMENT = 64
"""Places of a segment at most."""

LARGEST = 4096
"""Pixels at most that the taps of a segment meet."""

# So many vectors of channels go over the pixels at once, if there are registers for them.
_TOGETHER = 2
# So many places of a row are computed at once; what is left over, one by one. The sizes of most pictures that
# networks are trained with leave nothing over with the first.
_HEIGHTS = (7, 8, 6, 5, 4)


def met(rows: int, step: int, offsets: Sequence[int]) -> int:
    """How many pixels the taps of a segment meet at most."""
    return rows * _reach(SEGMENT, step, offsets)


def height(columns: int) -> int:
    """How many places of a row of so many are best computed at once: few kernels for few left over."""
    return min(_HEIGHTS, key=lambda most: columns % most)


def pack(machine: Machine, weight: Tensor) -> Tensor:
    """Weights (taps x channels) in the order in which the kernel reads them: a vector's taps together."""
    taps, channels = weight.shape
    lanes = machine.lanes
    padded = functional.pad(weight, (0, -channels % lanes))
    return padded.reshape(taps, padded.shape[1] // lanes, lanes).transpose(0, 1).contiguous()


def build(machine: Machine, most: int, rows: int, step: int, *offsets: int) -> ir.Module:
    """The kernel that computes ``most`` places of a row at once, see :class:`tables.Sweep`.

    Neighbours of a row share what their taps meet. For each unit it first notes where that is. Then vectors
    of channels go over its places one by one.
    """
    module = ir.Module()
    w = Writer(machine, module, "depthwise", KERNEL, FIELDS)
    at, number = w.at, w.number
    room = _reach(SEGMENT, step, offsets)
    noted = at.alloca(I64, size=number(max(rows * room, 1)))
    row_count, segments, columns, length = (
        w.field(name) for name in ("rows", "segments", "columns", "segment")
    )
    span, lanes, table, places = w.field("span"), number(w.lanes), w.pointer("table"), w.pointer("places")
    weights, bias = w.pointer("weights"), w.pointer("bias")
    w.read_end()
    with w.units() as unit:
        line, segment = at.sdiv(unit, segments), at.srem(unit, segments)
        image, row = at.sdiv(line, row_count), at.srem(line, row_count)
        x = w.place(w.pointer("input"), at.mul(image, w.field("input_image")))
        first = at.mul(segment, length)
        count = at.sub(w.minimum(at.add(first, length), columns), first)
        place = at.add(w.integer(places, row), at.mul(first, w.field("apart")))
        place = at.add(place, at.mul(image, w.field("out_image")))
        width = at.add(at.mul(at.sub(count, number(1)), number(step)), number(_reach(1, step, offsets)))
        for tap in range(rows):
            line_of_table = at.add(at.mul(row, number(rows)), number(tap))
            start = at.add(at.mul(line_of_table, span), at.mul(first, number(step)))
            targets = w.place(noted, number(tap * room), I64)
            w.note(x, w.place(table, start, I32), width, targets)
        start = number(0)
        for together in (_TOGETHER, 1) if machine.registers == 32 else (1,):
            with w.loop(start, w.field("vectors"), together, whole=True) as vector:
                columns = [at.mul(at.add(vector, number(other)), lanes) for other in range(together)]
                own = [w.place(weights, at.mul(one, number(rows * len(offsets)))) for one in columns]
                begun = number(0)
                for tile in (most, 1):
                    with w.loop(begun, count, tile, whole=True) as index:
                        pixels = [
                            at.add(place, at.mul(at.add(index, number(other)), w.field("apart")))
                            for other in range(tile)
                        ]
                        values = w.plus_other(pixels, columns, [w.load(bias, one) for one in columns] * tile)
                        near = w.place(noted, at.mul(index, number(step)), I64)
                        _add_taps(w, values, (near, room), own, columns, (rows, step, offsets))
                        w.end(pixels, columns, values)
                    begun = w.after
            start = w.after
    w.finish()
    return module


def _add_taps(
    w: Writer,
    values: list[Any],
    noted: tuple[Any, int],
    weights: Sequence[Any],
    columns: Sequence[Any],
    sweep: tuple[int, int, Sequence[int]],
) -> None:
    """Adds what the taps of neighbours meet, each pixel read once for all of them."""
    (near, room), (rows, step, offsets), count = noted, sweep, len(columns)
    for row in range(rows):
        factors = [
            [w.load(own, w.number((row * len(offsets) + tap) * w.lanes)) for own in weights]
            for tap in range(len(offsets))
        ]
        meeting = defaultdict(list)
        for place, (tap, offset) in itertools.product(range(len(values) // count), enumerate(offsets)):
            meeting[place * step + offset].append((place, tap))
        for reached, pairs in sorted(meeting.items()):
            source = w.noted(near, w.number(row * room + reached))
            pixel = [w.load(source, column) for column in columns]
            for (place, tap), other in itertools.product(pairs, range(count)):
                index = place * count + other
                values[index] = w.multiply_add(pixel[other], factors[tap][other], values[index])


def _reach(places: int, step: int, offsets: Sequence[int]) -> int:
    """Columns of a table for so many places of a row."""
    return (places - 1) * step + max(offsets, default=-1) + 1

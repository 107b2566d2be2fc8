"""Products of a few rows with a large matrix, which is read at most once and as it lies.

What takes time is to read the matrix. Blocks of its columns are summed over its rows, a few of which are read
side by side, while the result's block stays in the nearest cache. Rows whose weights are all zero are not
read: behind a ReLU that is half of them or more, and so it is with gradients before one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from llvmlite import ir
from torch import Tensor

from endoscope_server.mirror.compiling.arena import plain
from endoscope_server.mirror.compiling.machine import Machine, machine
from endoscope_server.mirror.compiling.program import Field, Operation, Program
from endoscope_server.mirror.compiling.writing import FLOAT, HEAD, I32, KERNEL, Writer

FIELDS = (*HEAD, "width", "columns", "read", "factors", "matrix", "out")
"""Units are blocks of so many columns. ``read`` is how many rows of the matrix are read, and which;
``factors`` are the weights of those, for each of the rows that are multiplied."""

MOST = 15
"""Rows at most."""

# Rows of the matrix that are read side by side.
_DEPTH = 8
# Columns of a block, at most: pieces of rows that are long are read faster.
_WIDTH = 2048


def build(machine: Machine, rows: int) -> ir.Module:
    """The kernel for so many rows."""
    module = ir.Module()
    w = Writer(machine, module, "rows", KERNEL, FIELDS)
    at, number = w.at, w.number
    columns, width, count = w.field("columns"), w.field("width"), w.integer(w.pointer("read"), number(0))
    factors, out = w.pointer("factors"), w.pointer("out")
    zero = w.every(0.0)
    together = 2 if 2 * rows + 3 <= machine.registers else 1
    step = together * w.lanes
    with w.units() as unit:
        first = at.mul(unit, width)
        last = w.minimum(at.add(first, width), columns)
        for row in range(rows):
            with w.loop(first, last, w.lanes) as column:
                w.store(zero, out, w.cell(number(row), columns, column))
        start = number(0)
        for depth in (_DEPTH, 1):
            with w.loop(start, count, depth, whole=True) as index:
                lines = _lines(w, [at.add(index, number(other)) for other in range(depth)])
                # While these are used, those that follow are fetched; the last one again and again.
                following = [at.add(index, number(other)) for other in range(depth, 2 * depth)]
                ahead = _lines(w, [w.minimum(other, at.sub(count, number(1))) for other in following])
                own = w.place(factors, at.mul(index, number(rows)))
                begun = first
                for size in dict.fromkeys((step, w.lanes)):
                    with w.loop(begun, last, size, whole=True) as column:
                        _add_lines(
                            w,
                            rows,
                            [at.add(column, number(n)) for n in range(0, size, w.lanes)],
                            lines,
                            ahead,
                            own,
                        )
                    begun = w.after
            start = w.after
    w.finish()
    return module


def _lines(w: Writer, numbers: Sequence[Any]) -> list[Any]:
    """Where those rows of the matrix begin that are read as first, second and so on."""
    read, matrix, columns = (
        w.place(w.pointer("read"), w.number(1), I32),
        w.pointer("matrix"),
        w.field("columns"),
    )
    return [w.place(matrix, w.at.mul(w.integer(read, number), columns)) for number in numbers]


def _add_lines(
    w: Writer, rows: int, places: Sequence[Any], lines: Sequence[Any], ahead: Sequence[Any], factors: Any
) -> None:
    """Adds some rows of the matrix to all results, at some places."""
    at, out, columns = w.at, w.pointer("out"), w.field("columns")
    cells = [w.cell(w.number(row), columns, place) for row in range(rows) for place in places]
    sums = [w.load(out, cell) for cell in cells]
    for other, (line, following) in enumerate(zip(lines, ahead, strict=True)):
        values = [w.load(line, place) for place in places]
        for place in places:
            w.fetch(w.place(following, place))
        for row in range(rows):
            factor = w.spread(at.load(w.place(factors, w.number(other * rows + row)), typ=FLOAT))
            for part, value in enumerate(values, row * len(places)):
                sums[part] = w.multiply_add(value, factor, sums[part])
    for cell, total in zip(cells, sums, strict=True):
        w.store(total, out, cell)


@functools.lru_cache(maxsize=64)
def _program(processor: Machine, threads: int, rows: int, inputs: int, columns: int) -> Program:
    units = threads * -(-columns // (_WIDTH * threads))
    width = -(-columns // (units * processor.lanes)) * processor.lanes
    sizes = {"read": 1 + inputs, "factors": inputs * rows, "matrix": inputs * columns, "out": rows * columns}
    maps = {name: plain(size, outside=True) for name, size in sizes.items()}
    fields: dict[str, Field] = {"units": -(-columns // width), "width": width, "columns": columns, **maps}
    return Program(processor, [Operation(build, (rows,), FIELDS, fields)], [], [])


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """Rows x columns, from rows x inputs and inputs x columns."""
    processor = machine()
    assert processor is not None
    kept = (x != 0).any(0).nonzero().squeeze(1)
    factors = x.t()[kept].contiguous()
    read = torch.empty(len(kept) + 1, dtype=torch.int32)
    read[0], read[1:] = len(kept), kept
    out = x.new_empty(len(x), matrix.shape[1])
    program = _program(processor, torch.get_num_threads(), len(x), *matrix.shape)
    program.run([], outside=[tensor.data_ptr() for tensor in (read, factors, matrix, out)])
    return out


def takes(columns: int) -> bool:
    """Whether there is a kernel for matrices of so many columns."""
    processor = machine()
    return processor is not None and columns % processor.lanes == 0


def fits(x: Tensor, matrix: Tensor) -> bool:
    """Whether :data:`product` takes a matrix and rows to multiply with it, each of two axes."""
    return (
        takes(matrix.shape[1])
        and 0 < len(x) <= MOST
        and matrix.is_contiguous()
        and all(one.dtype == torch.float32 and one.device.type == "cpu" for one in (x, matrix))
    )


# An operator of torch's, so that it can be taken down and done again with the others.
_library = torch.library.Library("endoscope", "FRAGMENT")
_library.define("few_rows(Tensor rows, Tensor matrix) -> Tensor")
_library.impl("few_rows", _product, "CPU")
product = torch.ops.endoscope.few_rows
"""Rows x columns, from rows x inputs and inputs x columns that fit."""

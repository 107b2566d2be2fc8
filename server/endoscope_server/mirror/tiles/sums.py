"""The sums of a product: blocks of rows and panels of columns, 16 of each, whose digits are multiplied.

There are three sums of 32 bits: of the products of first digits, of those a digit less, and of those two
less. Joined and scaled they are the result.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from endoscope_server.mirror.compiling.functions import gelu
from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.writing import END, FLOAT, HEAD, I8, I32, KERNEL, Writer
from endoscope_server.mirror.tiles.digits import BASE, DIGITS
from endoscope_server.mirror.tiles.instructions import DEPTH, SIDE, TILE, Tiles

FIELDS = (
    *HEAD,
    *("chunk", "blocks", "group", "panels", "steps", "lines", "rows"),
    *("digits", "scales", "matrix", "matrix_scales", "bias", "bias_apart", "before"),
    *END,
)
"""Units are a group of panels and a chunk of blocks of rows. ``steps`` are blocks of inputs, beside each of
which so many ``lines`` are ended. ``bias_apart`` is 1, or 0 where all columns have the same. ``before`` gets
what the function is applied to that may follow."""

# Registers: first come the sums, then digits of rows, then those of columns, the third where the second was.
_ROWS, _COLUMNS = (3, 4, 5), (6, 7, 7)
# Of rows and of columns: digits that are multiplied once so many of both are there.
_PAIRS = (((0, 0),), ((1, 0), (0, 1), (1, 1)), ((2, 0), (0, 2)))


def build(machine: Machine, curved: int) -> ir.Module:
    """The kernel.

    Args:
        machine: The processor.
        curved: Whether :func:`gelu` follows.
    """
    module = ir.Module()
    w = Writer(machine, module, f"product_{curved}", KERNEL, FIELDS)
    at, number, tiles = w.at, w.number, Tiles(w, module)
    w.read_end()
    blocks, chunk, panels, group = (w.field(name) for name in ("blocks", "chunk", "panels", "group"))
    steps, per_step, zero, one = w.field("steps"), w.field("lines"), number(0), number(1)
    size = at.mul(steps, number(DIGITS * TILE))
    memory = w.memory(number(2 * DIGITS * SIDE * SIDE), I32)
    chunks = at.sdiv(at.add(blocks, at.sub(chunk, one)), chunk)
    tiles.begin()
    with w.units() as unit:
        first, start = at.mul(at.sdiv(unit, chunks), group), at.mul(at.srem(unit, chunks), chunk)
        width = at.sub(w.minimum(at.add(first, group), panels), first)
        height = at.sub(w.minimum(at.add(start, chunk), blocks), start)
        count = at.mul(height, width)

        def place(index: Any) -> tuple[Any, Any, Any]:
            """Which block and panel meet, and where their sums go: by turns to one place and another."""
            block, panel = at.add(start, at.sdiv(index, width)), at.add(first, at.srem(index, width))
            turn = at.and_(index, one)
            return block, panel, w.place(memory, at.mul(turn, number(DIGITS * SIDE * SIDE)), I32)

        def lines(index: Any) -> _Lines:
            """What was summed before an index."""
            there = at.icmp_signed(">", index, zero)
            return _Lines(w, bool(curved), *place(at.sub(index, one)), there)

        with w.loop(zero, count) as index:
            block, panel, sums = place(index)
            pending = lines(index)
            left = w.place(w.pointer("digits"), at.mul(block, size), I8)
            right = w.place(w.pointer("matrix"), at.mul(panel, size), I8)
            for order in range(DIGITS):
                tiles.zero(order)
            with w.loop(zero, steps) as step:
                done = at.mul(step, number(DIGITS * TILE))
                _add_products(w, tiles, w.place(left, done, I8), w.place(right, done, I8))
                # While tiles multiply, vectors end what was summed before.
                line = at.mul(step, per_step)
                pending.end(line, at.add(line, per_step))
            for order in range(DIGITS):
                tiles.store(order, w.place(sums, number(order * SIDE * SIDE), I32))
        lines(count).end(zero, number(SIDE))
    tiles.end()
    w.finish()
    return module


def _add_products(w: Writer, tiles: Tiles, rows: Any, columns: Any) -> None:
    """Adds products of a step's digits to the sums of their order."""
    for digit in range(DIGITS):
        tiles.load(_ROWS[digit], w.place(rows, w.number(digit * TILE), I8))
        tiles.load(_COLUMNS[digit], w.place(columns, w.number(digit * TILE), I8))
        for row, column in _PAIRS[digit]:
            tiles.multiply_add(row + column, _ROWS[row], _COLUMNS[column])


class _Lines:
    """Lines of a block's and a panel's result, whose sums are there.

    Args:
        w: Where they are ended.
        curved: Whether :func:`gelu` follows.
        block: Which block.
        panel: Which panel.
        sums: Where the sums are.
        present: Whether there are any.
    """

    def __init__(self, w: Writer, curved: bool, block: Any, panel: Any, sums: Any, present: Any) -> None:
        at, zero = w.at, w.number(0)
        self._w, self._curved, self._sums = w, curved, sums
        self._top = at.mul(block, w.number(SIDE))
        self._count = at.select(present, at.sub(w.field("rows"), self._top), zero)
        self._column = at.select(present, at.mul(panel, w.number(SIDE)), zero)
        self._factors = w.load(w.pointer("matrix_scales"), self._column)
        self._bias = w.load(w.pointer("bias"), at.mul(self._column, w.field("bias_apart")))

    def end(self, first: Any, last: Any) -> None:
        """Scales some lines and writes them where they belong."""
        w, at = self._w, self._w.at
        with w.loop(first, w.minimum(last, self._count)) as line:
            row = at.add(self._top, line)
            total = at.fmul(_joined(w, w.place(self._sums, at.mul(line, w.number(SIDE)), I32)), self._factors)
            scale = w.spread(at.load(w.place(w.pointer("scales"), row), typ=FLOAT))
            total = w.multiply_add(total, scale, self._bias)
            [total] = w.plus_other([row], [self._column], [total])
            if self._curved:
                w.store(total, w.pointer("before"), w.cell(row, w.field("out_row"), self._column))
                total = gelu(w, total)
            w.end([row], [self._column], [total])


def _joined(w: Writer, sums: Any) -> Any:
    """A line of the sums, as floats in which first digits are whole numbers."""
    at = w.at
    places = [w.place(sums, w.number(order * SIDE * SIDE), I32) for order in range(DIGITS)]
    parts = [at.sitofp(at.load(place, typ=w.whole, align=DEPTH), w.vector) for place in places]
    total = parts.pop()
    while parts:
        total = w.multiply_add(total, w.every(1 / BASE), parts.pop())
    return total

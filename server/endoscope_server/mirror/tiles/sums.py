"""The sums of a product: blocks of rows and panels of columns, 16 of each, whose digits are multiplied.

There are three sums of 32 bits: of the products of first digits, of those a digit less, and of those two
less. Joined and scaled they are the result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir

from endoscope_server.mirror.compiling.functions import gelu
from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.writing import END, FLOAT, HEAD, I8, I32, KERNEL, Writer
from endoscope_server.mirror.tiles.digits import BASE, DIGITS, any_there
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


Place = Callable[[Any], Any]
"""From a row's number in its table to something else."""


class _Lines:
    """Lines of a block's and a panel's result, whose sums are there.

    Args:
        w: Where they are ended.
        block: Which block.
        panel: Which panel.
        sums: Where the sums are.
        there: Whether there are any.
        ends: Where rows go, what their first digits are worth, and whether :func:`gelu` follows.
    """

    def __init__(
        self, w: Writer, block: Any, panel: Any, sums: Any, there: Any, ends: tuple[Place, Place, bool]
    ) -> None:
        at, number = w.at, w.number
        self._w, self._sums = w, sums
        self._row, self._scale, self._curved = ends
        self._top = at.mul(block, number(SIDE))
        left = w.minimum(at.sub(w.field("rows"), self._top), number(SIDE))
        self._count = at.select(there, left, number(0))
        self._column = at.select(there, at.mul(panel, number(SIDE)), number(0))
        self._factors = w.load(w.pointer("matrix_scales"), self._column)
        self._bias = w.load(w.pointer("bias"), at.mul(self._column, w.field("bias_apart")))

    def end(self, first: Any, last: Any) -> None:
        """Scales some lines and writes them where they belong."""
        w, at, column = self._w, self._w.at, self._column
        with w.loop(first, w.minimum(last, self._count)) as line:
            number = at.add(self._top, line)
            row = self._row(number)
            total = at.fmul(_joined(w, w.place(self._sums, at.mul(line, w.number(SIDE)), I32)), self._factors)
            total = w.multiply_add(total, w.spread(self._scale(number)), self._bias)
            [total] = w.plus_other([row], [column], [total])
            if self._curved:
                w.store(total, w.pointer("before"), w.cell(row, w.field("out_row"), column))
                total = gelu(w, total)
            w.end([row], [column], [total])


def build(machine: Machine, curved: int) -> ir.Module:
    """The kernel.

    Args:
        machine: The processor.
        curved: Whether :func:`gelu` follows.
    """
    module = ir.Module()
    w = Writer(machine, module, f"product_{curved}", KERNEL, FIELDS)
    at, number = w.at, w.number
    size = at.mul(w.field("steps"), number(DIGITS * TILE))
    chunks = divided(w, w.field("blocks"), w.field("chunk"))

    def digits(block: Any, _: Any) -> tuple[Any, Any]:
        worth = w.load(w.pointer("scales"), at.mul(block, number(SIDE)))
        return w.place(w.pointer("digits"), at.mul(block, size), I8), any_there(w, worth)

    def scale(row: Any) -> Any:
        return at.load(w.place(w.pointer("scales"), row), typ=FLOAT)

    with multiplying(w, module) as meet, w.units() as unit:
        ends = (lambda row: row), scale, bool(curved)
        meet(at.sdiv(unit, chunks), at.srem(unit, chunks), digits, ends)
    w.finish()
    return module


Meet = Callable[[Any, Any, Callable[[Any, Any], tuple[Any, Any]], tuple[Place, Place, bool]], None]


@contextlib.contextmanager
def multiplying(w: Writer, module: ir.Module) -> Iterator[Meet]:
    """Code in which blocks of rows meet panels of columns.

    What it gives writes that for a group of panels and a chunk of blocks, by their numbers. It gets a
    function that tells where a block's digits are and whether they aren't all zero, knowing whether this is
    its first panel; and how lines are ended: where rows go, what their first digits are worth, and whether
    :func:`gelu` follows.
    """
    at, number, tiles = w.at, w.number, Tiles(w, module)
    zero, one = number(0), number(1)
    w.read_end()
    blocks, chunk, panels, group = (w.field(name) for name in ("blocks", "chunk", "panels", "group"))
    steps, per_step = w.field("steps"), w.field("lines")
    size = at.mul(steps, number(DIGITS * TILE))
    # Sums go to one place and another by turns.
    memory = w.memory(number(2 * DIGITS * SIDE * SIDE), I32)

    def meet(
        group_number: Any,
        chunk_number: Any,
        digits: Callable[[Any, Any], tuple[Any, Any]],
        ends: tuple[Place, Place, bool],
    ) -> None:
        first, start = at.mul(group_number, group), at.mul(chunk_number, chunk)
        width = at.sub(w.minimum(at.add(first, group), panels), first)
        height = at.sub(w.minimum(at.add(start, chunk), blocks), start)
        count = at.mul(height, width)

        def place(index: Any) -> tuple[Any, Any, Any]:
            turn = at.mul(at.and_(index, one), number(DIGITS * SIDE * SIDE))
            block, panel = at.add(start, at.sdiv(index, width)), at.add(first, at.srem(index, width))
            return block, panel, w.place(memory, turn, I32)

        def before(index: Any) -> _Lines:
            return _Lines(w, *place(at.sub(index, one)), at.icmp_signed(">", index, zero), ends)

        with w.loop(zero, count) as index:
            block, panel, sums = place(index)
            pending = before(index)
            left, there = digits(block, at.icmp_signed("==", panel, first))
            until = at.select(there, steps, zero)
            right = w.place(w.pointer("matrix"), at.mul(panel, size), I8)
            for order in range(DIGITS):
                tiles.zero(order)
            with w.loop(zero, until) as step:
                done = at.mul(step, number(DIGITS * TILE))
                _add_products(w, tiles, w.place(left, done, I8), w.place(right, done, I8))
                # While tiles multiply, vectors end what was summed before.
                line = at.mul(step, per_step)
                pending.end(line, at.add(line, per_step))
            # What is left if nothing was multiplied.
            pending.end(at.mul(until, per_step), number(SIDE))
            for order in range(DIGITS):
                tiles.store(order, w.place(sums, number(order * SIDE * SIDE), I32))
        before(count).end(zero, number(SIDE))

    tiles.begin()
    yield meet
    tiles.end()


def divided(w: Writer, count: Any, size: Any) -> Any:
    """How many parts of a size something has."""
    return w.at.sdiv(w.at.add(count, w.at.sub(size, w.number(1))), size)


def _add_products(w: Writer, tiles: Tiles, rows: Any, columns: Any) -> None:
    """Adds products of a step's digits to the sums of their order."""
    for digit in range(DIGITS):
        tiles.load(_ROWS[digit], w.place(rows, w.number(digit * TILE), I8))
        tiles.load(_COLUMNS[digit], w.place(columns, w.number(digit * TILE), I8))
        for row, column in _PAIRS[digit]:
            tiles.multiply_add(row + column, _ROWS[row], _COLUMNS[column])


def _joined(w: Writer, sums: Any) -> Any:
    """A line of the sums, as floats in which first digits are whole numbers."""
    at = w.at
    places = [w.place(sums, w.number(order * SIDE * SIDE), I32) for order in range(DIGITS)]
    parts = [at.sitofp(at.load(place, typ=w.whole, align=DEPTH), w.vector) for place in places]
    total = parts.pop()
    while parts:
        total = w.multiply_add(total, w.every(1 / BASE), parts.pop())
    return total

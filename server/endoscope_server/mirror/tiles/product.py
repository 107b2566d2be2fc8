"""Rows times a constant matrix.

Blocks of rows and panels of columns, 16 of each, meet in sums of 32 bits: one for the products of first
digits, one for those a digit less, and one for those two less. What is smaller rounds off, as in float32: of
normally distributed numbers the error is 1.1 times that of sums of floats, and 10 times where the largest
number of a row is a hundred times the others (measured). Inputs are weighed so that each has a weight of
about 1 somewhere, which keeps large inputs that matter little from spoiling the rest.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.compiling.arena import Buffer, View
from endoscope_server.mirror.compiling.machine import Machine, machine
from endoscope_server.mirror.compiling.program import Field, Operation, Program
from endoscope_server.mirror.compiling.writing import END, FLOAT, HEAD, I8, I32, KERNEL, Writer
from endoscope_server.mirror.tiles import digits
from endoscope_server.mirror.tiles.digits import BASE, DIGITS
from endoscope_server.mirror.tiles.instructions import DEPTH, SIDE, TILE, Tiles, available

FIELDS = (
    *HEAD,
    *("chunk", "blocks", "group", "panels", "steps", "lines", "rows"),
    *("digits", "scales", "matrix", "matrix_scales", "bias", "bias_apart"),
    *END,
)
"""Units are a group of panels and a chunk of blocks of rows; ``steps`` are blocks of inputs, beside
each of which so many ``lines`` are ended. ``bias_apart`` is
1, or 0 where all columns have the same."""

# The most inputs whose sums surely fit in 32 bits.
_MOST_INPUTS = 1 << 15
# Factors of inputs are 1 and less, but no less than 2 to the power of this, so that nothing overflows.
_LEAST_EXPONENT = -60
# Less than any number's.
_NO_EXPONENT = -1000
# Bytes of a group's panels, which stay in a core's own cache for a chunk of rows.
_GROUP = 1 << 20
# Blocks of rows of a chunk, at most: threads that are done take chunks of others.
_CHUNK = 32
_NO_BIAS = torch.zeros(SIDE)

# Registers: first come the sums, then digits of rows, then those of columns, the third where the second was.
_ROWS, _COLUMNS = (3, 4, 5), (6, 7, 7)
# Of rows and of columns: digits that are multiplied once so many of both are there.
_PAIRS = (((0, 0),), ((1, 0), (0, 1), (1, 1)), ((2, 0), (0, 2)))


class Packed(NamedTuple):
    """A matrix, ready to be multiplied by.

    Attributes:
        digits: Of its rows, in the order in which tiles take them.
        scales: What the first digit of each of its rows is multiplied by.
        factors: What each input is multiplied by before it is cut, a power of two.
    """

    digits: Tensor
    scales: Tensor
    factors: Tensor


def fits(matrix: Tensor) -> bool:
    """Whether a matrix (outputs x inputs) can be packed."""
    outputs, inputs = matrix.shape
    whole = outputs % SIDE == 0 and inputs % SIDE == 0 and 0 < inputs <= _MOST_INPUTS
    plain = matrix.dtype == torch.float32 and matrix.device.type == "cpu"
    return available() and whole and plain and bool(matrix.isfinite().all())


def build(machine: Machine) -> ir.Module:
    """The kernel."""
    module = ir.Module()
    w = Writer(machine, module, "product", KERNEL, FIELDS)
    at, number, tiles = w.at, w.number, Tiles(w, module)
    w.read_end()
    blocks, chunk, panels, group = (w.field(name) for name in ("blocks", "chunk", "panels", "group"))
    steps, lines, zero = w.field("steps"), w.field("lines"), number(0)
    size = at.mul(steps, number(DIGITS * TILE))
    memory = at.alloca(ir.ArrayType(I32, 2 * DIGITS * SIDE * SIDE))
    memory.align = DEPTH
    chunks = at.sdiv(at.add(blocks, at.sub(chunk, number(1))), chunk)
    tiles.begin()
    with w.units() as unit:
        first, start = at.mul(at.sdiv(unit, chunks), group), at.mul(at.srem(unit, chunks), chunk)
        width = at.sub(w.minimum(at.add(first, group), panels), first)
        height = at.sub(w.minimum(at.add(start, chunk), blocks), start)
        count = at.mul(height, width)

        def place(index: Any) -> tuple[Any, Any, Any]:
            """Which block and panel meet, and where their sums go: by turns to one place and another."""
            block, panel = at.add(start, at.sdiv(index, width)), at.add(first, at.srem(index, width))
            turn = at.and_(index, number(1))
            return block, panel, w.place(memory, at.mul(turn, number(DIGITS * SIDE * SIDE)), I32)

        with w.loop(zero, count) as index:
            block, panel, sums = place(index)
            pending = _Lines(w, *place(at.sub(index, number(1))), at.icmp_signed(">", index, zero))
            left = w.place(w.pointer("digits"), at.mul(block, size), I8)
            right = w.place(w.pointer("matrix"), at.mul(panel, size), I8)
            for order in range(DIGITS):
                tiles.zero(order)
            with w.loop(zero, steps) as step:
                done = at.mul(step, number(DIGITS * TILE))
                _add_products(w, tiles, w.place(left, done, I8), w.place(right, done, I8))
                # While tiles multiply, vectors end what was summed before.
                line = at.mul(step, lines)
                pending.end(line, at.add(line, lines))
            for order in range(DIGITS):
                tiles.store(order, w.place(sums, number(order * SIDE * SIDE), I32))
        _Lines(w, *place(at.sub(count, number(1))), at.icmp_signed(">", count, zero)).end(zero, number(SIDE))
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
        block: Which block.
        panel: Which panel.
        sums: Where the sums are.
        present: Whether there are any.
    """

    def __init__(self, w: Writer, block: Any, panel: Any, sums: Any, present: Any) -> None:
        at, zero = w.at, w.number(0)
        self._w, self._sums = w, sums
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
            w.end([row], [self._column], w.plus_other([row], [self._column], [total]))


def _joined(w: Writer, sums: Any) -> Any:
    """A line of the sums, as floats in which first digits are whole numbers."""
    at, whole = w.at, ir.VectorType(I32, w.lanes)
    smaller = ir.Constant(w.vector, [1 / BASE] * w.lanes)
    places = [w.place(sums, w.number(order * SIDE * SIDE), I32) for order in range(DIGITS)]
    parts = [at.sitofp(at.load(place, typ=whole, align=DEPTH), w.vector) for place in places]
    total = parts.pop()
    while parts:
        total = w.multiply_add(total, smaller, parts.pop())
    return total


def _processor() -> Machine:
    found = machine()
    assert found is not None
    return found


def _memory(size: int, outside: bool = True) -> View:
    """So many times four bytes."""
    return View(Buffer(size, outside=outside), (1, size, 1, 1), size)


def _cutting_operation(rows: int, inputs: int, cut: View, scales: View) -> Operation:
    """Outside are the rows, the factors of inputs, and at last whether all is finite."""
    fields: dict[str, Field] = {
        "units": -(-rows // SIDE),
        "rows": rows,
        "inputs": inputs,
        "input": _memory(rows * inputs),
        "factors": _memory(inputs),
        "digits": cut,
        "scales": scales,
        "not_finite": _memory(2),
    }
    return Operation(digits.build, (), digits.FIELDS, fields)


@functools.lru_cache(maxsize=64)
def _cutting(processor: Machine, rows: int, inputs: int) -> Program:
    """Outside are the rows, the factors, digits, scales, and whether all is finite."""
    cut, scales = _memory(digits.size(rows, inputs) // 4), _memory(rows)
    return Program(processor, [_cutting_operation(rows, inputs, cut, scales)], [], [])


@functools.lru_cache(maxsize=256)
def _program(
    processor: Machine,
    threads: int,
    shape: tuple[int, int, int],
    ends: tuple[bool, bool, float, float],
) -> Program:
    """The product of so many rows with so many inputs and columns; with biases, something added, and bounds.

    Outside are the rows, the factors of inputs, whether all is finite, the matrix's digits and scales,
    biases, the result, and what is added.
    """
    rows, inputs, columns = shape
    biased, added, low, high = ends
    blocks, steps, panels = -(-rows // SIDE), -(-inputs // DEPTH), columns // SIDE
    cut, scales = _memory(digits.size(rows, inputs) // 4, False), _memory(blocks * SIDE, False)
    rounds = max(1, round(panels * steps * DIGITS * TILE / threads / _GROUP))
    group, chunk = -(-panels // (threads * rounds)), -(-blocks // -(-blocks // _CHUNK))
    fields: dict[str, Field] = {
        "units": -(-panels // group) * -(-blocks // chunk),
        "chunk": chunk,
        "blocks": blocks,
        "group": group,
        "panels": panels,
        "steps": steps,
        "lines": -(-SIDE // steps),
        "rows": rows,
        "digits": cut,
        "scales": scales,
        "matrix": _memory(digits.size(columns, inputs) // 4),
        "matrix_scales": _memory(columns),
        "bias": _memory(columns),
        "bias_apart": int(biased),
        **dict.fromkeys(END),
        "other": _memory(rows * columns) if added else None,
        "other_row": columns,
        "out": _memory(rows * columns),
        "out_row": columns,
        "low": low,
        "high": high,
        "mark_high": math.nan,
    }
    cutting = _cutting_operation(rows, inputs, cut, scales)
    return Program(processor, [cutting, Operation(build, (), FIELDS, fields)], [], [])


def _pack(matrix: Tensor) -> Packed:
    outputs, inputs = matrix.shape
    largest = matrix.abs().amax(0)
    exponents = torch.where(largest > 0, torch.frexp(largest).exponent, _NO_EXPONENT)
    factors = torch.ldexp(torch.ones(inputs), (exponents - exponents.max()).clamp(min=_LEAST_EXPONENT))
    cut, scales = torch.empty(digits.size(outputs, inputs), dtype=torch.int8), torch.empty(outputs)
    not_finite = torch.zeros(1, dtype=torch.int64)
    given = (matrix.contiguous(), 1 / factors, cut, scales, not_finite)
    _cutting(_processor(), outputs, inputs).run([], outside=[tensor.data_ptr() for tensor in given])
    # A line of a tile has four digits of each row, instead of all of one row.
    return Packed(cut.view(torch.int32).view(-1, SIDE, DEPTH // 4).mT.contiguous(), scales, factors)


def _product(
    x: Tensor,
    matrix: Tensor,
    cut: Tensor,
    scales: Tensor,
    factors: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    low: float,
    high: float,
) -> Tensor:
    rows, inputs = x.shape
    out = x.new_empty(rows, len(matrix))
    not_finite = torch.zeros(1, dtype=torch.int64)
    ends = bias is not None, other is not None, low, high
    program = _program(_processor(), torch.get_num_threads(), (rows, inputs, len(matrix)), ends)
    given = [x, factors, not_finite, cut, scales, _NO_BIAS if bias is None else bias]
    given += [out] if other is None else [out, other]
    program.run(program.allocate(), outside=[tensor.data_ptr() for tensor in given])
    if not not_finite.item():
        return out
    exact = functional.linear(x, matrix, bias)
    return (exact if other is None else exact + other).clamp_(low, high)


# Operators of torch's, so that they can be taken down and done again with the others.
_library = torch.library.Library("endoscope", "FRAGMENT")
_library.define("pack_matrix(Tensor matrix) -> (Tensor, Tensor, Tensor)")
_library.impl("pack_matrix", _pack, "CPU")
_library.define(
    "tiled(Tensor rows, Tensor matrix, Tensor digits, Tensor scales, Tensor factors, Tensor? bias,"
    " Tensor? other, float low, float high) -> Tensor"
)
_library.impl("tiled", _product, "CPU")


def pack(matrix: Tensor) -> Packed:
    """A matrix (outputs x inputs) that fits."""
    return Packed(*torch.ops.endoscope.pack_matrix(matrix))


def product(
    x: Tensor,
    matrix: Tensor,
    packed: Packed,
    bias: Tensor | None = None,
    other: Tensor | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Tensor:
    """Rows times a matrix.

    Args:
        x: Rows x inputs, float32 as everything, and contiguous.
        matrix: Outputs x inputs.
        packed: The same, packed.
        bias: One for each output, or None.
        other: What is added, rows x outputs and contiguous, or None.
        bounds: What the sum is clipped to.

    Returns:
        Rows x outputs. A row's values depend on nothing but that row, the matrix, and what is added.
    """
    found: Tensor = torch.ops.endoscope.tiled(x, matrix, *packed, bias, other, *bounds)
    return found

"""Kernels written in LLVM's intermediate representation: what all of them need.

A kernel is a function of one operation (:mod:`endoscope_server.mirror.compiling.program`), an array of 64-bit
fields that it reads by name. All threads call it with the same operation, and take units of its work until
none is left.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llvmlite import ir

from endoscope_server.mirror.compiling.machine import Machine

I8, I32, I64, FLOAT, POINTER = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.PointerType()

HEAD = ("function", "wait", "counters", "units")
"""Fields that all operations begin with: the kernel's address, whether threads wait for each other after it,
the address of the threads' counters, and how many units of work there are."""

KERNEL = (POINTER, I64, I64)
"""A kernel's arguments: the operation, the thread's number and how many there are."""

APART = 8
"""Counters lie in cache lines of their own: so many numbers of 64 bits from one to the next."""

END = (
    *("out", "out_row", "other", "other_row", "mask", "mask_row", "marks", "marks_row"),
    *("low", "high", "mark_high"),
)
"""Fields that tell where results go and what happens on the way.

They are the address of the result and the numbers from one pixel to the next; the same of what is added, of
marks of elements that are kept where others become zero, and of marks that are to be made, or 0; the bounds
that results are clipped to, and the upper one for marks, which is no number where there is none. Marked are
elements within the bounds, by one bit each."""

GATHERED = ("input", "input_row", "input_image", "table", "table_row", "zeros")
"""Fields that tell where a table's pixels are: the input's address, its numbers from one pixel to the next
and from one image to the next; the table and its entries from one row to the next; and what stands for
padding."""

_NUMBERS = ("low", "high", "mark_high")


def mark_bytes(machine: Machine) -> int:
    """How many bytes a vector's marks have."""
    return max(1, machine.lanes // 8)


class Writer:
    """A function in the making.

    Args:
        machine: The processor.
        module: What the function belongs to.
        name: Its name.
        arguments: The types of its arguments.
        fields: Names of the operation's fields, if the first argument is one.
    """

    def __init__(
        self,
        machine: Machine,
        module: ir.Module,
        name: str,
        arguments: Sequence[ir.Type],
        fields: Sequence[str] = (),
    ) -> None:
        self.lanes = machine.lanes
        self.vector, self.whole = (ir.VectorType(kind, machine.lanes) for kind in (FLOAT, I32))
        self._marks = ir.IntType(8 * mark_bytes(machine))
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
        self.arguments = self.function.args
        self.at = ir.IRBuilder(self.function.append_basic_block("entry"))
        self._fields = {name: index for index, name in enumerate(fields)}
        self._module = module
        self._read: dict[str, Any] = {}

    def finish(self) -> ir.Function:
        """The function."""
        self.at.ret_void()
        return self.function

    def number(self, value: int) -> ir.Constant:
        """A constant of 64 bits."""
        return ir.Constant(I64, value)

    def read_end(self) -> None:
        """Reads what ``end`` needs now, for kernels that end often."""
        for name in END:
            self._read[name] = self.bound(name) if name in _NUMBERS else self.field(name)

    def field(self, name: str) -> Any:
        """A field of the operation."""
        if name in self._read:
            return self._read[name]
        place = self.at.gep(self.arguments[0], [self.number(self._fields[name])], source_etype=I64)
        return self.at.load(place, typ=I64)

    def pointer(self, name: str) -> Any:
        """A field that is an address."""
        return self.at.inttoptr(self.field(name), POINTER)

    def bound(self, name: str) -> Any:
        """A field that is a number of 32 bits, in all lanes."""
        if name in self._read:
            return self._read[name]
        return self.spread(self.at.bitcast(self.at.trunc(self.field(name), I32), FLOAT))

    def spread(self, value: Any) -> Any:
        """A number in all lanes."""
        one = self.at.insert_element(ir.Constant(self.vector, ir.Undefined), value, ir.Constant(I32, 0))
        return self.at.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), self.every(0))

    def every(self, value: float) -> ir.Constant:
        """A constant in all lanes: of 32 bits, and whole if it is an ``int``."""
        return ir.Constant(self.whole if isinstance(value, int) else self.vector, [value] * self.lanes)

    def absolute(self, x: Any) -> Any:
        """Numbers without their signs."""
        bits = self.at.and_(self.at.bitcast(x, self.whole), self.every(0x7FFFFFFF))
        return self.at.bitcast(bits, self.vector)

    def nearest(self, x: Any) -> Any:
        """The whole numbers nearest to numbers, as floats."""
        return self.intrinsic(f"rint.v{self.lanes}f32", self.vector, [x])

    def largest(self, x: Any) -> Any:
        """The largest of whole numbers, signed."""
        return self.intrinsic(f"vector.reduce.smax.v{self.lanes}i32", I32, [x])

    def memory(self, count: Any, kind: ir.Type = FLOAT) -> Any:
        """Memory for so many elements while the function runs, from a cache line on; not within loops."""
        found = self.at.alloca(kind, size=count)
        found.align = 64
        # Else it were an address of such elements only.
        return self.at.inttoptr(self.at.ptrtoint(found, I64), POINTER)

    def place(self, pointer: Any, index: Any, kind: ir.Type = FLOAT) -> Any:
        """The address of an element."""
        return self.at.gep(pointer, [index], source_etype=kind)

    def load(self, pointer: Any, index: Any) -> Any:
        """A vector from an address, ``index`` numbers on."""
        return self.at.load(self.place(pointer, index), typ=self.vector, align=4)

    def store(self, value: Any, pointer: Any, index: Any) -> None:
        """Writes a vector."""
        self.at.store(value, self.place(pointer, index), align=4)

    def cell(self, pixel: Any, row: Any, column: Any) -> Any:
        """Where a column of a pixel is, in rows of so many elements."""
        return self.at.add(self.at.mul(pixel, row), column)

    def gathered(self, x: Any, entry: Any, row: Any, padding: Any, kind: ir.Type = FLOAT) -> Any:
        """The address of the pixel that a table's entry tells, or of what stands for padding."""
        outside = self.at.icmp_signed("<", entry, self.number(0))
        return self.at.select(outside, padding, self.place(x, self.at.mul(entry, row), kind))

    def note(self, x: Any, entries: Any, count: Any, targets: Any) -> None:
        """Writes down where the pixels are that so many of a table's entries tell."""
        row, zeros = self.field("input_row"), self.pointer("zeros")
        with self.loop(self.number(0), count) as index:
            source = self.gathered(x, self.integer(entries, index), row, zeros)
            self.at.store(self.at.ptrtoint(source, I64), self.place(targets, index, I64))

    def noted(self, places: Any, index: Any) -> Any:
        """An address that was written down."""
        return self.at.inttoptr(self.at.load(self.place(places, index, I64), typ=I64), POINTER)

    def block(self, unit: Any) -> tuple[Any, Any, Any, Any]:
        """What a unit that is an image's block of pixels stands for.

        Returns:
            The image, its memory in the input, and the block's first pixel and the one after its last.
        """
        at, blocks, block = self.at, self.field("blocks"), self.field("block")
        image, first = at.sdiv(unit, blocks), at.mul(at.srem(unit, blocks), block)
        last = self.minimum(at.add(first, block), self.field("pixels"))
        x = self.place(self.pointer("input"), at.mul(image, self.field("input_image")))
        return image, x, first, last

    def integer(self, pointer: Any, index: Any) -> Any:
        """An integer of 32 bits, signed, as one of 64."""
        return self.at.sext(self.at.load(self.place(pointer, index, I32), typ=I32), I64)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """A times b plus c, rounded once."""
        return self.intrinsic(f"fma.v{self.lanes}f32", self.vector, [a, b, c])

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[Any]) -> Any:
        """What one of LLVM's own functions gives."""
        full = f"llvm.{name}"
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = self._module.globals.get(full) or ir.Function(self._module, kind, full)
        return self.at.call(function, arguments)

    @contextlib.contextmanager
    def loop(self, start: Any, end: Any, step: int = 1, whole: bool = False) -> Iterator[Any]:
        """Code for each number from ``start`` on below ``end``; if ``whole`` only while a whole step is left.

        Afterwards ``after`` is the first number that wasn't reached.
        """
        with self.accumulating(start, end, (), step, whole) as (index, _):
            yield index

    @contextlib.contextmanager
    def accumulating(
        self, start: Any, end: Any, values: Sequence[Any], step: int = 1, whole: bool = False
    ) -> Iterator[tuple[Any, list[Any]]]:
        """A loop that carries values on: the block replaces them in the list it gets.

        Afterwards they are in ``carried``; all else is as for ``loop``.
        """
        at = self.at
        before = at.block
        head, body, done = (at.append_basic_block(name) for name in ("loop", "body", "done"))
        at.branch(head)
        at.position_at_end(head)
        index, *phis = (at.phi(kind) for kind in (I64, *[value.type for value in values]))
        for phi, value in zip((index, *phis), (start, *values), strict=True):
            phi.add_incoming(value, before)
        limit = at.add(index, self.number(step)) if whole else index
        at.cbranch(at.icmp_signed("<=" if whole else "<", limit, end), body, done)
        at.position_at_end(body)
        current = list(phis)
        yield index, current
        following = at.add(index, self.number(step))
        for phi, value in zip((index, *phis), (following, *current), strict=True):
            phi.add_incoming(value, at.block)
        at.branch(head)
        at.position_at_end(done)
        self.after, self.carried = index, phis

    @contextlib.contextmanager
    def units(self) -> Iterator[Any]:
        """Code for each unit of work that this thread gets.

        They are those of its own part, which read what it wrote before, and then what others left of theirs.
        """
        at, count = self.at, self.field("units")
        _, thread, threads = self.arguments
        counters = self.pointer("counters")
        with self.loop(thread, at.add(thread, threads)) as turn:
            part = at.srem(turn, threads)
            first, last = (
                at.sdiv(at.mul(count, number), threads) for number in (part, at.add(part, self.number(1)))
            )
            counter = self.place(counters, at.mul(part, self.number(APART)), I64)
            head, body, done = (at.append_basic_block(name) for name in ("next", "unit", "none"))
            at.branch(head)
            at.position_at_end(head)
            index = at.add(first, at.atomic_rmw("add", counter, self.number(1), "monotonic"))
            at.cbranch(at.icmp_signed("<", index, last), body, done)
            at.position_at_end(body)
            yield index
            at.branch(head)
            at.position_at_end(done)

    def minimum(self, a: Any, b: Any) -> Any:
        """The smaller of two integers."""
        return self.at.select(self.at.icmp_signed("<", a, b), a, b)

    def plus_other(self, pixels: Sequence[Any], columns: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        """Values and what is to be added; arguments as for ``end``."""
        other, row = self.pointer("other"), self.field("other_row")
        return self.either(
            self.at.icmp_signed("!=", self.field("other"), self.number(0)),
            lambda: [
                self.at.fadd(value, self.load(other, self.cell(pixel, row, column)))
                for (pixel, column), value in zip(itertools.product(pixels, columns), values, strict=True)
            ],
            lambda: values,
        )

    def end(self, pixels: Sequence[Any], columns: Sequence[Any], values: Sequence[Any]) -> None:
        """Clips, marks, masks and stores results, see ``END``.

        Args:
            pixels: Their rows.
            columns: Where in each row vectors begin.
            values: A vector for each pixel and column, the columns of a pixel together.
        """
        at, places = self.at, list(itertools.product(pixels, columns))
        low, high, mark_high = (self.bound(name) for name in _NUMBERS)
        values = [self._clipped(value, low, high) for value in values]
        with at.if_then(at.icmp_signed("!=", self.field("marks"), self.number(0))):
            for (pixel, column), value in zip(places, values, strict=True):
                outside = at.or_(at.fcmp_ordered("<=", value, low), at.fcmp_ordered(">=", value, mark_high))
                at.store(self._packed(at.not_(outside)), self._mark("marks", pixel, column), align=1)
        zeros = self.every(0.0)
        values = self.either(
            at.icmp_signed("!=", self.field("mask"), self.number(0)),
            lambda: [
                at.select(self._unpacked(self._mark("mask", pixel, column)), value, zeros)
                for (pixel, column), value in zip(places, values, strict=True)
            ],
            lambda: values,
        )
        self.store_all(pixels, columns, values)

    def _mark(self, name: str, pixel: Any, column: Any) -> Any:
        """Where a vector's marks lie."""
        at = self.at
        vector = at.sdiv(column, self.number(self.lanes))
        index = self.cell(pixel, self.field(f"{name}_row"), vector)
        return self.place(self.pointer(name), index, self._marks)

    def _packed(self, bits: Any) -> Any:
        one = self.at.bitcast(bits, ir.IntType(self.lanes))
        return one if self.lanes >= 8 else self.at.zext(one, self._marks)

    def _unpacked(self, pointer: Any) -> Any:
        one = self.at.load(pointer, typ=self._marks, align=1)
        one = one if self.lanes >= 8 else self.at.trunc(one, ir.IntType(self.lanes))
        return self.at.bitcast(one, ir.VectorType(ir.IntType(1), self.lanes))

    def store_all(self, pixels: Sequence[Any], columns: Sequence[Any], values: Sequence[Any]) -> None:
        """Stores results as they are; arguments as for ``end``."""
        out, row = self.pointer("out"), self.field("out_row")
        for (pixel, column), value in zip(itertools.product(pixels, columns), values, strict=True):
            self.store(value, out, self.cell(pixel, row, column))

    def stored(self, pixels: Sequence[Any], columns: Sequence[Any]) -> list[Any]:
        """What ``store_all`` stored."""
        out, row = self.pointer("out"), self.field("out_row")
        return [
            self.load(out, self.cell(pixel, row, column))
            for pixel, column in itertools.product(pixels, columns)
        ]

    def either(
        self, condition: Any, yes: Callable[[], Sequence[Any]], no: Callable[[], Sequence[Any]]
    ) -> list[Any]:
        """What one of two pieces of code gives."""
        at = self.at
        with at.if_else(condition) as (then, otherwise):
            with then:
                first, first_block = yes(), at.block
            with otherwise:
                second, second_block = no(), at.block
        results = []
        for one, other in zip(first, second, strict=True):
            phi = at.phi(one.type)
            phi.add_incoming(one, first_block)
            phi.add_incoming(other, second_block)
            results.append(phi)
        return results

    def fetch(self, pointer: Any) -> None:
        """Brings memory nearer that will be read."""
        # For reading, to be kept for a while, data.
        hints = [ir.Constant(I32, number) for number in (0, 2, 1)]
        self.intrinsic("prefetch.p0", ir.VoidType(), [pointer, *hints])

    def _clipped(self, value: Any, low: Any, high: Any) -> Any:
        # So compared, what is not a number stays so.
        value = self.at.select(self.at.fcmp_ordered("<", value, low), low, value)
        return self.at.select(self.at.fcmp_ordered(">", value, high), high, value)

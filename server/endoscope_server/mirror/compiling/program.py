"""Operations in order, which all threads go through together."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.mirror.compiling.arena import Buffer, View, place
from endoscope_server.mirror.compiling.machine import Machine, address, openmp
from endoscope_server.mirror.compiling.writing import APART, HEAD, I32, I64, KERNEL, POINTER, Writer

Field = int | float | View | Tensor | NDArray[Any] | None

_CONSTANT, _MEMORY = range(2)
_FRAME = ("count", "size", "operations", "threads", "number", "barrier")


UNITS = 12
"""So many units of work at least, if there is enough: a disturbed thread leaves the rest to others."""


def shared(count: int, others: int, most: int) -> int:
    """How many of a count a unit takes, at most so many, when there are units for each of so many others."""
    while most > 1 and others * -(-count // most) < UNITS:
        most = -(-most // 2)
    return most


@dataclass(frozen=True, eq=False)
class Operation:
    """A kernel and what it works on.

    Attributes:
        build: Writes the kernel, see :func:`endoscope_server.mirror.compiling.machine.address`.
        arguments: What the kernel is made for.
        names: Its fields.
        fields: Their values: integers, numbers of 32 bits, maps, or constants in memory; None for address 0.
        wait: Whether what follows needs its results.
    """

    build: Callable[..., ir.Module]
    arguments: tuple[int, ...]
    names: Sequence[str]
    fields: Mapping[str, Field]
    wait: bool = True

    def views(self) -> list[View]:
        """The maps that it reads and writes."""
        return [value for value in self.fields.values() if isinstance(value, View)]


class Program:
    """Operations compiled, and their memory planned.

    Args:
        machine: The processor.
        operations: In order.
        given: Buffers that are written before it runs.
        taken: Buffers that are read after it.
        before: The forward pass's program, if it is a backward pass.

    Attributes:
        blocks: Of how many blocks its memory is.
        passing: How many of them, the first ones, a backward pass doesn't read.
    """

    def __init__(
        self,
        machine: Machine,
        operations: Sequence[Operation],
        given: Sequence[Buffer],
        taken: Sequence[Buffer],
        before: Program | None = None,
    ) -> None:
        self._sizes, self.passing = _plan(operations, before is not None, given, taken)
        self.blocks = len(self._sizes)
        self._before = before
        width = max(len(operation.names) for operation in operations)
        self._values = np.zeros((len(operations), width), np.int64)
        self._kinds = np.zeros((len(operations), width), np.int64)
        self._held: list[Any] = []
        for index, operation in enumerate(operations):
            kernel = address(operation.build, machine, *operation.arguments)
            head: dict[str, Field] = {"function": kernel, "wait": int(operation.wait), "counters": 0}
            for column, name in enumerate(operation.names):
                kind, value = self._encoded(head[name] if name in head else operation.fields[name])
                self._kinds[index, column], self._values[index, column] = kind, value
        self._places = np.flatnonzero(self._kinds)
        self._blocks = self._kinds.reshape(-1)[self._places] - _MEMORY
        self._worker = address(build, machine)
        library = openmp()
        assert library is not None
        self._parallel = library.GOMP_parallel
        self._symbols = tuple(_address(library, name) for name in ("omp_get_thread_num", "GOMP_barrier"))

    @property
    def size(self) -> int:
        """Bytes of its tables."""
        arrays = [
            value if value.base is None else value.base
            for value in self._held
            if isinstance(value, np.ndarray)
        ]
        tables = {id(value): value.nbytes for value in arrays}
        return sum(tables.values()) + self._values.nbytes * 2

    def allocate(self) -> list[Tensor]:
        """Memory to run in."""
        return [torch.empty(size) for size in self._sizes]

    def kept(self, memory: Sequence[Tensor]) -> Sequence[Tensor]:
        """What of the memory a backward pass reads."""
        return memory[self.passing :]

    def run(
        self,
        memory: Sequence[Tensor],
        kept: Sequence[Tensor] = (),
        outside: Sequence[int] = (),
        threads: int = 0,
    ) -> None:
        """Runs the operations.

        Args:
            memory: What ``allocate`` gave.
            kept: What was kept of the forward pass's memory, if this is a backward pass.
            outside: Addresses of the buffers that are somebody else's, in their order.
            threads: How many; 0 for as many as torch takes.
        """
        count, threads = len(self._values), threads or torch.get_num_threads()
        counters = np.zeros((count, threads * APART), np.int64)
        starts = np.array([block.data_ptr() for block in (*kept, *memory)] + [*outside], np.int64)
        fields = self._values.copy()
        fields.reshape(-1)[self._places] += starts[self._blocks]
        fields[:, HEAD.index("counters")] = counters.ctypes.data + np.arange(count) * counters.strides[0]
        frame = np.array([count, fields.shape[1], fields.ctypes.data, threads, *self._symbols], np.int64)
        worker, frame_at = ctypes.c_void_p(self._worker), ctypes.c_void_p(frame.ctypes.data)
        self._parallel(worker, frame_at, threads, 0)

    def _encoded(self, value: Field) -> tuple[int, int]:
        if value is None:
            return _CONSTANT, 0
        if isinstance(value, int):
            return _CONSTANT, value
        if isinstance(value, float):
            return _CONSTANT, struct.unpack("<i", struct.pack("<f", value))[0]
        if isinstance(value, View):
            block, place = value.buffer.block, value.buffer.offset * 4 + value.first * value.width
            if self._before is not None:
                before = self._before
                block += before.blocks - before.passing if value.buffer.backward else -before.passing
            return _MEMORY + block, place
        self._held.append(value)
        return _CONSTANT, value.data_ptr() if isinstance(value, Tensor) else value.ctypes.data


def _plan(
    operations: Sequence[Operation], backward: bool, given: Sequence[Buffer], taken: Sequence[Buffer]
) -> tuple[list[int], int]:
    """Places the buffers. Operations that don't wait for each other count as one."""
    spans: dict[Buffer, tuple[int, int]] = dict.fromkeys(given, (-1, -1))
    outside: dict[Buffer, None] = {}
    time = 0
    for operation in operations:
        for view in operation.views():
            if view.buffer.outside:
                outside[view.buffer] = None
            elif view.buffer.backward == backward:
                first, _ = spans.get(view.buffer, (time, time))
                spans[view.buffer] = first, time
        time += operation.wait
    for buffer, (first, _) in list(spans.items()):
        if buffer.kept or buffer in taken:
            spans[buffer] = first, time
    heirs = _heirs(operations, spans)
    sizes = place([(buffer, *span) for buffer, span in spans.items() if buffer not in heirs])
    for heir, buffer in heirs.items():
        heir.block, heir.offset = buffer.block, buffer.offset
    for number, buffer in enumerate(outside):
        buffer.block, buffer.offset = len(sizes[0]) + number, 0
    return sizes


def _heirs(operations: Sequence[Operation], spans: dict[Buffer, tuple[int, int]]) -> dict[Buffer, Buffer]:
    """Buffers that take the place of one which is read for the last time when they are written.

    That is what is added to a result, number by number where the result goes. The spans of buffers whose
    place is taken are made longer.
    """
    heirs: dict[Buffer, Buffer] = {}
    for operation in operations:
        out, other, x = (operation.fields.get(name) for name in ("out", "other", "input"))
        if not isinstance(out, View) or not isinstance(other, View) or not isinstance(x, View):
            continue
        heir, before = out.buffer, other.buffer
        buffer = heirs.get(before, before)
        alike = (out.shape, out.row, out.first, heir.size) == (
            other.shape,
            other.row,
            other.first,
            buffer.size,
        )
        free = before in spans and spans[before][1] == spans[heir][0] and not heir.kept and not buffer.kept
        # What the kernel reads elsewhere must not change meanwhile.
        if alike and free and heir not in heirs and heirs.get(x.buffer, x.buffer) is not buffer:
            heirs[heir] = buffer
            spans[buffer] = spans[buffer][0], spans[heir][1]
    return heirs


def build(machine: Machine) -> ir.Module:
    """What each thread does."""
    module = ir.Module()
    w = Writer(machine, module, "work", [POINTER], _FRAME)
    at = w.at
    operations, size, threads = w.pointer("operations"), w.field("size"), w.field("threads")
    number = at.inttoptr(w.field("number"), ir.FunctionType(I32, ()).as_pointer())
    barrier = at.inttoptr(w.field("barrier"), _kind())
    thread = at.sext(at.call(number, []), I64)
    with w.loop(w.number(0), w.field("count")) as index:
        operation = w.place(operations, at.mul(index, size), I64)
        kernel = at.inttoptr(at.load(operation, typ=I64), _kind(*KERNEL))
        at.call(kernel, [operation, thread, threads])
        waits = at.load(w.place(operation, w.number(HEAD.index("wait")), I64), typ=I64)
        with at.if_then(at.icmp_signed("!=", waits, w.number(0))):
            at.call(barrier, [])
    w.finish()
    return module


def _kind(*arguments: ir.Type) -> ir.Type:
    """A function without a result."""
    return ir.FunctionType(ir.VoidType(), arguments).as_pointer()


def _address(library: ctypes.CDLL, name: str) -> int:
    """Where a library's function is."""
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0

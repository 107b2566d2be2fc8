"""The instructions of tiles: eight registers of 16 lines of 64 bytes."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from endoscope_server.mirror.compiling.machine import machine
from endoscope_server.mirror.compiling.writing import I8, POINTER, Writer

SIDE = 16
"""Lines of a tile; also columns of the sums."""

DEPTH = 64
"""Bytes of a line: digits that are multiplied and summed at once."""

TILE = SIDE * DEPTH
"""Bytes of a tile."""

_REGISTERS = 8
# Linux: ask for the memory of tiles' states.
_ARCH_PRCTL, _REQUEST, _STATES = 158, 0x1023, 18


@functools.cache
def available() -> bool:
    """Whether the processor has tiles of integers and the system lets this process use them."""
    processor = machine()
    if processor is None or processor.lanes != SIDE or sys.platform != "linux":
        return False
    if platform.machine() != "x86_64" or not llvm.get_host_cpu_features().get("amx-int8"):
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _STATES) == 0


class Tiles:
    """Writes instructions of tiles, by their registers' numbers.

    Args:
        w: Where to.
        module: What the function belongs to.
    """

    def __init__(self, w: Writer, module: ir.Module) -> None:
        self._w, self._module = w, module
        self._line = w.number(DEPTH)

    def begin(self) -> None:
        """Makes all tiles whole; before any other."""
        sizes = [1, 0, *[0] * 14, *[DEPTH, 0] * _REGISTERS, *[0] * 16, *[SIDE] * _REGISTERS, *[0] * 8]
        kind = ir.ArrayType(I8, len(sizes))
        shape = ir.GlobalVariable(self._module, kind, "tile_shapes")
        shape.initializer, shape.global_constant, shape.align = ir.Constant(kind, sizes), True, DEPTH
        self._call("ldtilecfg", self._w.at.bitcast(shape, POINTER))

    def end(self) -> None:
        """Lets the tiles go; after all others."""
        self._call("tilerelease")

    def zero(self, tile: int) -> None:
        """Makes a tile zero."""
        self._call("tilezero", self._number(tile))

    def load(self, tile: int, pointer: Any) -> None:
        """From memory, line after line."""
        self._call("tileloadd64", self._number(tile), pointer, self._line)

    def store(self, tile: int, pointer: Any) -> None:
        """To memory, line after line."""
        self._call("tilestored64", self._number(tile), pointer, self._line)

    def multiply_add(self, sums: int, left: int, right: int) -> None:
        """Adds the product of signed bytes to sums of 32 bits.

        Lines of ``left`` are rows; a line of ``right`` has four digits of each of 16 columns.
        """
        self._call("tdpbssd", *map(self._number, (sums, left, right)))

    def _call(self, name: str, *arguments: Any) -> None:
        self._w.intrinsic(f"x86.{name}", ir.VoidType(), arguments)

    @staticmethod
    def _number(tile: int) -> ir.Constant:
        return ir.Constant(I8, tile)

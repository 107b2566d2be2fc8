"""Where the tensors of a program lie: in blocks of memory, in which places are used again."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

ALIGNMENT = 16
"""Numbers between places, so that each begins a cache line."""

# Larger blocks the C library would give back to the system and ask for again in each step.
_LARGEST = 6 << 20


@dataclass(eq=False)
class Buffer:
    """Memory of a program.

    Attributes:
        size: How many numbers it has room for.
        backward: Whether it is the backward pass's.
        kept: Whether it is read after the program.
        outside: Whether it is somebody else's, told when the program is run.
        block: In which block of memory it lies, once that is known.
        offset: Where it begins there.
    """

    size: int
    backward: bool = False
    kept: bool = False
    outside: bool = False
    block: int = -1
    offset: int = -1


@dataclass(frozen=True, eq=False)
class View:
    """A map, channels last: an image's pixels row by row, and each pixel's channels together.

    Marks are one, too, whose elements are the bits of a vector.

    Attributes:
        buffer: Where it lies.
        shape: Images, channels, height and width.
        row: Elements from one pixel to the next.
        first: Where it begins in the buffer, in elements.
        width: Bytes of an element.
    """

    buffer: Buffer
    shape: tuple[int, int, int, int]
    row: int
    first: int = 0
    width: int = 4

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.shape[2] * self.shape[3]

    def part(self, first: int, channels: int) -> View:
        """Some of the channels."""
        images, _, height, width = self.shape
        return View(self.buffer, (images, channels, height, width), self.row, self.first + first, self.width)

    def image(self, number: int) -> View:
        """One of the images."""
        _, *rest = self.shape
        first = self.first + number * self.pixels * self.row
        return View(self.buffer, (1, *rest), self.row, first, self.width)  # type: ignore[arg-type]

    def rows(self, first: int, last: int) -> View:
        """Some rows of a single image."""
        images, channels, height, width = self.shape
        if (first, last) == (0, height):
            return self
        start = self.first + first * width * self.row
        return View(self.buffer, (images, channels, last - first, width), self.row, start, self.width)

    def of(self, memory: Sequence[Tensor]) -> Tensor:
        """The map as a tensor, within the program's memory."""
        _, _, height, width = self.shape
        strides = (height * width * self.row, 1, width * self.row, self.row)
        return memory[self.buffer.block].as_strided(self.shape, strides, self.buffer.offset + self.first)


def plain(size: int, backward: bool = False, outside: bool = False) -> View:
    """So many numbers, or times four bytes, of no shape; see :class:`Buffer`."""
    return View(Buffer(size, backward, outside=outside), (1, size, 1, 1), size)


def place(buffers: Sequence[tuple[Buffer, int, int]]) -> tuple[list[int], int]:
    """Gives each buffer its block and its offset.

    Args:
        buffers: With the times at which each is first written and last read.

    Returns:
        How many numbers each block of memory has, those for what is kept last, and how many others there are.
    """
    blocks: list[_Block] = []
    passing = 0
    for buffer, first, last in sorted(buffers, key=lambda item: (item[0].kept, -item[0].size, item[1])):
        size = -(-buffer.size // ALIGNMENT) * ALIGNMENT
        for block in blocks:
            offset = block.room(size, first, last)
            if block.kept == buffer.kept and offset + size <= max(_LARGEST, block.size):
                break
        else:
            offset, block = 0, _Block(buffer.kept)
            blocks.append(block)
            passing += not buffer.kept
        buffer.block, buffer.offset = blocks.index(block), offset
        block.take(offset, size, first, last)
    return [block.size for block in blocks], passing


class _Block:
    """One piece of memory and what lies in it when."""

    def __init__(self, kept: bool) -> None:
        self.kept, self.size = kept, 0
        self._taken: list[tuple[int, int, int, int]] = []

    def room(self, size: int, first: int, last: int) -> int:
        """The lowest offset that is free from one time to another."""
        offset = 0
        for start, end, begins, ends in self._taken:
            if ends < first or last < begins or end <= offset:
                continue
            if start >= offset + size:
                break
            offset = end
        return offset

    def take(self, offset: int, size: int, first: int, last: int) -> None:
        """Uses memory."""
        bisect.insort(self._taken, (offset, offset + size, first, last))
        self.size = max(self.size, offset + size)

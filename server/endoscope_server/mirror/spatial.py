"""Windows that slide over the spatial axes: strides, dilations, and the ways in which ONNX pads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from endoscope_server.mirror.node import Node

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Window:
    """How a kernel slides, one entry a spatial axis.

    Attributes:
        kernel: Size of the kernel.
        strides: Steps between windows.
        dilations: Steps between the kernel's elements.
        pads: Elements added before and after.
        auto_pad: ``NOTSET`` if ``pads`` holds, else ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``.
        ceil: Whether a last window that is only partly filled counts.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads
    auto_pad: str
    ceil: bool

    @classmethod
    def from_node(cls, node: Node, kernel: Sequence[int]) -> Window:
        """The window of a convolution or pooling node."""
        rank = len(kernel)
        flat = node.attribute("pads") or [0] * (2 * rank)
        return cls(
            tuple(kernel),
            tuple(node.attribute("strides") or [1] * rank),
            tuple(node.attribute("dilations") or [1] * rank),
            tuple(zip(flat[:rank], flat[rank:], strict=True)),
            node.attribute("auto_pad", "NOTSET"),
            bool(node.attribute("ceil_mode", 0)),
        )

    @property
    def extents(self) -> tuple[int, ...]:
        """What a dilated kernel covers."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))

    @property
    def fixed(self) -> bool:
        """Whether the padding is the same for all sizes of the input."""
        return self.auto_pad not in ("SAME_UPPER", "SAME_LOWER")

    def padding(self, sizes: Sequence[int]) -> Pads:
        """Elements to add before and after each axis of an input of such sizes."""
        if self.auto_pad == "VALID":
            return ((0, 0),) * len(self.kernel)
        if self.fixed:
            return self.pads
        result = []
        for size, stride, extent in zip(sizes, self.strides, self.extents, strict=True):
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            half = total // 2
            result.append((half, total - half) if self.auto_pad == "SAME_UPPER" else (total - half, half))
        return tuple(result)

    def output_sizes(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """How many windows there are along each axis."""
        result = []
        for size, (before, after), stride, extent in zip(
            sizes, self.padding(sizes), self.strides, self.extents, strict=True
        ):
            room = size + before + after - extent
            count = (-(-room // stride) if self.ceil and self.fixed else room // stride) + 1
            # A window that would begin in the padding behind the input is none.
            if self.ceil and self.fixed and (count - 1) * stride >= size + before:
                count -= 1
            result.append(count)
        return tuple(result)


def symmetric(pads: Pads) -> tuple[int, ...] | None:
    """The padding as torch's operators take it, or None if the two ends differ."""
    if all(before == after for before, after in pads):
        return tuple(before for before, _ in pads)
    return None


def for_pad(pads: Pads) -> list[int]:
    """The padding in the order of ``torch.nn.functional.pad``: last axis first."""
    return [count for pair in reversed(pads) for count in pair]

"""Which kernels can be part of a program, and what they are for a form of their inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from endoscope_server.mirror.kernels import Kernel
from endoscope_server.mirror.kernels.activation import Activated
from endoscope_server.mirror.kernels.convolution import Convolution
from endoscope_server.mirror.kernels.elementwise import Sum
from endoscope_server.mirror.kernels.layout import Concatenation
from endoscope_server.mirror.kernels.linear import Linear
from endoscope_server.mirror.kernels.pooling import MaxPool, Mean
from endoscope_server.mirror.native import depthwise
from endoscope_server.mirror.native.emitter import Bounds
from endoscope_server.mirror.native.tables import Geometry

Shape = tuple[int, int, int, int]

# Kernels of pooling and of depthwise convolutions are written out tap by tap.
_MOST_TAPS = 49
# Kernels of depthwise convolutions are made for their steps: others than these are hardly used.
_LARGEST_STEP = 4
# So many entries a table may have.
_LARGEST_TABLE = 1 << 24
# So many numbers of a layer are no longer near when the next one reads them: of a batch, of an image.
_FAR = 1 << 20
_LARGE = 1 << 18
FEW_CHANNELS = 4
"""So many channels at most leave a vector mostly empty, so that taps or phases are taken together."""


class Misfit(Exception):
    """These inputs are none for a program."""


def is_supported(kernel: Any) -> bool:
    """Whether a kernel can be part of a program."""
    if isinstance(kernel, Convolution):
        weights = kernel.weights
        fits = weights.dtype == torch.float32 and len(weights.shape) == 4 and len(kernel.window.kernel) == 2
        few_taps = is_depthwise(kernel) and math.prod(kernel.window.kernel) <= _MOST_TAPS
        return fits and (kernel.groups == 1 or few_taps) and has_bounds(kernel)
    if isinstance(kernel, (Activated, Sum)):
        return has_bounds(kernel)
    if isinstance(kernel, MaxPool):
        return kernel.kernel[0] * kernel.kernel[1] <= _MOST_TAPS
    return isinstance(kernel, Concatenation) and kernel.axis in (1, -3)


def is_depthwise(kernel: Convolution) -> bool:
    """Whether each channel has a kernel of its own."""
    return kernel.groups == kernel.weights.shape[0] and kernel.weights.shape[1] == 1 and kernel.groups > 1


def has_bounds(kernel: Activated | Convolution | Linear | Sum) -> bool:
    """Whether what follows does nothing but to clip."""
    return kernel.activation is None or kernel.activation.bounds is not None


def bounds(kernel: Kernel) -> Bounds | None:
    """What the result is clipped to."""
    activation = getattr(kernel, "activation", None)
    return None if activation is None else activation.bounds


@dataclass(frozen=True, eq=False)
class Layer:
    """A kernel for inputs of certain shapes.

    Attributes:
        kernel: The kernel.
        inputs: Slots of its inputs.
        output: The slot of its result.
        shape: The result's shape.
        geometry: How its window moves; None if it has none.
        needs: Of which inputs gradients may be asked for.
    """

    kernel: Kernel
    inputs: tuple[int, ...]
    output: int
    shape: Shape
    geometry: Geometry | None
    needs: tuple[bool, ...]


def layer(
    kernel: Kernel, inputs: tuple[int, ...], output: int, needs: tuple[bool, ...], shapes: Sequence[Shape]
) -> Layer:
    """The layer that a kernel is for inputs of ``shapes``.

    Raises:
        Misfit: if it can't be one of a program.
    """
    first, added = shapes[0], shapes[1:]
    geometry, shape = None, first
    if isinstance(kernel, Convolution):
        geometry = _convolved(kernel, first)
        shape = (first[0], kernel.weights.shape[0], *geometry.result)
    elif isinstance(kernel, MaxPool):
        geometry = _pooled(kernel, first)
        shape = (*first[:2], *geometry.result)
    elif isinstance(kernel, Concatenation):
        if any((one[0], *one[2:]) != (first[0], *first[2:]) for one in shapes):
            raise Misfit
        shape, added = (first[0], sum(one[1] for one in shapes), *first[2:]), ()
    elif isinstance(kernel, Mean):
        if {2, 3} != {axis % 4 for axis in (kernel.axes or (2, 3))}:
            raise Misfit
        shape = (*first[:2], 1, 1)
    if min(shape) < 1 or any(one != shape for one in added):
        raise Misfit
    if geometry is not None and not _fits(kernel, geometry):
        raise Misfit
    return Layer(kernel, inputs, output, shape, geometry, needs)


def _convolved(kernel: Convolution, shape: Shape) -> Geometry:
    if shape[1] != kernel.weights.shape[1] * kernel.groups:
        raise Misfit
    window = kernel.window
    starts = tuple(before for before, _ in window.padding(shape[2:]))
    sizes = window.output_sizes(shape[2:])
    return _geometry(shape, sizes, window.kernel, window.strides, window.dilations, starts)


def _pooled(kernel: MaxPool, shape: Shape) -> Geometry:
    try:
        sizes = kernel.result(shape)[2:]
    except RuntimeError as error:
        # Computed otherwise, it is told which node fails.
        raise Misfit from error
    return _geometry(shape, sizes, kernel.kernel, kernel.strides, kernel.dilations, kernel.padding)


def _fits(kernel: Kernel, geometry: Geometry) -> bool:
    """Whether tables for a window are not too large."""
    if isinstance(kernel, Convolution) and is_depthwise(kernel):
        if max(*geometry.strides, *geometry.dilations) > _LARGEST_STEP:
            return False
        offsets = range(0, geometry.kernel[1] * geometry.dilations[1], geometry.dilations[1])
        if depthwise.met(geometry.kernel[0], geometry.strides[1], offsets) > depthwise.LARGEST:
            return False
    return _entries(geometry) <= _LARGEST_TABLE


def _entries(geometry: Geometry) -> int:
    """Entries of the larger one of a window's tables."""
    places = max(math.prod(geometry.size), math.prod(geometry.result))
    return places * math.prod(geometry.kernel)


def early(layers: Sequence[Layer], banded: bool) -> int:
    """How many layers, from the first, are better computed image by image, perhaps in bands.

    What a layer leaves for one image is still near when the next layer reads it, what it leaves for a batch
    isn't. Later layers have more weights than that, which are better read once for all images.
    """
    count = 0
    for number, one in enumerate(layers, 1):
        images, channels, height, width = one.shape
        numbers, read = channels * height * width, 0
        if isinstance(one.kernel, Convolution):
            assert one.geometry is not None
            numbers += one.kernel.weights.shape[1] * one.kernel.groups * math.prod(one.geometry.size)
            read = math.prod(one.kernel.weights.shape)
        far = (images > 1 and images * numbers > _FAR) or (banded and numbers > _LARGE)
        if far and numbers > read:
            count = number
    return count


def _geometry(shape: Shape, *pairs: Sequence[int]) -> Geometry:
    result, kernel, strides, dilations, starts = (tuple(int(n) for n in pair) for pair in pairs)
    return Geometry(shape[2:], result, kernel, strides, dilations, starts)  # type: ignore[arg-type]
